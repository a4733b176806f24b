// Counts and frees what all caches of packed weights hold, and knows which weights are trusted. Python frees the packed
// weights of a model that is deleted, which may happen in the middle of a garbage collection or of the dispatch of
// another call; so it calls plain C functions, which no dispatch mode of torch can intercept.
//   cpu_fingerprint(x)  returns the digest that decides whether weights are packed again; for tests

#include "cpu/base/weights_cache.h"

#include <atomic>
#include <map>

#include "cpu/base/tensors.h"

namespace xmae_fast {
namespace {

struct Trusted {
  std::mutex mutex;
  std::map<Bytes, int64_t> places;  // how often each was added
  std::atomic<uint64_t> epoch{Trust::kNone + 1};
};

Trusted& trusted() {
  static auto* const instance = new Trusted;  // never destroyed: threads may outlive main
  return *instance;
}

thread_local bool vouched = false;

struct Caches {
  std::mutex mutex;
  std::vector<PackedWeights*> all;
};

Caches& caches() {
  static auto* const instance = new Caches;  // never destroyed: threads may outlive main
  return *instance;
}

std::vector<PackedWeights*> every_cache() {
  const std::lock_guard<std::mutex> lock(caches().mutex);
  return caches().all;
}

int64_t cpu_fingerprint(const Tensor& x_) {
  const Tensor x = torch::stable::contiguous(x_);
  std::vector<Bytes> bytes;
  add_bytes(bytes, x);
  return static_cast<int64_t>(kernels().fingerprint(bytes[0].data, bytes[0].bytes));
}

// Returns what lies at these addresses, from arrays that Python made.
std::vector<Bytes> weights_at(const void* const* addresses, const int64_t* bytes, int64_t count) {
  std::vector<Bytes> out(count);
  for (int64_t i = 0; i < count; ++i) out[i] = {addresses[i], bytes[i]};
  return out;
}

}  // namespace

uint64_t Trust::epoch() { return vouched ? trusted().epoch.load() : kNone; }

std::vector<bool> Trust::covers(const std::vector<Bytes>& weights) {
  std::vector<bool> out(weights.size());
  const std::lock_guard<std::mutex> lock(trusted().mutex);
  for (size_t i = 0; i < weights.size(); ++i) out[i] = trusted().places.contains(weights[i]);
  return out;
}

void Trust::vouch(bool on) { vouched = on; }

void Trust::change(const std::vector<Bytes>& weights, bool add) {
  const std::lock_guard<std::mutex> lock(trusted().mutex);
  auto& places = trusted().places;
  const size_t before = places.size();
  for (const Bytes& weight : weights) {
    if (add) {
      ++places[weight];
    } else if (const auto found = places.find(weight); found != places.end() && --found->second == 0) {
      places.erase(found);
    }
  }
  if (places.size() != before) renew();
}

void Trust::renew() { ++trusted().epoch; }

PackedWeights::PackedWeights() {
  const std::lock_guard<std::mutex> lock(caches().mutex);
  caches().all.push_back(this);
}

int64_t PackedWeights::total() {
  int64_t total = 0;
  for (PackedWeights* cache : every_cache()) total += cache->bytes();
  return total;
}

void PackedWeights::keep_only(const std::vector<Bytes>& living) {
  for (PackedWeights* cache : every_cache()) cache->keep(living);
}

}  // namespace xmae_fast

#define XMAE_EXPORT extern "C" __attribute__((visibility("default")))

// Returns how many bytes the packed weights in all caches take.
XMAE_EXPORT int64_t xmae_fast_packed_bytes() { return xmae_fast::PackedWeights::total(); }

// Frees all packed weights but those of the living weights. addresses, bytes [count]: where the living weights begin
// and how many bytes each has, in any order.
XMAE_EXPORT void xmae_fast_keep_packed(const void* const* addresses, const int64_t* bytes, int64_t count) {
  std::vector<xmae_fast::Bytes> living = xmae_fast::weights_at(addresses, bytes, count);
  std::sort(living.begin(), living.end());
  xmae_fast::PackedWeights::keep_only(living);
}

// Adds (on = 1) or takes away (on = 0) places of trusted weights: addresses, bytes [count]. See Trust::change.
XMAE_EXPORT void xmae_fast_trust_weights(const void* const* addresses, const int64_t* bytes, int64_t count, int on) {
  xmae_fast::Trust::change(xmae_fast::weights_at(addresses, bytes, count), on != 0);
}

// Begins a new epoch of trust.
XMAE_EXPORT void xmae_fast_renew_trust() { xmae_fast::Trust::renew(); }

// Says whether (on = 1) the trusted weights of this thread's next calls are as they were.
XMAE_EXPORT void xmae_fast_vouch(int on) { xmae_fast::Trust::vouch(on != 0); }

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) { m.impl("cpu_fingerprint", TORCH_BOX(&xmae_fast::cpu_fingerprint)); }
