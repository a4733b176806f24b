// The stem in evaluation, with BatchNorm folded into the weights. A sample passes through all units while its
// activations stay in the second-level cache (128 kB each for the default model, half of it in bfloat16). Samples run in
// parallel; the last few, and a batch of one, are divided among a team of threads by rows of each unit.
//
// Math is the precision, Float32 or Bfloat16.
#pragma once

#include "cpu/base/gemm.h"
#include "cpu/base/kernels.h"

namespace xmae_fast::XMAE_ISA {

// The fewest rows of a level that a product may read, whatever its length: in bfloat16 a tile of rows two apart.
template <typename Math>
constexpr int64_t kLeastRows = sizeof(typename Math::Number) == 2 ? 32 : 0;

// An activation [length, channels] with kPad rows of zeros before and after it. rows: its first row.
template <typename Number>
struct ActivationOf {
  Number* rows;
  int64_t length, channels;

  // clears: whether the calling thread writes the zeros.
  static ActivationOf at(float* memory, int64_t length, int64_t channels, bool clears = true) {
    Number* numbers = reinterpret_cast<Number*>(memory);
    if (!clears) return {numbers + kPad * channels, length, channels};
    std::memset(numbers, 0, kPad * channels * sizeof(Number));
    std::memset(numbers + (kPad + length) * channels, 0, kPad * channels * sizeof(Number));
    return {numbers + kPad * channels, length, channels};
  }
};

using Activation = ActivationOf<float>;

// Rows are divided among threads in whole tiles.
constexpr int64_t kSharedRows = 2 * 16;

// Computes rows [begin, end) of the output of a unit.
template <typename Math, typename Matrix, typename In>
void eval_rows(
    const FoldedUnit<Matrix>& unit, const ActivationOf<In>& in, const ActivationOf<typename Math::Number>& out,
    int64_t begin, int64_t end) {
  const float* bias = unit.bias.get();
  multiply(
      in.rows - unit.reach * in.channels, unit.stride * in.channels, unit.matrix, begin, end, 0,
      unit.matrix.panels.size(), [&](const RowOut& at, Vec v0, Vec v1) {
        const float* b = bias + at.column;
        Math::store(out.rows, out.channels, at, Math::silu(v0 + load(b)), Math::silu(v1 + load(b + W)));
      });
}

// Computes a unit.
template <typename Math, typename Matrix, typename Numbers>
void eval_unit(const Team& team, const FoldedUnit<Matrix>& unit, const Numbers& in, const Numbers& out) {
  team.share(out.length, kSharedRows, [&](int64_t begin, int64_t end) { eval_rows<Math>(unit, in, out, begin, end); });
}

// Computes an Inception block: its branches, then `fuse`, the 1x1 convolution that fuses them. That one reads only its
// own row, so threads need not wait for each other in between. `out` must not be `in`.
template <typename Math, typename Matrix, typename In, typename Numbers>
void eval_inception(
    const Team& team, const FoldedUnit<Matrix>& branches, const FoldedUnit<typename Math::Matrix>& fuse, const In& in,
    const Numbers& middle, const Numbers& out) {
  team.share(out.length, kSharedRows, [&](int64_t begin, int64_t end) {
    eval_rows<Math>(branches, in, middle, begin, end);
    eval_rows<Math>(fuse, middle, out, begin, end);
  });
}

// out = lateral(fine) + up(reduce(coarse)), up being interpolation. reduced: memory for [coarse.length, fine.channels].
template <typename Math, typename Numbers>
void eval_merge(
    const Team& team, const typename Math::Matrix& lateral, const typename Math::Matrix& reduce, const Numbers& fine,
    const Numbers& coarse, float* reduced, const Numbers& out) {
  team.share(coarse.length, kSharedRows, [&](int64_t begin, int64_t end) {
    multiply(
        coarse.rows, coarse.channels, reduce, begin, end, 0, reduce.panels.size(),
        [&](const RowOut& at, Vec v0, Vec v1) { store_row(reduced, out.channels, at, v0, v1); });
  });
  team.share(fine.length, kSharedRows, [&](int64_t begin, int64_t end) {
    multiply(
        fine.rows, fine.channels, lateral, begin, end, 0, lateral.panels.size(), [&](const RowOut& at, Vec v0, Vec v1) {
          const Between rows = between(at.row, fine.length, coarse.length);
          const float* low = reduced + rows.low * out.channels + at.column;
          const float* high = reduced + rows.high * out.channels + at.column;
          const float w = rows.weight, v = 1.0f - w;
          const int64_t rest = at.count > W ? at.count - W : 0;
          v0 += v * load_some(low, at.count) + w * load_some(high, at.count);
          if (rest > 0) v1 += v * load_some(low + W, rest) + w * load_some(high + W, rest);
          Math::store(out.rows, out.channels, at, v0, v1);
        });
  });
}

// out [L, S] = silu(head(in)) + skip path, which is one multiply-add of x [L].
template <typename Math, typename Numbers>
void eval_head(
    const Team& team, const FoldedStem<typename Math::Matrix>& stem, const Numbers& in, const float* x,
    typename Math::Feature* out) {
  const auto& unit = stem.units[kHead];
  const float *bias = unit.bias.get(), *scale = stem.skip_scale.get(), *shift = stem.skip_shift.get();
  team.share(in.length, kSharedRows, [&](int64_t begin, int64_t end) {
    multiply(
        in.rows - unit.reach * in.channels, in.channels, unit.matrix, begin, end, 0, unit.matrix.panels.size(),
        [&](const RowOut& at, Vec v0, Vec v1) {
          const int64_t c = at.column;
          const float sample = x[at.row];
          v0 = Math::silu(v0 + load(bias + c)) + (sample * load(scale + c) + load(shift + c));
          v1 = Math::silu(v1 + load(bias + c + W)) + (sample * load(scale + c + W) + load(shift + c + W));
          Math::store_dense(out, stem.channels, at, v0, v1);
        });
  });
}

// Returns how many floats the input takes, with kPad samples of zeros on either side: whole cache lines, so that the rows
// of the activations after it lie in as few lines as they can.
inline int64_t stem_input_buffer(int64_t L) { return (L + 2 * kPad + 15) / 16 * 16; }

// Computes one sample: x [L] -> out [L, S]. memory: stem_input_buffer(L) floats and five activation buffers. e1, e2 and e3 are
// the outputs of the encoder's levels, m2 and m1 the merged levels, t2 and t1 the smoothed ones.
template <typename Math>
void eval_sample(
    const Team& team, const FoldedStem<typename Math::Matrix>& stem, const float* x, int64_t L, float* memory,
    typename Math::Feature* out) {
  using Numbers = ActivationOf<typename Math::Number>;
  const auto& units = stem.units;
  const int64_t c1 = stem.widths[0], c2 = stem.widths[1], c3 = stem.widths[2];
  const int64_t L2 = (L + 1) / 2, L3 = (L2 + 1) / 2;
  const int64_t most = stem_eval_buffer(stem, L, kLeastRows<Math>);
  float *input = memory, *a = input + stem_input_buffer(L), *b = a + most, *c = b + most, *keep1 = c + most,
        *keep2 = keep1 + most;

  const auto level = [&](float* buffer, int64_t length, int64_t channels) {
    return Numbers::at(buffer, length, channels, team.leads());
  };
  const Activation in = Activation::at(input, L, 1, team.leads());
  if (team.leads()) std::memcpy(in.rows, x, L * sizeof(float));
  team.wait();
  const Numbers first = level(b, L, c1), e1 = level(keep1, L, c1), middle1 = level(a, L, c1);
  eval_inception<Math>(team, stem.first, units[kEnc1 + 1], in, middle1, first);
  eval_inception<Math>(team, units[kEnc1 + 2], units[kEnc1 + 3], first, middle1, e1);

  const Numbers down1 = level(b, L2, c2), second = level(c, L2, c2), e2 = level(keep2, L2, c2);
  eval_unit<Math>(team, units[kDown1], e1, down1);
  const Numbers middle2 = level(a, L2, c2);
  eval_inception<Math>(team, units[kEnc2], units[kEnc2 + 1], down1, middle2, second);
  eval_inception<Math>(team, units[kEnc2 + 2], units[kEnc2 + 3], second, middle2, e2);

  const Numbers e3 = level(b, L3, c3), third = level(c, L3, c3);
  eval_unit<Math>(team, units[kDown2], e2, e3);
  const Numbers middle3 = level(a, L3, c3);
  eval_inception<Math>(team, units[kEnc3], units[kEnc3 + 1], e3, middle3, third);
  eval_inception<Math>(team, units[kEnc3 + 2], units[kEnc3 + 3], third, middle3, e3);

  const Numbers m2 = level(a, L2, c2);
  float* reduced = b + (most - L3 * c2) / 16 * 16;
  eval_merge<Math>(team, stem.lateral[0], stem.reduce[0], e2, e3, reduced, m2);
  const Numbers t2 = level(b, L2, c2);
  eval_unit<Math>(team, units[kSmooth2], m2, t2);
  const Numbers m1 = level(a, L, c1);
  eval_merge<Math>(team, stem.lateral[1], stem.reduce[1], e1, t2, keep2, m1);
  const Numbers t1 = level(b, L, c1);
  eval_unit<Math>(team, units[kSmooth1], m1, t1);
  eval_head<Math>(team, stem, t1, x, out);
}

// x [B, L] -> out [B, L, S].
template <typename Math>
void stem_eval(
    const FoldedStem<typename Math::Matrix>& stem, const float* x, int64_t B, int64_t L, typename Math::Feature* out) {
  const int64_t size = stem_input_buffer(L) + 5 * stem_eval_buffer(stem, L, kLeastRows<Math>);
  const int64_t together = B - B % num_threads();  // the remaining samples would leave threads idle
  parallel(together, 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(kSlotMain, size);
    const Team alone(0, 1, nullptr);
    for (int64_t b = begin; b < end; ++b) {
      eval_sample<Math>(alone, stem, x + b * L, L, memory, out + b * L * stem.channels);
    }
  });
  if (together == B) return;
  float* memory = scratch(kSlotMain, size);
  as_team([&](const Team& team) {
    for (int64_t b = together; b < B; ++b) {
      eval_sample<Math>(team, stem, x + b * L, L, memory, out + b * L * stem.channels);
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
