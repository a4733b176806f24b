// Keeps the memory of the large tensors that a training step makes and drops for the next step. Fresh pages cost page
// faults and zeroing: 10 % of the stem's step where malloc returns them to the system in between.
//   release_cpu_memory()  frees this memory and all packed weights

#include <torch/csrc/stable/device.h>

#include <cstdlib>
#include <map>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu/base/tensors.h"

namespace xmae_fast {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr uint64_t kOldAge = 512;  // an idle block older than so many requests is freed when a new block is needed

class Pool {
 public:
  void* get(size_t bytes) {
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    const std::lock_guard<std::mutex> lock(mutex_);
    ++clock_;
    const auto found = idle_.lower_bound(bytes);
    if (found != idle_.end() && found->first <= bytes + bytes / 4) {
      void* block = found->second.data;
      used_.emplace(block, found->first);
      idle_.erase(found);
      return block;
    }
    for (auto at = idle_.begin(); at != idle_.end();) {
      if (clock_ - at->second.since < kOldAge) {
        ++at;
      } else {
        std::free(at->second.data);
        at = idle_.erase(at);
      }
    }
    void* block = std::aligned_alloc(kHugePage, bytes);
    STD_TORCH_CHECK(block != nullptr, "xmae_fast: out of memory, ", bytes, " bytes were asked for");
#if defined(__linux__)
    madvise(block, bytes, MADV_HUGEPAGE);
#endif
    used_.emplace(block, bytes);
    return block;
  }

  void put(void* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(block);
    idle_.emplace(found->second, Idle{block, clock_});
    used_.erase(found);
  }

  void release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [bytes, block] : idle_) std::free(block.data);
    idle_.clear();
  }

 private:
  struct Idle {
    void* data;
    uint64_t since;
  };
  std::mutex mutex_;
  std::multimap<size_t, Idle> idle_;  // by size
  std::map<void*, size_t> used_;
  uint64_t clock_ = 0;
};

Pool& pool() {
  static auto* const instance = new Pool;  // never destroyed: tensors may outlive main
  return *instance;
}

void release_cpu_memory() {
  pool().release();
  PackedWeights::keep_only({});
}

}  // namespace

namespace {

Tensor pooled(std::initializer_list<int64_t> sizes, ScalarType dtype, size_t bytes) {
  std::vector<int64_t> shape(sizes), strides(sizes.size(), 1);
  int64_t count = 1;
  for (size_t i = shape.size(); i-- > 0; count *= shape[i]) strides[i] = count;
  if (static_cast<size_t>(count) * bytes < kHugePage) {
    return dtype == ScalarType::Float ? empty(sizes) : empty_bf16(sizes);
  }
  void* block = pool().get(static_cast<size_t>(count) * bytes);
  using torch::headeronly::IntHeaderOnlyArrayRef;
  return torch::stable::from_blob(
      block, IntHeaderOnlyArrayRef(shape), IntHeaderOnlyArrayRef(strides),
      torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype, [](void* data) { pool().put(data); });
}

}  // namespace

Tensor pooled(std::initializer_list<int64_t> sizes) { return pooled(sizes, ScalarType::Float, sizeof(float)); }
Tensor pooled_bf16(std::initializer_list<int64_t> sizes) { return pooled(sizes, ScalarType::BFloat16, 2); }

}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CompositeImplicitAutograd, m) {
  m.impl("release_cpu_memory", TORCH_BOX(&xmae_fast::release_cpu_memory));
}
