// What the stem's training kernels work on. Kept for backward are only the outputs of the convolutions before their
// BatchNorm, and the two merged levels; everything else is computed again from them.
#pragma once

#include "cpu/conv_stem/stem_layout.h"

namespace xmae_fast {

constexpr int64_t kGroups = 16;      // groups of samples whose weights' gradients are summed apart, then in order
constexpr int64_t kNormAlign = 16;   // vectors of channels are padded to the widest vector

// BatchNorm of a unit in its internal order of channels: normalised z = (y - mean) * scale + shift. The mean is the sum of two
// floats: near a constant the rounding of one is many standard deviations. The shift has the small one's part.
struct UnitNorm {
  AlignedFloats scale, shift, mean, invstd, mean_rest;  // [c_out, padded]
};

// Which units feed a merge: merged = lateral(act(fine)) + up(reduce(act(coarse))).
struct MergePlan {
  int unit, fine, coarse;  // the unit that reads the merged level, and the sources
};
constexpr MergePlan kMergePlan[kMerges] = {{kSmooth2, kEnc2 + 3, kEnc3 + 3}, {kSmooth1, kEnc1 + 3, kSmooth2}};

// The merge that unit u reads, or -1.
constexpr int merge_of(int u) { return u == kSmooth2 ? 0 : u == kSmooth1 ? 1 : -1; }

struct StemTraining {
  const Stem* stem;
  int64_t B, L;
  const float* x;  // [B, L]
  PackedMatrix units[kUnits];
  PackedMatrix lateral[kMerges], reduce[kMerges];
  UnitNorm norms[kUnits];
  float* kept[kUnits + kMerges];           // [B, length, channels]: of the units, then the merged levels
  float skip_mean;                         // skip path = (x - mean) * scale + shift; 0 with running statistics
  AlignedFloats skip_scale, skip_shift;    // [S, padded]

  int64_t length(int u) const { return stem->length(L, stem->units[u].level); }
  int64_t size(int u) const { return length(u) * stem->units[u].c_out; }  // of one sample's output
  int64_t in_length(int u) const { return stem->length(L, stem->units[u].level - (stem->units[u].stride == 2)); }
  int64_t in_size(int u) const { return in_length(u) * stem->units[u].c_in; }
  int64_t largest() const {
    int64_t most = L;
    for (int u = 0; u < kUnits; ++u) most = std::max({most, size(u), in_size(u)});
    return most;
  }
  int64_t widest() const { return std::max({stem->widths[0], stem->widths[1], stem->widths[2], stem->channels}); }
};

// A padded activation buffer of any unit, and of any vector tail behind it.
inline int64_t activation_floats(const StemTraining& run) {
  return (run.largest() + 2 * kPad * run.widest() + 15) / 16 * 16 + 64;
}

// dy = gain * dz - offset + slope * (y - mean): BatchNorm's backward, with sums over the batch and mean_rest folded in.
struct UnitBackward {
  AlignedFloats gain, offset, slope;  // [c_out, padded]
};

struct StemBackward {
  const StemTraining* run;
  PackedMatrix input[kUnits], odd_input[kUnits];      // weights of the input's gradient; odd rows where stride is 2
  PackedMatrix lateral[kMerges], reduce[kMerges];
  UnitBackward units[kUnits];
  float* dz;            // [B, dz_stride]: gradient before the activation of the unit in work, then of its source
  int64_t dz_stride;
  float* branch[kMerges];  // [B, size of the fine source]: gradient that reaches it through the lateral path
  float* dx;               // [B, L] or null
};

// Channels of the source whose gradient comes out of unit u's backward.
inline int64_t source_channels(const Stem& stem, int u) {
  const int m = merge_of(u);
  return m >= 0 ? stem.coarse(m) : stem.units[u].c_in;
}

// Floats of unit u's weight gradients in one group: its parts one after the other [c_out, k * c_in], then the lateral and
// the reducing weights of the merge it reads.
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
