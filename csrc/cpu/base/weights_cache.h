// Keeps packed weights for inference. They are packed again when the bytes of the weights, their addresses or the
// instruction set differ from those that were packed.
#pragma once

#include <algorithm>
#include <compare>
#include <list>
#include <mutex>

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
inline int64_t packed_count(const Bf16Matrix& packed) { return packed.tiles * kTileNumbers / 2; }
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
  // bytes have changed. Beyond kCapacity entries, the one that was not used for the longest time is dropped.
  template <typename Build>
  std::shared_ptr<const Packed> get(
      const std::vector<Bytes>& weights, const Build& build, const std::vector<int64_t>& shape = {}) {
    const Kernels* table = &kernels();
    std::vector<uint64_t> digests = digest(*table, weights);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = find(table, weights, shape);
      if (found != entries_.end()) {
        entries_.splice(entries_.begin(), entries_, found);
        if (found->digests == digests) return found->packed;
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
    if (settled) entries_.push_front({table, weights, shape, std::move(digests), packed});
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
  static constexpr int64_t kBlock = 65536;  // bytes digested at a time

  struct Entry {
    const Kernels* table;
    std::vector<Bytes> weights;
    std::vector<int64_t> shape;
    std::vector<uint64_t> digests;
    std::shared_ptr<const Packed> packed;
  };

  typename std::list<Entry>::iterator find(
      const Kernels* table, const std::vector<Bytes>& weights, const std::vector<int64_t>& shape) {
    return std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) {
      return entry.table == table && entry.shape == shape && entry.weights == weights;
    });
  }

  // Returns the digests of blocks of kBlock bytes of all weights.
  static std::vector<uint64_t> digest(const Kernels& table, const std::vector<Bytes>& weights) {
    std::vector<Bytes> blocks;
    for (const Bytes& whole : weights) {
      const auto* data = static_cast<const std::byte*>(whole.data);
      for (int64_t at = 0; at < whole.bytes; at += kBlock) {
        blocks.push_back({data + at, std::min(kBlock, whole.bytes - at)});
      }
    }
    std::vector<uint64_t> digests(blocks.size());
    parallel(static_cast<int64_t>(blocks.size()), 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) digests[i] = table.fingerprint(blocks[i].data, blocks[i].bytes);
    });
    return digests;
  }

  std::mutex mutex_;
  std::list<Entry> entries_;
};

}  // namespace xmae_fast
