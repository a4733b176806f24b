// The arguments of the stem's training kernels. Only the outputs of the convolutions before BatchNorm and the two
// merged levels are kept for the backward; everything else is computed again from them.
#pragma once

#include "cpu/base/bf16_matrix.h"
#include "cpu/conv_stem/stem_layout.h"

namespace xmae_fast {

constexpr int64_t kGroups = 16;  // groups of samples: each sums its own gradients of weights, which are added in order
constexpr int64_t kNormAlign = 32;  // arrays of channels are padded to the widest panel

// A unit's BatchNorm, with channels in the unit's order: z = (y - mean) * scale + shift. The exact mean is mean +
// mean_rest, because for a nearly constant channel the rounding of one float is many standard deviations; the shift
// contains mean_rest.
struct UnitNorm {
  AlignedFloats scale, shift, mean, invstd, mean_rest;  // [c_out, padded]
};

// The units of a merge: merged level = lateral(activated fine) + up(reduce(activated coarse)).
struct MergePlan {
  int unit, fine, coarse;  // the unit that reads the merged level, and the sources
};
constexpr MergePlan kMergePlan[kMerges] = {{kSmooth2, kEnc2 + 3, kEnc3 + 3}, {kSmooth1, kEnc1 + 3, kSmooth2}};

// Returns the merge whose result unit u reads, or -1.
constexpr int merge_of(int u) { return u == kSmooth2 ? 0 : u == kSmooth1 ? 1 : -1; }

// Number and Matrix are float and PackedMatrix, or Bf16 and Bf16Matrix.
template <typename Number, typename Matrix>
struct StemTrainingOf {
  const Stem* stem;
  int64_t B, L;
  const float* x;      // [B, L]
  PackedMatrix first;  // of unit 0, which computes in float32; in float32 it is units[0] instead
  Matrix units[kUnits];
  Matrix lateral[kMerges], reduce[kMerges];
  UnitNorm norms[kUnits];
  Number* kept[kUnits + kMerges];        // [B, length, row(channels)]: outputs of the units, then the merged levels
  float skip_mean;                       // the skip path is (x - mean) * scale + shift; 0 with running statistics
  AlignedFloats skip_scale, skip_shift;  // [S, padded]

  // Numbers in a row of an activation: in bfloat16 whole panels, with zeros after the last channel.
  static constexpr int64_t row(int64_t channels) {
    return sizeof(Number) == sizeof(float) ? channels : (channels + kPairWidth - 1) / kPairWidth * kPairWidth;
  }

  // Rows and numbers of one sample's output of unit u, and of its input.
  int64_t length(int u) const { return stem->length(L, stem->units[u].level); }
  int64_t size(int u) const { return length(u) * row(stem->units[u].c_out); }
  int64_t in_length(int u) const { return stem->length(L, stem->units[u].level - (stem->units[u].stride == 2)); }
  int64_t in_size(int u) const { return in_length(u) * row(stem->units[u].c_in); }
  int64_t largest() const {
    int64_t most = L;
    for (int u = 0; u < kUnits; ++u) most = std::max({most, size(u), in_size(u)});
    return most;
  }
  int64_t widest() const { return row(std::max({stem->widths[0], stem->widths[1], stem->widths[2], stem->channels})); }
};
using StemTraining = StemTrainingOf<float, PackedMatrix>;
using Bf16StemTraining = StemTrainingOf<Bf16, Bf16Matrix>;

// Returns how many floats an activation buffer takes that serves every unit, with its padding and whole vectors at its
// end.
inline int64_t activation_floats(const StemTraining& run) {
  return (run.largest() + 2 * kPad * run.widest() + 15) / 16 * 16 + 64;
}

// The backward of a unit's BatchNorm: dy = gain * dz - offset + slope * (y - mean). The factors contain the sums over
// the batch and mean_rest.
struct UnitBackward {
  AlignedFloats gain, offset, slope;  // [c_out, padded]
};

template <typename Number, typename Matrix>
struct StemBackwardOf {
  const StemTrainingOf<Number, Matrix>* run;
  PackedMatrix first_input;                 // input[0] of bfloat16
  Matrix input[kUnits], odd_input[kUnits];  // weights of the input's gradient; odd rows of units of stride 2
  Matrix lateral[kMerges], reduce[kMerges];
  UnitBackward units[kUnits];
  Number* dz;  // [B, dz_stride]: gradient before the activation, of the current unit and then of its source
  int64_t dz_stride;
  Number* branch[kMerges];  // [B, size of the fine source]: its gradient through the lateral convolution
  float* dx;                // [B, L] or null
};
using StemBackward = StemBackwardOf<float, PackedMatrix>;
using Bf16StemBackward = StemBackwardOf<Bf16, Bf16Matrix>;

// Returns how many channels the source has whose gradient the backward of unit u computes.
inline int64_t source_channels(const Stem& stem, int u) {
  const int m = merge_of(u);
  return m >= 0 ? stem.coarse(m) : stem.units[u].c_in;
}

// Returns how many floats unit u's gradients of weights take in one group: [c_out, k * c_in] for each part, then the
// lateral and the reducing weights of the merge that it reads.
inline int64_t weight_floats(const Stem& stem, int u) {
  const StemUnit& unit = stem.units[u];
  int64_t count = 0;
  for (int p = 0; p < unit.num_parts; ++p) count += unit.parts[p].c_out * unit.parts[p].k * unit.c_in;
  if (const int m = merge_of(u); m >= 0) {
    count += stem.fine(m) * (stem.fine(m) + stem.coarse(m));
  }
  return count;
}

}  // namespace xmae_fast
