// Parallel loops on torch's threads, and memory for the kernels.

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

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

struct Team::Shared {
  std::atomic<int64_t> joined{0}, size{0}, waiting{0}, round{0};
};

namespace {

void pause(int64_t tries) {
  if (tries > 4000) {  // somebody may need this processor before he can go on
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void Team::wait_for_all() const {
  const int64_t round = shared_->round.load(std::memory_order_relaxed);
  if (shared_->waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    shared_->waiting.store(0, std::memory_order_relaxed);
    shared_->round.store(round + 1, std::memory_order_release);
    return;
  }
  for (int64_t tries = 0; shared_->round.load(std::memory_order_acquire) == round; ++tries) pause(tries);
}

void as_team(TeamFunction body) {
  const int64_t threads = num_threads();
  Team::Shared shared;
  if (threads == 1) return body(Team(0, 1, &shared));
  // A thread pool need not run all ranges at the same time. So the first range waits for the others for a while, and
  // then says how many have come; who comes later goes home.
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const LoopMark mark;
    if (begin == 0) {
      const int64_t others = (threads + end - 1) / end - 1;  // ranges are equally long
      for (int64_t tries = 0; tries < 2000 && shared.joined.load(std::memory_order_acquire) < others; ++tries) pause(0);
      const int64_t joined = shared.joined.exchange(threads, std::memory_order_acq_rel);
      shared.size.store(joined + 1, std::memory_order_release);
      return body(Team(0, joined + 1, &shared));
    }
    int64_t before = shared.joined.load(std::memory_order_acquire);
    do {
      if (before >= threads) return;
    } while (!shared.joined.compare_exchange_weak(before, before + 1, std::memory_order_acq_rel));
    int64_t size = 0;
    for (int64_t tries = 0; (size = shared.size.load(std::memory_order_acquire)) == 0; ++tries) pause(tries);
    body(Team(before + 1, size, &shared));
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
