// What every kernel uses and no instruction set changes: packed matrices, parallel loops and scratch memory. This file
// does not depend on torch. Code compiled for one instruction set must not instantiate templates of the standard
// library, because the linker could choose that instance for every processor; so kernels get pointers and never
// containers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__GNUC__)
#define XMAE_INLINE __attribute__((always_inline)) inline
#else
#define XMAE_INLINE inline
#endif

namespace xmae_fast {

// Refers to a callable that takes a range [begin, end), without owning it.
class RangeFunction {
 public:
  template <typename F>
  RangeFunction(const F& f)  // NOLINT: implicit, so that lambdas can be passed
      : object_(&f),
        call_([](const void* object, int64_t begin, int64_t end) { (*static_cast<const F*>(object))(begin, end); }) {}
  void operator()(int64_t begin, int64_t end) const { call_(object_, begin, end); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t, int64_t);
};

// Threads that run the same code at the same time, each on its share of the work, and wait for each other in between.
// Waiting costs some 0.3 us, where a parallel loop costs 5 us.
class Team {
 public:
  struct Shared;  // what the members share
  Team(int64_t rank, int64_t size, Shared* shared) : rank_(rank), size_(size), shared_(shared) {}

  bool leads() const { return rank_ == 0; }
  // Waits until all members wait here.
  void wait() const {
    if (size_ > 1) wait_for_all();
  }
  // Calls body(begin, end) with this member's share of [0, count), which is whole units of `unit` but for the last one,
  // and waits for the other members' shares.
  template <typename Body>
  void share(int64_t count, int64_t unit, const Body& body) const {
    const int64_t units = (count + unit - 1) / unit;
    const int64_t begin = units * rank_ / size_ * unit, end = units * (rank_ + 1) / size_ * unit;
    if (begin < end) body(begin, end < count ? end : count);
    wait();
  }

 private:
  void wait_for_all() const;
  int64_t rank_, size_;
  Shared* shared_;
};

// Refers to a callable that takes a Team, without owning it.
class TeamFunction {
 public:
  template <typename F>
  TeamFunction(const F& f)  // NOLINT: implicit, so that lambdas can be passed
      : object_(&f), call_([](const void* object, const Team& team) { (*static_cast<const F*>(object))(team); }) {}
  void operator()(const Team& team) const { call_(object_, team); }

 private:
  const void* object_;
  void (*call_)(const void*, const Team&);
};

// Calls body(team) on all of torch's threads that come within some 100 us, and on the calling thread alone inside a
// parallel loop.
void as_team(TeamFunction body);

// Calls body(begin, end) for ranges that make up [0, count), in parallel on torch's threads, with at least `grain`
// numbers in a range. Inside another parallel loop it runs on the calling thread alone.
void parallel(int64_t count, int64_t grain, RangeFunction body);

// Returns torch's number of threads; 1 inside a parallel loop.
int64_t num_threads();

// Returns memory for `count` floats, aligned to 64 bytes. The thread keeps it for the next call, because a fresh
// megabyte costs page faults. Slots are independent of each other; a second call for the same slot overwrites what was
// there.
float* scratch(int slot, int64_t count);
enum ScratchSlot : int { kSlotMain = 0, kSlotGradient, kSlotTile, kSlotTail, kSlotHead, kScratchSlots };

struct AlignedDelete {
  void operator()(float* p) const;
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;
AlignedFloats aligned_floats(int64_t count);

// Returns the most rows of a register tile, as the table in use says. Results do not depend on it.
int64_t tile_rows();

constexpr int64_t kSumRows = 32;      // rows that are summed one after another; longer chains round worse
constexpr int64_t kPanelVectors = 2;  // vectors of output columns that a micro-kernel computes together

// Consecutive steps of a panel's sums: where in the input row they begin, and how many of the panel's vectors take
// part. In a 7-tap window, for example, the outer taps belong to the first vector only.
struct Segment {
  int64_t offset;  // floats from the start of the row
  int64_t length;
  int64_t vectors;
};

// Output columns [column, column + columns) and where their weights are: segment by segment [length, vectors * W].
struct Panel {
  int64_t column, columns;
  int64_t first_segment, num_segments;
  int64_t weights;  // offset into PackedMatrix::data
};

// B of a product C = A B, laid out for the micro-kernel of one instruction set. Rows of A may overlap, as the windows
// of a convolution do.
struct PackedMatrix {
  int64_t columns = 0;
  int64_t width = 0;   // W: floats in a vector
  int64_t chain = 64;  // multiply-adds that are summed one after another; much longer chains round worse than torch
  std::vector<Segment> segments;
  std::vector<Panel> panels;
  int64_t count = 0;  // floats in data
  AlignedFloats data;
};

}  // namespace xmae_fast
