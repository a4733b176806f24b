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

// Two sums for each channel, [panels, 2, 32].
struct PanelSums {
  float* at;

  static XMAE_INLINE int64_t floats(int64_t channels) { return 2 * channels; }
  static XMAE_INLINE PanelSums zeros(float* memory, int64_t channels) {
    std::memset(memory, 0, floats(channels) * sizeof(float));
    return {memory};
  }
  // Writes both sums of all channels.
  XMAE_INLINE void write(int64_t channels, float* first, float* second) const {
    for (int64_t c = 0; c < channels; c += kPairWidth) {
      std::memcpy(first + c, at + 2 * c, kPairWidth * sizeof(float));
      std::memcpy(second + c, at + 2 * c + kPairWidth, kPairWidth * sizeof(float));
    }
  }

  // Those of the panel at `column`, in registers.
  struct Panel {
    float* at;
    Vec a0, a1, b0, b1;
    XMAE_INLINE void add(Vec x0, Vec x1, Vec y0, Vec y1) {
      a0 += x0;
      a1 += x1;
      b0 += y0;
      b1 += y1;
    }
    XMAE_INLINE void close() const {
      store(at, a0);
      store(at + W, a1);
      store(at + 2 * W, b0);
      store(at + 3 * W, b1);
    }
  };
  XMAE_INLINE Panel open(int64_t column) const {
    float* p = at + 2 * column;
    return {p, load(p), load(p + W), load(p + 2 * W), load(p + 3 * W)};
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

  struct Panel {
    const StatisticsRow& all;
    int64_t column;
    PanelSums::Panel sums;
    Vec first0, first1;

    XMAE_INLINE void operator()(int64_t row, Vec v0, Vec v1) {
      const int64_t place = row * all.channels + column;
      Bf16* p = all.out + place;
      store_bf16(p, v0, v1);
      v0 = load_bf16(p);
      v1 = load_bf16(p + W);
      if (row == 0) {
        first0 = v0;
        first1 = v1;
      }
      v0 -= first0;
      v1 -= first1;
      sums.add(v0, v1, v0 * v0, v1 * v1);
      __builtin_prefetch(p + kWritesAhead * all.channels, 1, 2);
      all.ahead.fetch(place / kPairWidth);
    }
    XMAE_INLINE void close() const {
      store(all.first + column, first0);
      store(all.first + column + W, first1);
      sums.close();
    }
  };
  XMAE_INLINE Panel open(int64_t column) const {
    return {*this, column, sums.open(column), load(first + column), load(first + column + W)};
  }
  XMAE_INLINE void operator()(const RowOut& at, Vec v0, Vec v1) const {
    Panel panel = open(at.column);
    panel(at.row, v0, v1);
    panel.close();
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
            input.rows - reach * input.channels, unit.stride * input.channels, matrix, 0, rows, 0, matrix.panels.size(),
            epilogue);
      }
      epilogue.sums.write(channels, own + channels, own + 2 * channels);
    }
  });
}

// Adds up the vectors term(l, count) of samples [l, l + count), in chains of kSumRows.
template <typename Term>
XMAE_INLINE float sum_signal(int64_t L, const Term& term) {
  Vec total{};
  for (int64_t first = 0; first < L; first += kSumRows * W) {
    Vec part{};
    for (int64_t l = first; l < L && l < first + kSumRows * W; l += W) part += term(l, L - l);
    total += part;
  }
  return sum(total);
}

// Writes statistics [B, 3] of each sample of x [B, L]: about its mean, as stem_forward_unit does about another number.
inline void signal_statistics(const float* x, int64_t B, int64_t L, float* statistics) {
  parallel(B, 16, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* own = x + b * L;
      const auto at = [&](int64_t l, int64_t count) { return load_some(own + l, count); };
      const float mean = sum_signal(L, at) / static_cast<float>(L);
      // In a vector that ends after the last sample, the other numbers count as the mean.
      const auto distance = [&](int64_t l, int64_t count) {
        if (count >= W) return load(own + l) - mean;
        float lanes[W] = {};
        for (int64_t i = 0; i < count; ++i) lanes[i] = own[l + i] - mean;
        return load(lanes);
      };
      const auto square = [&](int64_t l, int64_t count) {
        const Vec d = distance(l, count);
        return d * d;
      };
      statistics[3 * b] = mean;
      statistics[3 * b + 1] = sum_signal(L, distance);
      statistics[3 * b + 2] = sum_signal(L, square);
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
