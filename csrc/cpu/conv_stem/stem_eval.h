// The stem in evaluation, with BatchNorm folded into the weights. A sample passes through all units while its
// activations stay in the second-level cache (128 kB each for the default model). Samples run in parallel; the last
// few, and a batch of one, are divided among threads by rows of each unit.
#pragma once

#include "cpu/base/gemm.h"
#include "cpu/base/kernels.h"

namespace xmae_fast::XMAE_ISA {

// An activation [length, channels] with kPad rows of zeros before and after it. rows: its first row.
struct Activation {
  float* rows;
  int64_t length, channels;

  static int64_t size(int64_t length, int64_t channels) { return (length + 2 * kPad) * channels; }
  static Activation at(float* memory, int64_t length, int64_t channels) {
    std::memset(memory, 0, kPad * channels * sizeof(float));
    std::memset(memory + (kPad + length) * channels, 0, kPad * channels * sizeof(float));
    return {memory + kPad * channels, length, channels};
  }
};

// Calls body(begin, end) for ranges of rows, in parallel. Fewer rows than four tiles are not worth waking a thread for.
template <typename Body>
XMAE_INLINE void over_rows(int64_t rows, const Body& body) {
  parallel(rows, 4 * tile_rows(), body);
}

// Computes rows [begin, end) of the output of unit u.
inline void eval_rows(
    const FoldedStem& stem, int u, const Activation& in, const Activation& out, int64_t begin, int64_t end) {
  const FoldedUnit& unit = stem.units[u];
  const float* bias = unit.bias.get();
  const float* a = in.rows - unit.reach * in.channels;
  multiply(
      a, unit.stride * in.channels, unit.matrix, begin, end, 0, unit.matrix.panels.size(),
      [&](const RowOut& at, Vec v0, Vec v1) {
        const float* b = bias + at.column;
        store_row(out.rows, out.channels, at, silu(v0 + load(b)), silu(v1 + load(b + W)));
      });
}

// Computes unit u.
inline void eval_unit(const FoldedStem& stem, int u, const Activation& in, const Activation& out) {
  over_rows(out.length, [&](int64_t begin, int64_t end) { eval_rows(stem, u, in, out, begin, end); });
}

// Computes an Inception block: unit u, its branches, then unit u + 1, the 1x1 convolution that fuses them. That one
// reads only its own row, so threads need not wait for each other in between. `out` must not be `in`.
inline void eval_inception(
    const FoldedStem& stem, int u, const Activation& in, const Activation& branches, const Activation& out) {
  over_rows(out.length, [&](int64_t begin, int64_t end) {
    eval_rows(stem, u, in, branches, begin, end);
    eval_rows(stem, u + 1, branches, out, begin, end);
  });
}

// out = lateral(fine) + up(reduce(coarse)), up being interpolation. reduced: memory for [coarse.length, fine.channels].
inline void eval_merge(
    const PackedMatrix& lateral, const PackedMatrix& reduce, const Activation& fine, const Activation& coarse,
    float* reduced, const Activation& out) {
  over_rows(coarse.length, [&](int64_t begin, int64_t end) {
    multiply(
        coarse.rows, coarse.channels, reduce, begin, end, 0, reduce.panels.size(),
        [&](const RowOut& at, Vec v0, Vec v1) { store_row(reduced, out.channels, at, v0, v1); });
  });
  over_rows(fine.length, [&](int64_t begin, int64_t end) {
    multiply(
        fine.rows, fine.channels, lateral, begin, end, 0, lateral.panels.size(), [&](const RowOut& at, Vec v0, Vec v1) {
          const Between rows = between(at.row, fine.length, coarse.length);
          const float* low = reduced + rows.low * out.channels + at.column;
          const float* high = reduced + rows.high * out.channels + at.column;
          const float w = rows.weight, v = 1.0f - w;
          const int64_t rest = at.count > W ? at.count - W : 0;
          v0 += v * load_some(low, at.count) + w * load_some(high, at.count);
          if (rest > 0) v1 += v * load_some(low + W, rest) + w * load_some(high + W, rest);
          store_row(out.rows, out.channels, at, v0, v1);
        });
  });
}

// out [L, S] = silu(head(in)) + skip path, which is one multiply-add of x [L].
inline void eval_head(const FoldedStem& stem, const Activation& in, const float* x, float* out) {
  const FoldedUnit& unit = stem.units[kHead];
  const float *bias = unit.bias.get(), *scale = stem.skip_scale.get(), *shift = stem.skip_shift.get();
  over_rows(in.length, [&](int64_t begin, int64_t end) {
    multiply(
        in.rows - unit.reach * in.channels, in.channels, unit.matrix, begin, end, 0, unit.matrix.panels.size(),
        [&](const RowOut& at, Vec v0, Vec v1) {
          const int64_t c = at.column;
          const float sample = x[at.row];
          v0 = silu(v0 + load(bias + c)) + (sample * load(scale + c) + load(shift + c));
          v1 = silu(v1 + load(bias + c + W)) + (sample * load(scale + c + W) + load(shift + c + W));
          store_row(out, stem.channels, at, v0, v1);
        });
  });
}

// Computes one sample: x [L] -> out [L, S]. memory: L + 2 kPad floats and five activation buffers. e1, e2 and e3 are
// the outputs of the encoder's levels, m2 and m1 the merged levels, t2 and t1 the smoothed ones.
inline void eval_sample(const FoldedStem& stem, const float* x, int64_t L, float* memory, float* out) {
  const int64_t c1 = stem.widths[0], c2 = stem.widths[1], c3 = stem.widths[2];
  const int64_t L2 = (L + 1) / 2, L3 = (L2 + 1) / 2;
  const int64_t most = stem_eval_buffer(stem, L);
  float *input = memory, *a = input + L + 2 * kPad, *b = a + most, *c = b + most, *keep1 = c + most,
        *keep2 = keep1 + most;

  const Activation in = Activation::at(input, L, 1);
  std::memcpy(in.rows, x, L * sizeof(float));
  eval_inception(stem, kEnc1, in, Activation::at(a, L, c1), Activation::at(b, L, c1));
  const Activation e1 = Activation::at(keep1, L, c1);
  eval_inception(stem, kEnc1 + 2, {b + kPad * c1, L, c1}, Activation::at(a, L, c1), e1);

  const Activation down1 = Activation::at(b, L2, c2), middle2 = Activation::at(c, L2, c2);
  eval_unit(stem, kDown1, e1, down1);
  const Activation e2 = Activation::at(keep2, L2, c2);
  eval_inception(stem, kEnc2, down1, Activation::at(a, L2, c2), middle2);
  eval_inception(stem, kEnc2 + 2, middle2, {a + kPad * c2, L2, c2}, e2);

  const Activation e3 = Activation::at(b, L3, c3), middle3 = Activation::at(c, L3, c3);
  eval_unit(stem, kDown2, e2, e3);
  eval_inception(stem, kEnc3, e3, Activation::at(a, L3, c3), middle3);
  eval_inception(stem, kEnc3 + 2, middle3, {a + kPad * c3, L3, c3}, e3);

  const Activation m2 = Activation::at(a, L2, c2);
  float* reduced = b + Activation::size(L3, c3);
  eval_merge(stem.lateral[0], stem.reduce[0], e2, e3, reduced, m2);
  const Activation t2 = Activation::at(b, L2, c2);
  eval_unit(stem, kSmooth2, m2, t2);
  const Activation m1 = Activation::at(a, L, c1);
  eval_merge(stem.lateral[1], stem.reduce[1], e1, t2, keep2, m1);
  const Activation t1 = Activation::at(b, L, c1);
  eval_unit(stem, kSmooth1, m1, t1);
  eval_head(stem, t1, x, out);
}

// x [B, L] -> out [B, L, S].
inline void stem_eval(const FoldedStem& stem, const float* x, int64_t B, int64_t L, float* out) {
  const int64_t size = L + 2 * kPad + 5 * stem_eval_buffer(stem, L);
  const int64_t together = B - B % num_threads();  // the remaining samples would leave threads idle
  parallel(together, 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(kSlotMain, size);
    for (int64_t b = begin; b < end; ++b) eval_sample(stem, x + b * L, L, memory, out + b * L * stem.channels);
  });
  for (int64_t b = together; b < B; ++b) {
    eval_sample(stem, x + b * L, L, scratch(kSlotMain, size), out + b * L * stem.channels);
  }
}

}  // namespace xmae_fast::XMAE_ISA
