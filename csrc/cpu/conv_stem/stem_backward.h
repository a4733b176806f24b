// The stem's backward, unit by unit from the head. For each sample BatchNorm's gradient and the unit's input are
// computed once, into scratch memory that stays in the second-level cache; the gradients of weights and input are
// computed from there. Then the gradient of the unit's source, before its activation, replaces the unit's gradient in
// memory. Groups of samples have their own gradients of weights, which are added up in order.
#pragma once

#include "cpu/base/outer.h"
#include "cpu/conv_stem/stem_train.h"

namespace xmae_fast::XMAE_ISA {

// dz = (g + g_extra) * silu'((y - mean) * scale + shift), and per channel the sums of dz and of dz * (y - mean).
// g, g_extra (or null), y, dz [rows, channels]; sums [2, channels]. dz may be g.
inline void through_activation(
    const float* g, const float* g_extra, const float* y, const UnitNorm& norm, int64_t rows, int64_t channels,
    float* dz, float* sums) {
  over_channels(channels, [&]<int V>(int64_t c, int64_t count) {
    const auto scale = Block<V>::read(norm.scale.get() + c, W), shift = Block<V>::read(norm.shift.get() + c, W);
    const auto mean = Block<V>::read(norm.mean.get() + c, W);
    Block<V> total[2];
    sum_rows<V, 2>(rows, total, [&](int64_t l, Block<V>(&part)[2]) {
      const int64_t at = l * channels + c;
      const auto value = Block<V>::read(y + at, count);
      Block<V> d = Block<V>::read(g + at, count);
      if (g_extra != nullptr) {
        const auto more = Block<V>::read(g_extra + at, count);
#pragma GCC unroll 4
        for (int i = 0; i < V; ++i) d.v[i] += more.v[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) {
        const Vec distance = value.v[i] - mean.v[i];
        d.v[i] *= silu_gradient(distance * scale.v[i] + shift.v[i]);
        part[0].v[i] += d.v[i];
        part[1].v[i] += d.v[i] * distance;
      }
      d.write(dz + at, count);
    });
    total[0].write(sums + c, count);
    total[1].write(sums + channels + c, count);
  });
}

// The backward of BatchNorm: out = gain * dz - offset + slope * (y - mean). dz, y, out [rows, channels].
inline void through_norm(
    const float* dz, const float* y, const UnitNorm& norm, const UnitBackward& back, int64_t rows, int64_t channels,
    float* out) {
  over_channels(channels, [&]<int V>(int64_t c, int64_t count) {
    const auto gain = Block<V>::read(back.gain.get() + c, W), offset = Block<V>::read(back.offset.get() + c, W);
    const auto slope = Block<V>::read(back.slope.get() + c, W), mean = Block<V>::read(norm.mean.get() + c, W);
    for (int64_t l = 0; l < rows; ++l) {
      const int64_t at = l * channels + c;
      const auto value = Block<V>::read(y + at, count);
      Block<V> d = Block<V>::read(dz + at, count);
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) {
        d.v[i] = (gain.v[i] * d.v[i] - offset.v[i]) + slope.v[i] * (value.v[i] - mean.v[i]);
      }
      d.write(out + at, count);
    }
  });
}

// out = a B for all rows, which lie row_stride apart in a and stride apart in out.
XMAE_INLINE void product(
    const float* a, int64_t row_stride, const PackedMatrix& matrix, int64_t rows, float* out, int64_t stride) {
  multiply(a, row_stride, matrix, 0, rows, 0, matrix.panels.size(), [&](const RowOut& at, Vec v0, Vec v1) {
    store_row(out, stride, at, v0, v1);
  });
}

// Computes the gradient of the input of unit u: dy [rows, c_out], padded -> g [in_rows, c_in].
inline void input_gradient(const StemBackward& back, int u, const Activation& dy, float* g) {
  const StemUnit& unit = back.run->stem->units[u];
  const int64_t in_rows = back.run->in_length(u);
  if (unit.stride == 1) {
    return product(dy.rows - unit.window / 2 * unit.c_out, unit.c_out, back.input[u], in_rows, g, unit.c_in);
  }
  product(dy.rows, unit.c_out, back.input[u], (in_rows + 1) / 2, g, 2 * unit.c_in);
  product(dy.rows, unit.c_out, back.odd_input[u], in_rows / 2, g + unit.c_in, 2 * unit.c_in);
}

// Adds one sample's gradient of the unit's weights to `weights`, which has each part's [c_out, k * c_in] after the
// other. Returns the end of them.
inline float* add_weight_gradient(const StemUnit& unit, const Activation& dy, const Activation& input, float* weights) {
  int64_t start = 0;
  for (int p = 0; p < unit.num_parts; ++p) {
    const ConvNorm& part = unit.parts[p];
    const int64_t steps = part.k * unit.c_in;
    add_outer(
        dy.rows + start, unit.c_out, input.rows - part.k / 2 * unit.c_in, unit.stride * unit.c_in, dy.length,
        part.c_out, steps, weights, steps);
    start += part.c_out;
    weights += part.c_out * steps;
  }
  return weights;
}

// Applies the transpose of linear interpolation: fine [fine_rows, channels] -> g [coarse_rows, channels].
inline void gather_coarse(const float* fine, int64_t fine_rows, int64_t coarse_rows, int64_t channels, float* g) {
  std::memset(g, 0, coarse_rows * channels * sizeof(float));
  for (int64_t l = 0; l < fine_rows; ++l) {
    const Between rows = between(l, fine_rows, coarse_rows);
    const float w = rows.weight, v = 1.0f - w;
    float *low = g + rows.low * channels, *high = g + rows.high * channels;
    for (int64_t c = 0; c < channels; c += W) {
      const int64_t count = channels - c;
      const Vec value = load_some(fine + l * channels + c, count);
      store_some(low + c, load_some(low + c, count) + v * value, count);
      store_some(high + c, load_some(high + c, count) + w * value, count);
    }
  }
}

// The backward of merge m for sample b, from the gradient g [fine rows, channels] of the merged level. Adds the
// gradients of both 1x1 convolutions to `weights`, writes the gradient of the fine source to back.branch[m], and that
// of the coarse source to back.dz, with its sums. memory: three activation buffers.
inline void merge_gradient(
    const StemBackward& back, int m, int64_t b, const float* g, float* memory, float* weights, float* sums) {
  const StemTraining& run = *back.run;
  const MergePlan plan = kMergePlan[m];
  const int64_t buffer = activation_floats(run), rows = run.length(plan.fine), coarse_rows = run.length(plan.coarse);
  const int64_t channels = run.stem->units[plan.fine].c_out, wide = run.stem->units[plan.coarse].c_out;
  float *activated = memory, *reduced = memory + buffer, *coarse = memory + 2 * buffer;
  activate_unit(run, plan.fine, b, activated);
  add_outer(g, channels, activated, channels, rows, channels, channels, weights, channels);
  product(g, channels, back.lateral[m], rows, back.branch[m] + b * run.size(plan.fine), channels);
  gather_coarse(g, rows, coarse_rows, channels, reduced);
  activate_unit(run, plan.coarse, b, activated);
  add_outer(reduced, channels, activated, wide, coarse_rows, channels, wide, weights + channels * channels, wide);
  product(reduced, channels, back.reduce[m], coarse_rows, coarse, wide);
  through_activation(
      coarse, nullptr, run.kept[plan.coarse] + b * run.size(plan.coarse), run.norms[plan.coarse], coarse_rows, wide,
      back.dz + b * back.dz_stride, sums);
}

// The backward of unit u for sample b: replaces the unit's gradient in back.dz by that of its source, with its
// sums [2, channels of the source]. memory: six activation buffers.
inline void unit_gradient(const StemBackward& back, int u, int64_t b, float* memory, float* weights, float* sums) {
  const StemTraining& run = *back.run;
  const StemUnit& unit = run.stem->units[u];
  const int64_t buffer = activation_floats(run), rows = run.length(u), in_rows = run.in_length(u);
  const Activation dy = Activation::at(memory, rows, unit.c_out);
  const Activation input = Activation::at(memory + buffer, in_rows, unit.c_in);
  float *g = memory + 2 * buffer, *dz = back.dz + b * back.dz_stride;
  through_norm(dz, run.kept[u] + b * run.size(u), run.norms[u], back.units[u], rows, unit.c_out, dy.rows);
  unit_input(run, u, b, input);
  weights = add_weight_gradient(unit, dy, input, weights);
  if (u == 0) {
    if (back.dx != nullptr) input_gradient(back, u, dy, back.dx + b * run.L);
    return;
  }
  input_gradient(back, u, dy, g);
  if (const int m = merge_of(u); m >= 0) return merge_gradient(back, m, b, g, memory + 3 * buffer, weights, sums);
  const float* extra = nullptr;
  for (int m = 0; m < kMerges; ++m) {
    if (kMergePlan[m].fine == u - 1) extra = back.branch[m] + b * run.size(u - 1);
  }
  through_activation(g, extra, run.kept[u - 1] + b * run.size(u - 1), run.norms[u - 1], in_rows, unit.c_in, dz, sums);
}

// The backward of unit u for all samples: weights [groups, weight_floats], sums [B, 2, source_channels]. Unit 0 has no
// sums.
inline void stem_backward_unit(const StemBackward& back, int u, int64_t groups, float* weights, float* sums) {
  const StemTraining& run = *back.run;
  const int64_t count = weight_floats(*run.stem, u), channels = source_channels(*run.stem, u),
                buffer = activation_floats(run);
  parallel(groups, 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(kSlotMain, 6 * buffer);
    for (int64_t group = begin; group < end; ++group) {
      float* own = weights + group * count;
      std::memset(own, 0, count * sizeof(float));
      for (int64_t b = run.B * group / groups; b < run.B * (group + 1) / groups; ++b) {
        unit_gradient(back, u, b, memory, own, sums + b * 2 * channels);
      }
    }
  });
}

// From the gradient of the features, grad [B, L, S], computes the head's dz with its sums [B, 2, S], and the skip
// path's skip_sums [B, 2, S] of grad and of grad * (x - x_mean).
inline void stem_head_gradient(
    const StemBackward& back, const float* grad, float x_mean, float* sums, float* skip_sums) {
  const StemTraining& run = *back.run;
  const int64_t channels = run.stem->channels, size = run.L * channels;
  parallel(run.B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      through_activation(
          grad + b * size, nullptr, run.kept[kHead] + b * size, run.norms[kHead], run.L, channels,
          back.dz + b * back.dz_stride, sums + b * 2 * channels);
      float* own = skip_sums + b * 2 * channels;
      over_channels(channels, [&]<int V>(int64_t c, int64_t count) {
        Block<V> total[2];
        sum_rows<V, 2>(run.L, total, [&](int64_t l, Block<V>(&part)[2]) {
          const auto g = Block<V>::read(grad + b * size + l * channels + c, count);
          const float distance = run.x[b * run.L + l] - x_mean;
#pragma GCC unroll 4
          for (int i = 0; i < V; ++i) {
            part[0].v[i] += g.v[i];
            part[1].v[i] += g.v[i] * distance;
          }
        });
        total[0].write(own + c, count);
        total[1].write(own + channels + c, count);
      });
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
