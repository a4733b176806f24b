// The stem as a list of units. A unit is a convolution, or the three convolutions of an Inception block's branches,
// followed by BatchNorm and SiLU. The branches are one unit over a 7-tap window, with the channels of the widest kernel
// first (k7 | k5 | k3; the published order is k3 | k5 | k7), so that the taps that reach farthest belong to the first
// channels.
#pragma once

#include "cpu/base/pack.h"

namespace xmae_fast {

constexpr int kUnits = 17;
constexpr int kMerges = 2;   // the coarsest level is merged into the middle one, and that into the finest
constexpr int64_t kPad = 3;  // rows of zeros around an activation, as many as the widest window reaches
constexpr float kNormEps = 1e-5f;

// A convolution without bias and the BatchNorm after it.
struct ConvNorm {
  const float* weight;  // [c_out, c_in, k]
  const float* gamma;   // [c_out]
  const float* beta;    // [c_out]
  const float* mean;    // [c_out]
  const float* var;     // [c_out]
  int64_t c_out, k;
  int conv;  // the convolution's place among those of the stem
};

struct StemUnit {
  int64_t c_in, c_out, window, stride, level;  // window: taps; level: that of the output, 0 (finest) to 2
  int num_parts;
  ConvNorm parts[3];  // the branches, or one convolution, in the order of the internal channels
  // Input channels [in_start[i], in_start[i] + in_size[i]) are the published ones from in_published[i] on, for i <
  // num_in. Only a unit that reads branches has more than one such run.
  int64_t in_start[3], in_size[3], in_published[3];
  int num_in;
};

// The places of units in the list.
enum StemUnitName : int {
  kEnc1 = 0,
  kDown1 = 4,
  kEnc2 = 5,
  kDown2 = 9,
  kEnc3 = 10,
  kSmooth2 = 14,
  kSmooth1 = 15,
  kHead = 16
};

struct Stem {
  StemUnit units[kUnits];
  ConvNorm skip;
  const float* lateral[kMerges];  // [fine, fine]: 1x1 convolution of the finer source of a merged level
  const float* reduce[kMerges];   // [fine, coarse]: that of the coarser source
  int64_t widths[3], channels;    // channels of the three levels; S

  // Channels of the sources of merge m. The merged level has as many as the finer source.
  int64_t fine(int m) const { return widths[1 - m]; }
  int64_t coarse(int m) const { return widths[2 - m]; }

  // Returns how many rows a level has for signals of L samples.
  int64_t length(int64_t L, int64_t level) const {
    for (; level > 0; --level) L = (L + 1) / 2;
    return L;
  }
};

// Returns which tap of a part lies under tap t of the unit's window, or -1.
inline int64_t part_tap(const StemUnit& unit, const ConvNorm& part, int64_t t) {
  const int64_t own = t - (unit.window - part.k) / 2;
  return own >= 0 && own < part.k ? own : -1;
}

// Which part of a unit computes a column of its output, and which channel of the part that is.
struct PartChannel {
  const ConvNorm* part;
  int64_t channel;
};
XMAE_INLINE PartChannel part_of(const StemUnit& unit, int64_t column) {
  int p = 0;
  while (column >= unit.parts[p].c_out) column -= unit.parts[p++].c_out;
  return {&unit.parts[p], column};
}

// The steps of a unit's forward, where a row of its input has `row` numbers.
inline std::vector<Run> forward_runs(const StemUnit& unit, int64_t row) {
  std::vector<Run> runs;
  for (int64_t t = 0; t < unit.window; ++t) {
    for (int i = 0; i < unit.num_in; ++i) runs.push_back({t * row + unit.in_start[i], unit.in_size[i]});
  }
  return runs;
}

// The weights of these steps. scale [c_out]: factors of the output channels, or null for 1.
struct ForwardWeights {
  const StemUnit& unit;
  const float* scale;

  RunWeights operator()(int64_t run, int64_t column) const {
    const auto [part, channel] = part_of(unit, column);
    const int64_t tap = part_tap(unit, *part, run / unit.num_in);
    if (tap < 0) return {};
    const int64_t published = unit.in_published[run % unit.num_in];
    return {part->weight + (channel * unit.c_in + published) * part->k + tap, part->k, scale ? scale[column] : 1.0f};
  }
};

// Packs the weights of a unit's forward.
inline PackedMatrix pack_forward(int64_t width, const StemUnit& unit, const float* scale) {
  return pack(width, unit.c_out, forward_runs(unit, unit.c_in), ForwardWeights{unit, scale});
}

// The steps and weights of the gradient of a unit's input; the rows of A are those of the output's gradient and have `row`
// numbers. parity: for stride 2 it chooses the even (0) or odd (1) input rows; for stride 1 it is 0.
struct InputGradient {
  const StemUnit& unit;
  std::vector<Run> runs;
  std::vector<std::pair<const ConvNorm*, int64_t>> taps;  // each run's part and tap

  InputGradient(const StemUnit& of, int parity, int64_t row) : unit(of) {
    if (unit.stride == 1) {
      for (int64_t r = 0; r < unit.window; ++r) add(r * row, unit.window - 1 - r);
    } else if (parity == 0) {
      add(0, 1);
    } else {
      add(0, 2);
      add(row, 0);
    }
  }

  RunWeights operator()(int64_t run, int64_t column) const {
    int i = 0;
    while (column >= unit.in_start[i] + unit.in_size[i]) ++i;
    const auto [part, tap] = taps[run];
    const int64_t published = unit.in_published[i] + column - unit.in_start[i];
    return {part->weight + published * part->k + tap, unit.c_in * part->k, 1.0f};
  }

 private:
  void add(int64_t offset, int64_t t) {
    int64_t start = 0;
    for (int p = 0; p < unit.num_parts; start += unit.parts[p++].c_out) {
      const int64_t tap = part_tap(unit, unit.parts[p], t);
      if (tap < 0) continue;
      runs.push_back({offset + start, unit.parts[p].c_out});
      taps.emplace_back(&unit.parts[p], tap);
    }
  }
};

// Packs the weights of the gradient of a unit's input.
inline PackedMatrix pack_input_gradient(int64_t width, const StemUnit& unit, int parity, int64_t row) {
  const InputGradient gradient(unit, parity, row);
  return pack(width, unit.c_in, gradient.runs, gradient);
}

// The two rows of a coarser level between which a row lies: linear interpolation without aligned corners, as
// torch.nn.functional.interpolate does it.
struct Between {
  int64_t low, high;
  float weight;  // of `high`
};
inline Between between(int64_t row, int64_t rows, int64_t coarse_rows) {
  const float ratio = static_cast<float>(coarse_rows) / static_cast<float>(rows);
  const float at = ratio * (static_cast<float>(row) + 0.5f) - 0.5f;
  const float clamped = at > 0.0f ? at : 0.0f;
  const int64_t low = std::min(static_cast<int64_t>(clamped), coarse_rows - 1);
  return {low, low < coarse_rows - 1 ? low + 1 : low, clamped - static_cast<float>(low)};
}

}  // namespace xmae_fast
