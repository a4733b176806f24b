// Counts and frees what all caches of packed weights hold. Python frees the packed weights of a model that is deleted,
// which may happen in the middle of a garbage collection or of the dispatch of another call; so it calls plain C
// functions, which no dispatch mode of torch can intercept.
//   cpu_fingerprint(x)  returns the digest that decides whether weights are packed again; for tests

#include "cpu/base/weights_cache.h"

#include "cpu/base/tensors.h"

namespace xmae_fast {
namespace {

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

}  // namespace

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
  std::vector<xmae_fast::Bytes> living(count);
  for (int64_t i = 0; i < count; ++i) living[i] = {addresses[i], bytes[i]};
  std::sort(living.begin(), living.end());
  xmae_fast::PackedWeights::keep_only(living);
}

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) { m.impl("cpu_fingerprint", TORCH_BOX(&xmae_fast::cpu_fingerprint)); }
