// Parallel loops on torch's threads, and memory for the kernels.

#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <new>

#include "cpu/base/common.h"

namespace xmae_fast {
namespace {

// AddressSanitizer notices only accesses outside of an allocation. Under it no allocation is larger than the request,
// and none is used again for another request.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kExactAllocations = true;
#else
constexpr bool kExactAllocations = false;
#endif

thread_local bool in_parallel_loop = false;

// Marks the calling thread as inside a parallel loop while it lives.
struct LoopMark {
  bool before = in_parallel_loop;
  LoopMark() { in_parallel_loop = true; }
  ~LoopMark() { in_parallel_loop = before; }
};

struct ThreadScratch {
  AlignedFloats data[kScratchSlots];
  int64_t size[kScratchSlots] = {};
};

}  // namespace

void parallel(int64_t count, int64_t grain, RangeFunction body) {
  if (count <= 0) return;
  if (in_parallel_loop || count <= grain || num_threads() == 1) return body(0, count);
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    const LoopMark mark;
    body(begin, end);
  });
}

int64_t num_threads() { return in_parallel_loop ? 1 : static_cast<int64_t>(torch::stable::get_num_threads()); }

void AlignedDelete::operator()(float* p) const { std::free(p); }

AlignedFloats aligned_floats(int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  void* p = nullptr;
  if (posix_memalign(&p, 64, kExactAllocations ? bytes : (bytes + 63) / 64 * 64 + 64) != 0) throw std::bad_alloc();
  return AlignedFloats(static_cast<float*>(p));
}

float* scratch(int slot, int64_t count) {
  thread_local ThreadScratch memory;
  if (kExactAllocations || memory.size[slot] < count) {
    memory.data[slot].reset();
    memory.data[slot] = aligned_floats(count);
    memory.size[slot] = count;
  }
  return memory.data[slot].get();
}

}  // namespace xmae_fast
