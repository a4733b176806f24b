// What every kernel shares and no instruction set changes: argument shapes, packed matrices, parallel loops, scratch
// memory. Knows nothing of torch. Code compiled for a certain instruction set must not instantiate standard-library
// templates that the linker could then choose for every processor, so nothing below hands containers to it.
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

// A view of a callable taking [begin, end), without ownership.
class RangeFunction {
 public:
  template <typename F>
  RangeFunction(const F& f)  // NOLINT: implicit, so that lambdas can be passed
      : object_(&f), call_([](const void* object, int64_t begin, int64_t end) {
          (*static_cast<const F*>(object))(begin, end);
        }) {}
  void operator()(int64_t begin, int64_t end) const { call_(object_, begin, end); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t, int64_t);
};

// [0, count) in parallel on torch's threads, at least `grain` at a time; serial inside another parallel loop.
void parallel(int64_t count, int64_t grain, RangeFunction body);

// torch's number of threads; 1 inside a parallel loop.
int64_t num_threads();

// Room for `count` floats, 64-byte aligned, kept by the thread for the next call (a fresh megabyte costs page faults).
// Slots are independent; what a slot held is lost when it is asked for again.
float* scratch(int slot, int64_t count);
enum ScratchSlot : int { kSlotMain = 0, kSlotGradient, kSlotTile, kSlotTail, kSlotHead, kScratchSlots };

struct AlignedDelete {
  void operator()(float* p) const;
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;
AlignedFloats aligned_floats(int64_t count);

constexpr int64_t kSumRows = 32;       // rows of one chain of sums: longer ones round worse
constexpr int64_t kPanelVectors = 2;  // vectors of output columns that a micro-kernel works on

// Consecutive steps of the reduction, as one panel sees them: where in the input row they begin, and how many of the
// panel's vectors take part (a 7-tap window whose outer taps belong to the first vector only).
struct Segment {
  int64_t offset;  // floats from the start of the row
  int64_t length;
  int64_t vectors;
};

// Output columns [column, column + columns) and the weights for them: segment by segment [length, vectors * W].
struct Panel {
  int64_t column, columns;
  int64_t first_segment, num_segments;
  int64_t weights;  // offset into PackedMatrix::data
};

// B of C = A B, laid out for one instruction set's micro-kernel. A's rows may overlap (a convolution's windows do).
struct PackedMatrix {
  int64_t columns = 0;
  int64_t width = 0;   // W: floats in a vector
  int64_t chain = 64;  // multiply-adds in one chain of sums: much longer ones round worse than the framework's do
  std::vector<Segment> segments;
  std::vector<Panel> panels;
  int64_t count = 0;  // numbers in data
  AlignedFloats data;
};

}  // namespace xmae_fast
