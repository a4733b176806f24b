// The stem's forward in training, unit by unit. A sample's input is activated once, into scratch memory that stays in
// the second-level cache, and convolved from there; the output's statistics are taken while it is still in the cache.
#pragma once

#include "cpu/conv_stem/stem_eval.h"
#include "cpu/conv_stem/stem_training.h"

namespace xmae_fast::XMAE_ISA {

// Calls body.template operator()<V>(c, count) for blocks of V vectors of channels that begin at channel c. Memory is
// read nearly in order, and the V sums of a block stay in registers. The last block may be one vector of which only
// `count` channels exist.
template <typename Body>
XMAE_INLINE void over_channels(int64_t channels, const Body& body) {
  int64_t c = 0;
  for (; c + 4 * W <= channels; c += 4 * W) body.template operator()<4>(c, 4 * W);
  for (; c + 2 * W <= channels; c += 2 * W) body.template operator()<2>(c, 2 * W);
  for (; c < channels; c += W) body.template operator()<1>(c, channels - c);
}

// V vectors of a row. `read` and `write` access `count` floats at p: all of them, unless V is 1.
template <int V>
struct Block {
  Vec v[V];

  static XMAE_INLINE Block read(const float* p, int64_t count) {
    Block block;
    if constexpr (V == 1) {
      block.v[0] = load_some(p, count);
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) block.v[i] = load(p + i * W);
    }
    return block;
  }
  XMAE_INLINE void write(float* p, int64_t count) const {
    if constexpr (V == 1) {
      store_some(p, v[0], count);
    } else {
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) store(p + i * W, v[i]);
    }
  }
};

// The rows that the stem's statistics sum one after another. Where rows are equal, their additions round equally and
// the errors do not average out: with 32 rows the error of a variance would be seven times that of the plain path,
// which sums in double.
constexpr int64_t kChainRows = 8;

// Adds up S sums of V vectors over the rows. terms(row, sums) adds one row's terms to `sums`. The chains are added up
// together with what each addition loses by rounding.
template <int V, int S, typename Terms>
XMAE_INLINE void sum_rows(int64_t rows, Block<V> (&total)[S], const Terms& terms) {
  Block<V> lost[S] = {};
  for (Block<V>& block : total) block = {};
  for (int64_t first = 0; first < rows; first += kChainRows) {
    Block<V> part[S] = {};
    const int64_t last = first + kChainRows < rows ? first + kChainRows : rows;
    for (int64_t l = first; l < last; ++l) terms(l, part);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) {
        const Vec before = total[s].v[i], more = part[s].v[i], sum = before + more, added = sum - before;
        lost[s].v[i] += (before - (sum - added)) + (more - added);
        total[s].v[i] = sum;
      }
    }
  }
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s) {
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) total[s].v[i] += lost[s].v[i];
  }
}

// out = silu((y - mean) * scale + shift) for y, out [rows, channels]. The mean is subtracted first; if it were part of
// the shift, its rounding would change the whole channel.
inline void activate(const float* y, const UnitNorm& norm, int64_t rows, int64_t channels, float* out) {
  over_channels(channels, [&]<int V>(int64_t c, int64_t count) {
    const auto scale = Block<V>::read(norm.scale.get() + c, W), shift = Block<V>::read(norm.shift.get() + c, W);
    const auto mean = Block<V>::read(norm.mean.get() + c, W);
    for (int64_t l = 0; l < rows; ++l) {
      Block<V> value = Block<V>::read(y + l * channels + c, count);
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) value.v[i] = silu((value.v[i] - mean.v[i]) * scale.v[i] + shift.v[i]);
      value.write(out + l * channels + c, count);
    }
  });
}

// Writes the activated output of unit u for sample b to out [rows, c_out].
inline void activate_unit(const StemTraining& run, int u, int64_t b, float* out) {
  activate(run.kept[u] + b * run.size(u), run.norms[u], run.length(u), run.stem->units[u].c_out, out);
}

// For each channel of y [rows, channels] writes to statistics [3, channels] the mean, rounded to float, and the sums of
// distances and of squared distances from that float, with which `merge` corrects mean and variance.
inline void sample_statistics(const float* y, int64_t rows, int64_t channels, float* statistics) {
  over_channels(channels, [&]<int V>(int64_t c, int64_t count) {
    Block<V> mean[1], distances[2];
    sum_rows<V, 1>(rows, mean, [&](int64_t l, Block<V>(&sums)[1]) {
      const auto value = Block<V>::read(y + l * channels + c, count);
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) sums[0].v[i] += value.v[i];
    });
#pragma GCC unroll 4
    for (int i = 0; i < V; ++i) mean[0].v[i] /= static_cast<float>(rows);
    sum_rows<V, 2>(rows, distances, [&](int64_t l, Block<V>(&sums)[2]) {
      const auto value = Block<V>::read(y + l * channels + c, count);
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) {
        const Vec distance = value.v[i] - mean[0].v[i];
        sums[0].v[i] += distance;
        sums[1].v[i] += distance * distance;
      }
    });
    mean[0].write(statistics + c, count);
    distances[0].write(statistics + channels + c, count);
    distances[1].write(statistics + 2 * channels + c, count);
  });
}

// Computes the merged level of merge m, merged [fine rows, channels], for sample b. memory: three activation buffers.
inline void merge_levels(const StemTraining& run, int m, int64_t b, float* memory, const Activation& merged) {
  const MergePlan plan = kMergePlan[m];
  const int64_t buffer = activation_floats(run);
  const int64_t fine_rows = run.length(plan.fine), coarse_rows = run.length(plan.coarse);
  const Activation fine{memory, fine_rows, merged.channels};
  const Activation coarse{memory + buffer, coarse_rows, run.stem->units[plan.coarse].c_out};
  activate_unit(run, plan.fine, b, fine.rows);
  activate_unit(run, plan.coarse, b, coarse.rows);
  eval_merge<Float32>(run.lateral[m], run.reduce[m], fine, coarse, memory + 2 * buffer, merged);
}

// Writes the input of unit u for sample b to `input`, an activation [in_length, c_in].
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

// Computes run.kept[u], the output of unit u before BatchNorm, for all samples, and the merged level that it reads if
// it reads one. Writes statistics [B, 3, c_out].
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
      multiply(
          input.rows - reach * unit.c_in, unit.stride * unit.c_in, matrix, 0, rows, 0, matrix.panels.size(),
          [&](const RowOut& at, Vec v0, Vec v1) { store_row(out, unit.c_out, at, v0, v1); });
      sample_statistics(out, rows, unit.c_out, statistics + b * 3 * unit.c_out);
    }
  });
}

// Writes sample_statistics() of each sample of x [B, L] to statistics [B, 3].
inline void input_statistics(const float* x, int64_t B, int64_t L, float* statistics) {
  parallel(B, 16, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) sample_statistics(x + b * L, L, 1, statistics + 3 * b);
  });
}

// features [B, L, S] = activated head + (x - skip_mean) * skip_scale + skip_shift.
inline void stem_features(const StemTraining& run, float* features) {
  const int64_t channels = run.stem->channels;
  const UnitNorm& norm = run.norms[kHead];
  const float* scale = run.skip_scale.get();
  const float* shift = run.skip_shift.get();
  parallel(run.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* out = features + b * run.L * channels;
      activate(run.kept[kHead] + b * run.L * channels, norm, run.L, channels, out);
      for (int64_t l = 0; l < run.L; ++l) {
        const float distance = run.x[b * run.L + l] - run.skip_mean;
        for (int64_t c = 0; c < channels; c += W) {
          float* p = out + l * channels + c;
          store_some(p, load_some(p, channels - c) + (distance * load(scale + c) + load(shift + c)), channels - c);
        }
      }
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
