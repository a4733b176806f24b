// How the bfloat16 kernels lay out the gradients of a unit's weights: in blocks of 32 input and 32 output channels of one
// tap. The blocks of 32 output channels follow each other; within them those of 32 input channels, and within these the
// taps. A tap is left out where no channel of a block has it.
#pragma once

#include "cpu/conv_stem/stem_training.h"

namespace xmae_fast {

constexpr int64_t kBlockFloats = kPairWidth * kPairWidth;  // [input channels, output channels]

// Taps [first, first + count) of a unit's window.
struct Taps {
  int64_t first, count;
  bool has(int64_t t) const { return t >= first && t < first + count; }
};

// Returns the taps of an output channel and of those after it, whose parts have shorter kernels or the same.
XMAE_INLINE Taps taps_from(const StemUnit& unit, int64_t column) {
  const int64_t k = part_of(unit, column).part->k;
  return {(unit.window - k) / 2, k};
}

// Returns how many floats the gradients of a unit's weights take in blocks.
XMAE_INLINE int64_t block_floats(const StemUnit& unit) {
  int64_t blocks = 0;
  for (int64_t column = 0; column < unit.c_out; column += kPairWidth) blocks += taps_from(unit, column).count;
  return blocks * ((unit.c_in + kPairWidth - 1) / kPairWidth) * kBlockFloats;
}

// Returns a 1x1 convolution between levels as a unit.
XMAE_INLINE StemUnit mix_unit(int64_t c_in, int64_t c_out) {
  StemUnit unit{};
  unit.c_in = unit.in_size[0] = c_in;
  unit.c_out = unit.parts[0].c_out = c_out;
  unit.window = unit.stride = unit.parts[0].k = 1;
  unit.num_parts = unit.num_in = 1;
  return unit;
}

// Returns how many floats unit u's gradients of weights take in one group of samples: its own, then those of the lateral
// and of the reducing weights of the merge that it reads. Unit 0, which computes in float32, has them as in float32.
XMAE_INLINE int64_t bf16_weight_floats(const Stem& stem, int u) {
  if (u == 0) return weight_floats(stem, u);
  int64_t count = block_floats(stem.units[u]);
  if (const int m = merge_of(u); m >= 0) {
    count += block_floats(mix_unit(stem.fine(m), stem.fine(m))) + block_floats(mix_unit(stem.coarse(m), stem.fine(m)));
  }
  return count;
}

}  // namespace xmae_fast
