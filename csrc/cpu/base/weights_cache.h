// Keeps packed weights for inference. They are packed again when the bytes of the weights, their addresses or the
// instruction set differ from those that were packed. The bytes of trusted weights are not read again (see Trust).
#pragma once

#include <algorithm>
#include <compare>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "cpu/base/bf16_matrix.h"
#include "cpu/base/kernels.h"

namespace xmae_fast {

// Where weights lie in memory. They may be of any dtype.
struct Bytes {
  const void* data;
  int64_t bytes;
  auto operator<=>(const Bytes&) const = default;
};

// Returns how many floats packed weights hold. Each type of float32 weights that a WeightsCache holds has such a
// function; a type of other weights has a packed_bytes of its own.
inline int64_t packed_count(const PackedMatrix& packed) { return packed.count; }
inline int64_t packed_count(const Bf16Matrix& packed) { return packed.tiles * packed.parts * kTileNumbers / 2; }
template <typename Matrix>
int64_t packed_count(const Projections<Matrix>& packed) {
  return packed_count(packed.q) + packed_count(packed.kv) + packed_count(packed.out);
}
template <typename Matrix>
int64_t packed_count(const FoldedStem<Matrix>& stem) {
  int64_t count = packed_count(stem.first.matrix);
  for (const auto& unit : stem.units) count += packed_count(unit.matrix);
  for (int m = 0; m < kMerges; ++m) count += packed_count(stem.lateral[m]) + packed_count(stem.reduce[m]);
  return count;
}

// Returns how many bytes packed weights take.
template <typename Packed>
int64_t packed_bytes(const Packed& packed) {
  return packed_count(packed) * static_cast<int64_t>(sizeof(float));
}

// Weights that somebody keeps an eye on (a frozen model, see xmae_fast/ops/_frozen.py), so that they need not be read
// at every call to find out whether they have changed. Two things are told by plain C functions: where such weights lie,
// and, around a call of an operator, that all of its weights that lie there are as they were since the epoch began.
class Trust {
 public:
  static constexpr uint64_t kNone = 0;
  // Returns the present epoch, or kNone where nothing is said about this thread's call.
  static uint64_t epoch();
  // Returns for each of the weights whether it lies where trusted weights lie.
  static std::vector<bool> covers(const std::vector<Bytes>& weights);
  // Says whether the calling thread's next calls have trusted weights that are as they were.
  static void vouch(bool on);
  // Adds places of trusted weights, or takes them away. Each must be taken away as often as it was added. A new epoch
  // begins unless all places stay what they were.
  static void change(const std::vector<Bytes>& weights, bool add);
  // Begins a new epoch: what the caches hold is digested once more.
  static void renew();
};

// The base class of all caches. No cache is ever destroyed.
class PackedWeights {
 public:
  // Returns how many bytes all caches hold.
  static int64_t total();
  // Drops from all caches the packed weights of which any weight is not among `living`, which must be sorted. Where a
  // weight is left out by mistake, it is only packed again when it is used.
  static void keep_only(const std::vector<Bytes>& living);

 protected:
  PackedWeights();
  virtual ~PackedWeights() = default;
  virtual int64_t bytes() = 0;
  virtual void keep(const std::vector<Bytes>& living) = 0;
};

template <typename Packed>
class WeightsCache : public PackedWeights {
 public:
  // Returns the packed weights. build() packs them if the cache has none of these weights and this shape, or if their
  // bytes have changed. Beyond kCapacity entries, the one that was not used for the longest time is dropped. An entry
  // that was found to be up to date in the present epoch of trust is compared in its other weights alone.
  template <typename Build>
  std::shared_ptr<const Packed> get(
      const std::vector<Bytes>& weights, const Build& build, const std::vector<int64_t>& shape = {}) {
    const Kernels* table = &kernels();
    const uint64_t epoch = Trust::epoch();  // before anything is read
    if (epoch != Trust::kNone) {
      const auto [known, watched] = of_epoch(epoch, table, weights, shape);
      if (known != nullptr && digest(*table, watched->weights) == watched->digests) return known;
    }
    std::vector<uint64_t> digests = digest(*table, weights);
    const auto watched = epoch == Trust::kNone ? nullptr : not_trusted(weights, digests);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = find(table, weights, shape);
      if (found != entries_.end()) {
        entries_.splice(entries_.begin(), entries_, found);
        if (found->digests == digests) {
          if (epoch != Trust::kNone) found->epoch = epoch, found->watched = watched;
          return found->packed;
        }
      }
    }
    auto packed = std::make_shared<const Packed>(build());
    // Another thread may have written to the weights in the meantime; then it is unknown which bytes were packed, and
    // they are not kept.
    const bool settled = digest(*table, weights) == digests;
    std::list<Entry> dropped;  // its memory is freed after the lock is released
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = find(table, weights, shape);
    if (found != entries_.end()) dropped.splice(dropped.end(), entries_, found);
    if (settled) entries_.push_front({table, weights, shape, std::move(digests), packed, epoch, watched});
    if (entries_.size() > kCapacity) dropped.splice(dropped.end(), entries_, std::prev(entries_.end()));
    return packed;
  }

 protected:
  int64_t bytes() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    int64_t total = 0;
    for (const Entry& entry : entries_) total += packed_bytes(*entry.packed);
    return total;
  }

  void keep(const std::vector<Bytes>& living) override {
    const auto lives = [&](const Bytes& weight) { return std::binary_search(living.begin(), living.end(), weight); };
    std::list<Entry> dropped;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto at = entries_.begin(); at != entries_.end();) {
      const auto entry = at++;
      if (!std::all_of(entry->weights.begin(), entry->weights.end(), lives)) {
        dropped.splice(dropped.end(), entries_, entry);
      }
    }
  }

 private:
  static constexpr size_t kCapacity = 32;
  static constexpr int64_t kBlock = 65536;   // bytes digested at a time
  static constexpr int64_t kAlone = 131072;  // bytes that one thread digests sooner than others wake up

  // Weights of an entry that are digested at every call, and the digests of their blocks.
  struct Watched {
    std::vector<Bytes> weights;
    std::vector<uint64_t> digests;
  };

  struct Entry {
    const Kernels* table;
    std::vector<Bytes> weights;
    std::vector<int64_t> shape;
    std::vector<uint64_t> digests;
    std::shared_ptr<const Packed> packed;
    uint64_t epoch;  // of trust in which the digests were found equal last
    std::shared_ptr<const Watched> watched;
  };

  // Returns what is packed of these weights, with those to watch, if it was found up to date in this epoch.
  std::pair<std::shared_ptr<const Packed>, std::shared_ptr<const Watched>> of_epoch(
      uint64_t epoch, const Kernels* table, const std::vector<Bytes>& weights, const std::vector<int64_t>& shape) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = find(table, weights, shape);
    if (found == entries_.end() || found->epoch != epoch) return {};
    entries_.splice(entries_.begin(), entries_, found);
    return {found->packed, found->watched};
  }

  // Returns the weights that are not trusted, with their part of the digests of all weights.
  static std::shared_ptr<const Watched> not_trusted(
      const std::vector<Bytes>& weights, const std::vector<uint64_t>& digests) {
    const std::vector<bool> trusted = Trust::covers(weights);
    auto watched = std::make_shared<Watched>();
    auto at = digests.begin();
    for (size_t i = 0; i < weights.size(); ++i) {
      const auto end = at + (weights[i].bytes + kBlock - 1) / kBlock;
      if (!trusted[i]) {
        watched->weights.push_back(weights[i]);
        watched->digests.insert(watched->digests.end(), at, end);
      }
      at = end;
    }
    return watched;
  }

  typename std::list<Entry>::iterator find(
      const Kernels* table, const std::vector<Bytes>& weights, const std::vector<int64_t>& shape) {
    return std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      return entry.table == table && entry.shape == shape && entry.weights == weights;
    });
  }

  // Returns the digests of blocks of kBlock bytes of all weights.
  static std::vector<uint64_t> digest(const Kernels& table, const std::vector<Bytes>& weights) {
    std::vector<Bytes> blocks;
    int64_t bytes = 0;
    for (const Bytes& whole : weights) {
      bytes += whole.bytes;
      const auto* data = static_cast<const std::byte*>(whole.data);
      for (int64_t at = 0; at < whole.bytes; at += kBlock) {
        blocks.push_back({data + at, std::min(kBlock, whole.bytes - at)});
      }
    }
    std::vector<uint64_t> digests(blocks.size());
    // A thread has some microseconds' worth of bytes. In a small list, such as a stem's statistics, that is all of it.
    const int64_t grain = bytes <= kAlone ? static_cast<int64_t>(blocks.size()) : 8;
    parallel(static_cast<int64_t>(blocks.size()), grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) digests[i] = table.fingerprint(blocks[i].data, blocks[i].bytes);
    });
    return digests;
  }

  std::mutex mutex_;
  std::list<Entry> entries_;
};

}  // namespace xmae_fast
