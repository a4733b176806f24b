// The stem's forward in training, unit by unit: a sample's input is activated once into scratch that stays in the L2
// cache, convolved from there, and the output's statistics are taken while it is still there.
#pragma once

#include "stem_eval.h"
#include "stem_training.h"

namespace xmae_fast::XMAE_ISA {

// out = silu((y - mean) * scale + shift): y, out [rows, channels]. The mean is taken away first: folded into the shift it
// would leave its rounding on a whole channel.
inline void activate(const float* y, const UnitNorm& norm, int64_t rows, int64_t channels, float* out) {
  for (int64_t c = 0; c < channels; c += W) {
    const int64_t count = channels - c;
    const Vec scale = load(norm.scale.get() + c), shift = load(norm.shift.get() + c), mean = load(norm.mean.get() + c);
    for (int64_t l = 0; l < rows; ++l) {
      const int64_t at = l * channels + c;
      store_some(out + at, silu((load_some(y + at, count) - mean) * scale + shift), count);
    }
  }
}

// The activated output of unit u for sample b.
inline void activate_unit(const StemTraining& run, int u, int64_t b, float* out) {
  activate(run.kept[u] + b * run.size(u), run.norms[u], run.length(u), run.stem->units[u].c_out, out);
}

constexpr int64_t kSumRows = 32;  // rows of one chain of sums

// Per channel of y [rows, channels]: the mean and the sum of squared distances from it; statistics [2, channels].
inline void sample_statistics(const float* y, int64_t rows, int64_t channels, float* statistics) {
  for (int64_t c = 0; c < channels; c += W) {
    const int64_t count = channels - c;
    Vec total{};
    for (int64_t first = 0; first < rows; first += kSumRows) {
      Vec part{};
      const int64_t last = first + kSumRows < rows ? first + kSumRows : rows;
      for (int64_t l = first; l < last; ++l) part += load_some(y + l * channels + c, count);
      total += part;
    }
    const Vec mean = total / static_cast<float>(rows);
    Vec squares{};
    for (int64_t first = 0; first < rows; first += kSumRows) {
      Vec part{};
      const int64_t last = first + kSumRows < rows ? first + kSumRows : rows;
      for (int64_t l = first; l < last; ++l) {
        const Vec distance = load_some(y + l * channels + c, count) - mean;
        part += distance * distance;
      }
      squares += part;
    }
    store_some(statistics + c, mean, count);
    store_some(statistics + channels + c, squares, count);
  }
}

// merged [fine rows, channels] of sample b; memory: three activation buffers.
inline void merge_levels(const StemTraining& run, int m, int64_t b, float* memory, const Activation& merged) {
  const MergePlan plan = kMergePlan[m];
  const int64_t buffer = activation_floats(run);
  const int64_t fine_rows = run.length(plan.fine), coarse_rows = run.length(plan.coarse);
  const Activation fine{memory, fine_rows, merged.channels};
  const Activation coarse{memory + buffer, coarse_rows, run.stem->units[plan.coarse].c_out};
  activate_unit(run, plan.fine, b, fine.rows);
  activate_unit(run, plan.coarse, b, coarse.rows);
  eval_merge(run.lateral[m], run.reduce[m], fine, coarse, memory + 2 * buffer, merged);
}

// What unit u reads for sample b, padded: input must be an activation of its input's shape.
inline void unit_input(const StemTraining& run, int u, int64_t b, const Activation& input) {
  if (const int m = merge_of(u); m >= 0) {
    const int64_t size = run.in_size(u);
    std::memcpy(input.rows, run.kept[kUnits + m] + b * size, size * sizeof(float));
  } else if (u == 0) {
    std::memcpy(input.rows, run.x + b * run.L, run.L * sizeof(float));
  } else {
    activate_unit(run, u - 1, b, input.rows);
  }
}

// kept[u] for all samples, and the merged level that it reads; statistics [B, 2, c_out].
inline void stem_forward_unit(const StemTraining& run, int u, float* statistics) {
  const StemUnit& unit = run.stem->units[u];
  const int64_t buffer = activation_floats(run), rows = run.length(u), reach = unit.window / 2;
  const PackedMatrix& matrix = run.units[u];
  parallel(run.B, 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(kSlotMain, 4 * buffer);
    const Activation input = Activation::at(memory, run.in_length(u), unit.c_in);
    for (int64_t b = begin; b < end; ++b) {
      if (const int m = merge_of(u); m >= 0) {
        merge_levels(run, m, b, memory + buffer, input);
        std::memcpy(run.kept[kUnits + m] + b * run.in_size(u), input.rows, run.in_size(u) * sizeof(float));
      } else {
        unit_input(run, u, b, input);
      }
      float* out = run.kept[u] + b * run.size(u);
      multiply(input.rows - reach * unit.c_in, unit.stride * unit.c_in, matrix, 0, rows, 0, matrix.panels.size(),
               [&](const RowOut& at, Vec v0, Vec v1) { store_row(out, unit.c_out, at, v0, v1); });
      sample_statistics(out, rows, unit.c_out, statistics + b * 2 * unit.c_out);
    }
  });
}

// Mean and squared distances of every sample of x [B, L]; statistics [B, 2].
inline void input_statistics(const float* x, int64_t B, int64_t L, float* statistics) {
  parallel(B, 16, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) sample_statistics(x + b * L, L, 1, statistics + 2 * b);
  });
}

// features [B, L, S] = act(head) + x * skip_scale + skip_shift.
inline void stem_features(const StemTraining& run, float* features) {
  const int64_t channels = run.stem->channels;
  const UnitNorm& norm = run.norms[kHead];
  parallel(run.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * run.L; i < end * run.L; ++i) {
      const float* y = run.kept[kHead] + i * channels;
      const float sample = run.x[i];
      for (int64_t c = 0; c < channels; c += W) {
        const int64_t count = channels - c;
        const Vec distance = load_some(y + c, count) - load(norm.mean.get() + c);
        const Vec z = distance * load(norm.scale.get() + c) + load(norm.shift.get() + c);
        const Vec skip = sample * load(run.skip_scale.get() + c) + load(run.skip_shift.get() + c);
        store_some(features + i * channels + c, silu(z) + skip, count);
      }
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
