// A CTA of a GPU on a host: every thread is a fiber, and threads meet where the code says so. What lies between two
// barriers runs thread by thread in any order that is asked for, so a missing barrier changes results; besides, every access to
// shared memory is checked against those of other threads since the last barrier, and counted by banks.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace xmae_fast::cuda {

struct Options {
  int order = 0;       // of threads: 0 ascending, 1 descending, else the seed of a shuffle
  bool late = false;   // asynchronous copies arrive when they are waited for; otherwise at once
  int tanh = 0;        // 0 exact; 1, -1: relative error +-2^-11; 2: either, by the bits of the argument
  bool count_banks = false;
  int without = -1;    // this barrier, counted from 0, does not exist: what the checks are checked with
};

enum class Access : int { kLoad = 0, kStore, kMatrix };

struct BankCount {
  int64_t instructions = 0, wavefronts = 0, ideal = 0;
};

class Cta {
 public:
  Cta(int threads, int shared_bytes, const Options& options)
      : options(options), shared(shared_bytes, static_cast<char>(0xff)), threads_(threads), fibers_(threads),
        shadow_(shared_bytes / 2), source_(shared_bytes / 16, -1), warps_(threads / 32) {}

  // body(thread) for every thread; a message if they did not all arrive at the same barriers.
  std::string run(const std::function<void(int)>& body) {
    std::vector<int> order(threads_);
    std::iota(order.begin(), order.end(), 0);
    if (options.order == 1) std::reverse(order.begin(), order.end());
    if (options.order > 1) std::shuffle(order.begin(), order.end(), std::mt19937(options.order));
    // Threads of a warp follow each other: collective operations of a warp then need few rounds.
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rank(a) < rank(b); });
    body_ = &body;
    current_cta = this;
    for (int i = 0; i < threads_; ++i) {
      Fiber& fiber = fibers_[i];
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stack_of(i);
      fiber.context.uc_stack.ss_size = kStack;
      makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Cta::enter), 1, i);
    }
    int left = threads_;
    while (left > 0) {
      bool progress = false;
      for (int begin = 0; begin < threads_; begin += 32) {
        for (bool again = true; again;) {
          again = false;
          for (int i = begin; i < begin + 32; ++i) {
            Fiber& fiber = fibers_[order[i]];
            if (fiber.done || !ready(fiber, order[i])) continue;
            resume(fiber);
            left -= fiber.done;
            again = progress = true;
          }
        }
      }
      if (!progress) return "deadlock: threads wait at different barriers";
    }
    return races_ == 0 ? "" : std::to_string(races_) + " races, the first: " + first_race_;
  }

  void barrier(int thread) {
    if (fibers_[thread].barriers++ == options.without) return;
    fibers_[thread].epoch = epoch_;
    if (++arrived_ == threads_) {
      for (int warp = 0; options.count_banks && warp < threads_ / 32; ++warp) count(warp);
      arrived_ = 0;
      ++epoch_;
      return;
    }
    fibers_[thread].waits = Fiber::kBarrier;
    pause(thread);
  }

  // All lanes of a warp meet; `meeting` counts those of one lane. work(): done by the last to come, before any goes on.
  template <typename Work>
  void meet(int thread, const Work& work) {
    Warp& warp = warps_[thread / 32];
    fibers_[thread].meeting += 1;
    if (++warp.arrived == 32) {
      if (options.count_banks) count(thread / 32);
      work();
      warp.arrived = 0;
      warp.meetings += 1;
      return;
    }
    fibers_[thread].waits = Fiber::kWarp;
    pause(thread);
  }
  int barriers() const { return fibers_[0].barriers; }
  int parity(int thread) const { return fibers_[thread].meeting & 1; }

  // An access to shared memory by one thread. Lanes of ldmatrix give rows of 16 bytes, which other lanes then read.
  void touch(int thread, uint32_t at, int size, Access access) {
    if (at % size != 0 || at + size > shared.size()) {
      std::fprintf(stderr, "thread %d: shared memory [%u, %u) of %zu\n", thread, at, at + size, shared.size());
      std::abort();
    }
    if (source_[at / 16] >= 0) fibers_[thread].source = source_[at / 16];
    for (uint32_t word = at / 2; word < (at + size + 1) / 2; ++word) {
      Shadow& cell = shadow_[word];
      if (cell.pending) race(thread, at, "an asynchronous copy that nobody waited for");
      if (cell.write_epoch == epoch_ && cell.writer != thread) race(thread, at, "another thread's store");
      if (access == Access::kStore) {
        if (cell.read_epoch == epoch_ && cell.reader != thread) race(thread, at, "another thread's load");
        cell.write_epoch = epoch_;
        cell.writer = static_cast<int16_t>(thread);
      } else {
        cell.reader = static_cast<int16_t>(cell.read_epoch == epoch_ && cell.reader != thread ? kMany : thread);
        cell.read_epoch = epoch_;
      }
    }
  }
  void record(int thread, uint32_t at, int size, Access access) {
    if (options.count_banks) fibers_[thread].accesses.push_back({at, size, access, fibers_[thread].source});
  }

  void copy_async(int thread, uint32_t to, const char* from, int64_t source) {
    touch(thread, to, 16, Access::kStore);
    for (uint32_t word = to / 2; word < to / 2 + 8; ++word) shadow_[word].pending = true;
    source_[to / 16] = source;
    fibers_[thread].copies.push_back({to, from});
    if (!options.late) std::copy_n(from, 16, shared.data() + to);
  }
  void wait_for_copies(int thread) {
    for (const auto& [to, from] : fibers_[thread].copies) {
      for (uint32_t word = to / 2; word < to / 2 + 8; ++word) shadow_[word].pending = false;
      touch(thread, to, 16, Access::kStore);
      if (options.late) std::copy_n(from, 16, shared.data() + to);
    }
    fibers_[thread].copies.clear();
  }

  const Options options;
  std::vector<char> shared;
  std::map<std::tuple<int64_t, int, int>, BankCount> banks;  // by place in the stream, kind and size of access
  static inline Cta* current_cta = nullptr;

 private:
  static constexpr int kStack = 1 << 18, kMany = -2;

  struct Shadow {
    int32_t write_epoch = -1, read_epoch = -1;
    int16_t writer = -1, reader = -1;
    bool pending = false;
  };
  struct Recorded {
    uint32_t at;
    int size;
    Access access;
    int64_t source;
  };
  struct Fiber {
    enum Wait { kNothing, kBarrier, kWarp } waits = kNothing;
    ucontext_t context;  // to begin with; then `place`, because swapcontext asks the kernel for the signal mask each time
    jmp_buf place;
    bool begun = false, done = false;
    int epoch = 0, barriers = 0;
    int64_t meeting = 0, source = -1;
    std::vector<std::pair<uint32_t, const char*>> copies;
    std::vector<Recorded> accesses;
  };
  struct Warp {
    int arrived = 0;
    int64_t meetings = 0;
  };

  int rank(int thread) const {
    if (options.order == 0) return thread / 32;
    if (options.order == 1) return -(thread / 32);
    return static_cast<int>((thread / 32 * 2654435761u) ^ static_cast<unsigned>(options.order * 40503u)) & 0x7fffffff;
  }
  bool ready(const Fiber& fiber, int thread) const {
    if (fiber.waits == Fiber::kBarrier) return fiber.epoch < epoch_;
    if (fiber.waits == Fiber::kWarp) return fiber.meeting <= warps_[thread / 32].meetings;
    return true;
  }
  // Stacks outlive a CTA: fresh ones would have to be given memory again.
  static char* stack_of(int thread) {
    static std::vector<std::unique_ptr<char[]>> stacks;
    while (static_cast<int>(stacks.size()) <= thread) stacks.emplace_back(new char[kStack]);
    return stacks[thread].get();
  }
  __attribute__((noinline)) void resume(Fiber& fiber) {
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
  }
  __attribute__((noinline)) void leave(Fiber& fiber) {
    if (_setjmp(fiber.place) == 0) _longjmp(scheduler_, 1);
  }
  void pause(int thread) {
    leave(fibers_[thread]);
    fibers_[thread].waits = Fiber::kNothing;
  }
  static void enter(int thread) {
    Cta* const cta = current_cta;
    (*cta->body_)(thread);
    cta->fibers_[thread].done = true;
    _longjmp(cta->scheduler_, 1);
  }
  void race(int thread, uint32_t at, const char* with) {
    if (races_++ == 0) first_race_ = "thread " + std::to_string(thread) + " at byte " + std::to_string(at) + " with " + with;
  }

  // The accesses of a warp's lanes since they last met, the n-th of each lane being one instruction.
  void count(int warp) {
    size_t most = 0;
    for (int lane = 0; lane < 32; ++lane) most = std::max(most, fibers_[warp * 32 + lane].accesses.size());
    for (size_t n = 0; n < most; ++n) {
      std::vector<Recorded> lanes;
      for (int lane = 0; lane < 32; ++lane) {
        const auto& accesses = fibers_[warp * 32 + lane].accesses;
        if (n < accesses.size()) lanes.push_back(accesses[n]);
      }
      BankCount& entry = banks[{lanes[0].source, static_cast<int>(lanes[0].access), lanes[0].size}];
      entry.instructions += 1;
      const size_t together = lanes[0].size == 16 ? 8 : lanes[0].size == 8 ? 16 : 32;  // lanes in 128 bytes
      for (size_t begin = 0; begin < lanes.size(); begin += together) {
        std::map<uint32_t, std::vector<uint32_t>> words;  // of each bank
        for (size_t i = begin; i < std::min(begin + together, lanes.size()); ++i) {
          for (int byte = 0; byte < lanes[i].size; byte += 4) {
            const uint32_t word = (lanes[i].at + byte) / 4;
            auto& bank = words[word % 32];
            if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
          }
        }
        size_t deepest = 0;
        for (const auto& [bank, found] : words) deepest = std::max(deepest, found.size());
        entry.wavefronts += static_cast<int64_t>(deepest);
        entry.ideal += 1;
      }
    }
    for (int lane = 0; lane < 32; ++lane) fibers_[warp * 32 + lane].accesses.clear();
  }

  int threads_, arrived_ = 0, epoch_ = 0;
  int64_t races_ = 0;
  std::string first_race_;
  std::vector<Fiber> fibers_;
  std::vector<Shadow> shadow_;
  std::vector<int64_t> source_;  // of every 16 bytes: where in the weights' stream they come from
  std::vector<Warp> warps_;
  jmp_buf scheduler_;
  const std::function<void(int)>* body_ = nullptr;
};

}  // namespace xmae_fast::cuda
