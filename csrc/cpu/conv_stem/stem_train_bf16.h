// The stem's forward in training in bfloat16, unit by unit. Products are of bfloat16 numbers, and their sums, the
// statistics and everything between two products are in float32. The first unit computes in float32. Statistics are
// those of the rounded outputs, because these are what is normalised: in a channel that hardly varies the rounding of
// its values is many standard deviations.
#pragma once

#include "cpu/base/bf16_gemm.h"
#include "cpu/base/rows.h"
#include "cpu/conv_stem/stem_train.h"

namespace xmae_fast::XMAE_ISA {

using Bf16Activation = ActivationOf<Bf16>;

constexpr int64_t kWritesAhead = 64;  // rows; the lines of the outputs of that row are fetched before they are written
constexpr int64_t kCopies = 4;  // sums over rows r, r + 4 and so on, so that an addition need not wait for the last one

// Returns how many floats a buffer takes that serves every unit, as rows of either precision, as pairs of rows or by
// columns.
inline int64_t training_floats(const Bf16StemTraining& run) {
  return (run.largest() + 256 * run.widest() + 15) / 16 * 16;
}

// Numbers that the next sample needs, which are fetched into the second-level cache while this sample is multiplied: one
// cache line for each finished row of a panel.
struct Ahead {
  const Bf16* numbers;  // or null
  int64_t count;

  XMAE_INLINE void fetch(int64_t line) const {
    const int64_t at = line * kPairWidth;
    if (at < count) __builtin_prefetch(numbers + at, 0, 2);
  }
};

// Two sums for each channel of 32 channels.
struct PanelSums {
  float* at;  // [kCopies, 2, 32], or with panels after each other
  static constexpr int64_t kFloats = kCopies * 2 * kPairWidth;

  static XMAE_INLINE PanelSums zeros(float* memory, int64_t channels) {
    std::memset(memory, 0, channels / kPairWidth * kFloats * sizeof(float));
    return {memory};
  }
  // Adds a row's terms a of the first sum and b of the second.
  XMAE_INLINE void add(const RowOut& row, Vec a0, Vec a1, Vec b0, Vec b1) const {
    float* p = at + row.column / kPairWidth * kFloats + row.row % kCopies * 2 * kPairWidth;
    store(p, load(p) + a0);
    store(p + W, load(p + W) + a1);
    store(p + 2 * W, load(p + 2 * W) + b0);
    store(p + 3 * W, load(p + 3 * W) + b1);
  }
  // Writes both sums of all channels.
  XMAE_INLINE void write(int64_t channels, float* first, float* second) const {
    for (int64_t c = 0; c < channels; c += W) {
      const float* p = at + c / kPairWidth * kFloats + c % kPairWidth;
      Vec a = load(p), b = load(p + kPairWidth);
      for (int64_t i = 1; i < kCopies; ++i) {
        a += load(p + i * 2 * kPairWidth);
        b += load(p + (2 * i + 1) * kPairWidth);
      }
      store(first + c, a);
      store(second + c, b);
    }
  }
};

// A unit's normalisation for 16 channels from c on.
struct NormBlock {
  Vec mean, scale, shift;
  XMAE_INLINE NormBlock(const UnitNorm& norm, int64_t c)
      : mean(load(norm.mean.get() + c)), scale(load(norm.scale.get() + c)), shift(load(norm.shift.get() + c)) {}
  XMAE_INLINE Vec operator()(Vec y) const { return (y - mean) * scale + shift; }
};

// out = silu(norm(y)) for y, out [rows, channels].
inline void activate(const Bf16* y, const UnitNorm& norm, int64_t rows, int64_t channels, Bf16* out) {
  for (int64_t l = 0; l < rows; ++l) {
    for (int64_t c = 0; c < channels; c += kPairWidth) {
      const NormBlock first(norm, c), second(norm, c + W);
      const Bf16* from = y + l * channels + c;
      store_bf16(out + l * channels + c, fine_silu(first(load_bf16(from))), fine_silu(second(load_bf16(from + W))));
    }
  }
}

// Writes the activated output of unit u for sample b to `out`.
inline Bf16Activation activated(const Bf16StemTraining& run, int u, int64_t b, float* memory) {
  const auto out = Bf16Activation::at(memory, run.length(u), run.row(run.stem->units[u].c_out));
  activate(run.kept[u] + b * run.size(u), run.norms[u], out.length, out.channels, out.rows);
  return out;
}

// Returns the input of unit u, which is not the first, for sample b. A merged level is computed, and kept. memory: four
// buffers.
inline Bf16Activation bf16_unit_input(const Bf16StemTraining& run, int u, int64_t b, float* memory) {
  const int m = merge_of(u);
  if (m < 0) return activated(run, u - 1, b, memory);
  const int64_t buffer = training_floats(run);
  const MergePlan plan = kMergePlan[m];
  const auto merged = Bf16Activation::at(memory, run.in_length(u), run.row(run.stem->units[u].c_in));
  const auto fine = activated(run, plan.fine, b, memory + buffer);
  const auto coarse = activated(run, plan.coarse, b, memory + 2 * buffer);
  const Team alone(0, 1, nullptr);
  eval_merge<Bfloat16>(alone, run.lateral[m], run.reduce[m], fine, coarse, memory + 3 * buffer, merged);
  std::memcpy(run.kept[kUnits + m] + b * run.in_size(u), merged.rows, run.in_size(u) * sizeof(Bf16));
  return merged;
}

// Stores rows of a unit's output, rounded, and sums their distances from the first row and the squares of these: the
// first row is never farther from the mean than sqrt(rows) standard deviations, so little is lost where the mean of the
// distances is subtracted.
struct StatisticsRow {
  Bf16* out;
  int64_t channels;
  PanelSums sums;
  float* first;  // [channels]
  Ahead ahead;

  XMAE_INLINE void operator()(const RowOut& at, Vec v0, Vec v1) const {
    Bf16* p = out + at.row * channels + at.column;
    store_bf16(p, v0, v1);
    v0 = load_bf16(p);
    v1 = load_bf16(p + W);
    float* about = first + at.column;
    if (at.row == 0) {
      store(about, v0);
      store(about + W, v1);
    }
    v0 -= load(about);
    v1 -= load(about + W);
    sums.add(at, v0, v1, v0 * v0, v1 * v1);
    __builtin_prefetch(p + kWritesAhead * channels, 1, 2);
    ahead.fetch(at.row * (channels / kPairWidth) + at.column / kPairWidth);
  }
};

// Computes run.kept[u], the output of unit u before BatchNorm, for all samples, and the merged level that it reads if
// it reads one. Writes statistics [B, 3, row(c_out)]: a number, and the sums of distances and of squared distances from
// it, with which `merge` computes mean and variance.
inline void stem_forward_unit(const Bf16StemTraining& run, int u, float* statistics) {
  const StemUnit& unit = run.stem->units[u];
  const int64_t buffer = training_floats(run), rows = run.length(u), reach = unit.window / 2;
  const int64_t channels = run.row(unit.c_out);
  parallel(run.B, 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(kSlotMain, 5 * buffer);
    for (int64_t b = begin; b < end; ++b) {
      float* own = statistics + b * 3 * channels;
      const int64_t input_size = u > 0 ? run.size(u - 1) : 0;
      const StatisticsRow epilogue{
          run.kept[u] + b * run.size(u),
          channels,
          PanelSums::zeros(memory + 4 * buffer, channels),
          own,
          {u > 0 ? run.kept[u - 1] + (b + 1) * input_size : nullptr, b + 1 < end ? input_size : 0}};
      if (u == 0) {
        const Activation input = Activation::at(memory, run.L, 1);
        std::memcpy(input.rows, run.x + b * run.L, run.L * sizeof(float));
        multiply(input.rows - reach, 1, run.first, 0, rows, 0, run.first.panels.size(), RowFunction(epilogue));
      } else {
        const Bf16Activation input = bf16_unit_input(run, u, b, memory);
        const Bf16Matrix& matrix = run.units[u];
        multiply(
            input.rows - reach * input.channels, unit.stride * input.channels, matrix, 0, rows, 0,
            matrix.panels.size(), epilogue);
      }
      epilogue.sums.write(channels, own + channels, own + 2 * channels);
    }
  });
}

// features [B, L, S] = activated head + (x - skip_mean) * skip_scale + skip_shift.
inline void stem_features(const Bf16StemTraining& run, Bf16* features) {
  const int64_t S = run.stem->channels, channels = run.row(S);
  parallel(run.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t c = 0; c < S; c += W) {
        const NormBlock norm(run.norms[kHead], c);
        const Vec scale = load(run.skip_scale.get() + c), shift = load(run.skip_shift.get() + c);
        const Bf16* y = run.kept[kHead] + b * run.size(kHead) + c;
        Bf16* out = features + b * run.L * S + c;
        const float* x = run.x + b * run.L;
        for (int64_t l = 0; l < run.L; ++l) {
          const Vec skip = (x[l] - run.skip_mean) * scale + shift;
          store_some_bf16(out + l * S, fine_silu(norm(load_bf16(y + l * channels))) + skip, S - c);
        }
      }
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
