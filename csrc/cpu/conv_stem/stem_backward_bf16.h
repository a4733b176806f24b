// The stem's backward in bfloat16, unit by unit from the head; see stem_backward.h. Gradients are rounded where they are
// stored: before BatchNorm and after it. All sums are in float32.
#pragma once

#include "cpu/base/bf16_columns.h"
#include "cpu/conv_stem/stem_backward.h"
#include "cpu/conv_stem/stem_blocks.h"
#include "cpu/conv_stem/stem_train_bf16.h"

namespace xmae_fast::XMAE_ISA {

// The backward of a unit's BatchNorm for 16 channels from c on: gain * dz - offset + slope * (y - mean).
struct NormGradientBlock {
  Vec gain, offset, slope, mean;
  XMAE_INLINE NormGradientBlock(const UnitNorm& norm, const UnitBackward& back, int64_t c)
      : gain(load(back.gain.get() + c)),
        offset(load(back.offset.get() + c)),
        slope(load(back.slope.get() + c)),
        mean(load(norm.mean.get() + c)) {}
  XMAE_INLINE Vec operator()(const Bf16* dz, const Bf16* y) const {
    return (gain * load_bf16(dz) - offset) + slope * (load_bf16(y) - mean);
  }
};

// Takes rows g of the gradient of an activation: dz = (g + extra) * silu'(norm(y)), and the sums of dz and of
// dz * (y - mean). Row r of the product is row r * step + first of the activation.
struct ThroughActivation {
  const Bf16* y;      // [rows, channels]
  const Bf16* extra;  // [rows, channels] or null
  const UnitNorm& norm;
  int64_t channels;
  Bf16* dz;  // [rows, channels]
  PanelSums sums;
  Ahead ahead[3] = {};
  int64_t step = 1, first = 0;

  struct Panel {
    const ThroughActivation& all;
    int64_t column;
    PanelSums::Panel sums;
    NormBlock norm0, norm1;

    XMAE_INLINE void operator()(int64_t row, Vec g0, Vec g1) {
      const int64_t place = (row * all.step + all.first) * all.channels + column;
      if (all.extra != nullptr) {
        g0 += load_bf16(all.extra + place);
        g1 += load_bf16(all.extra + place + W);
      }
      const Vec y0 = load_bf16(all.y + place) - norm0.mean, y1 = load_bf16(all.y + place + W) - norm1.mean;
      g0 *= fine_silu_gradient(y0 * norm0.scale + norm0.shift);
      g1 *= fine_silu_gradient(y1 * norm1.scale + norm1.shift);
      store_bf16(all.dz + place, g0, g1);
      sums.add(g0, g1, g0 * y0, g1 * y1);
      const int64_t line = place / kPairWidth;
      all.ahead[0].fetch(line);
      all.ahead[1].fetch(line);
      all.ahead[2].fetch(line);
    }
    XMAE_INLINE void close() const { sums.close(); }
  };
  XMAE_INLINE Panel open(int64_t column) const {
    return {*this, column, sums.open(column), NormBlock(norm, column), NormBlock(norm, column + W)};
  }
};

// A product of all rows.
template <typename Epilogue>
XMAE_INLINE void over_rows(
    const Bf16* a, int64_t row_stride, const Bf16Matrix& matrix, int64_t rows, const Epilogue& epilogue) {
  multiply(a, row_stride, matrix, 0, rows, 0, matrix.panels.size(), epilogue);
}

// Adds the gradient of a unit's weights to `weights`, or sets it if `fresh`: `input` by columns, of stride 2 its even and
// its odd rows, and dy by pairs of rows. Returns the end of the weights.
inline float* add_weight_gradient(
    const StemUnit& unit, const Columns (&input)[2], const RowPairs& dy, float* weights, bool fresh) {
  const TileRegisters registers;
  const int64_t reach = unit.window / 2, size = block_floats(unit), c_in = Bf16StemTraining::row(unit.c_in);
  for (int64_t chunk = 0; chunk < dy.steps; chunk += kChunkSteps) {
    const int64_t steps = dy.steps - chunk < kChunkSteps ? dy.steps - chunk : kChunkSteps;
    float* block = weights;
    for (int64_t column = 0; column < unit.c_out; column += kPairWidth) {
      const Taps taps = taps_from(unit, column);
      const bool is_wide = column + kTileColumns < unit.c_out;
      const Taps second = is_wide ? taps_from(unit, column + kTileColumns) : Taps{0, 0};
      const Bf16* b = dy.at(chunk * kTileSteps / 2, column);
      for (int64_t c = 0; c < c_in; c += kPairWidth) {
        for (int64_t t = taps.first; t < taps.first + taps.count; ++t, block += kBlockFloats) {
          // Row r of the output reads row r * stride + t - reach: of stride 2, tap 0 reads odd row r - 1, tap 1 even row
          // r, and tap 2 odd row r.
          const Columns& from = input[unit.stride == 2 && t != 1 ? 1 : 0];
          const int64_t shift = unit.stride == 2 ? (t == 0 ? -1 : 0) : t - reach;
          const Bf16* a = from.numbers + c * from.stride + kLead + shift + chunk * kTileSteps;
          accumulate_tiles(a, from.stride, steps, b, second.has(t) ? 2 : 1, block, fresh && chunk == 0);
        }
      }
    }
  }
  return weights + size;
}

// Lays the activated output of unit u for sample b out by columns: rows `first`, first + step and so on.
inline Columns activated_columns(
    const Bf16StemTraining& run, int u, int64_t b, int64_t first, int64_t step, float* memory) {
  const int64_t channels = run.row(run.stem->units[u].c_out), all = run.length(u);
  const Columns out{reinterpret_cast<Bf16*>(memory), Columns::stride_for((all + step - 1) / step)};
  const Bf16* y = run.kept[u] + b * run.size(u) + first * channels;
  fill_columns(out, (all - first + step - 1) / step, channels, [&](int64_t r, int64_t c) {
    return fine_silu(NormBlock(run.norms[u], c)(load_bf16(y + r * step * channels + c)));
  });
  return out;
}

// Lays the input of unit u, which is not the first, out by columns. memory: two buffers.
inline void input_columns(const Bf16StemTraining& run, int u, int64_t b, float* memory, Columns (&out)[2]) {
  const StemUnit& unit = run.stem->units[u];
  if (const int m = merge_of(u); m >= 0) {
    const int64_t channels = run.row(unit.c_in), rows = run.in_length(u);
    const Bf16* merged = run.kept[kUnits + m] + b * run.in_size(u);
    out[0] = {reinterpret_cast<Bf16*>(memory), Columns::stride_for(rows)};
    fill_columns(out[0], rows, channels, [&](int64_t r, int64_t c) { return load_bf16(merged + r * channels + c); });
    return;
  }
  out[0] = activated_columns(run, u - 1, b, 0, unit.stride, memory);
  if (unit.stride == 2) out[1] = activated_columns(run, u - 1, b, 1, 2, memory + training_floats(run));
}

// Rounds a [rows, channels] of floats to rows and to pairs of rows. Memory: `rows` needs one row more.
inline void round_to_pairs(const float* a, int64_t rows, int64_t channels, Bf16* out, const RowPairs& pairs) {
  fill_pairs(pairs, rows, channels, out, channels, [&](int64_t r, int64_t c, Vec& v0, Vec& v1) {
    v0 = load(a + r * channels + c);
    v1 = load(a + r * channels + c + W);
  });
}

// The backward of merge m for sample b, from the gradient g [fine rows, channels] of the merged level; see
// stem_backward.h. memory: four buffers; sums: memory for sums.
inline void merge_gradient(
    const Bf16StemBackward& back, int m, int64_t b, const float* g, float* memory, float* weights, bool fresh,
    float* sums_memory, float* sums) {
  const Bf16StemTraining& run = *back.run;
  const Stem& stem = *run.stem;
  const MergePlan plan = kMergePlan[m];
  const int64_t buffer = training_floats(run), rows = run.length(plan.fine), coarse_rows = run.length(plan.coarse);
  const int64_t channels = run.row(stem.fine(m)), wide = run.row(stem.coarse(m));
  Bf16* rounded = reinterpret_cast<Bf16*>(memory);
  Bf16* pairs = reinterpret_cast<Bf16*>(memory + buffer);
  float *by_columns = memory + 2 * buffer, *reduced = memory + 3 * buffer;
  const RowPairs fine_pairs{pairs, RowPairs::steps_for(rows)};
  round_to_pairs(g, rows, channels, rounded, fine_pairs);
  const Columns fine[2] = {activated_columns(run, plan.fine, b, 0, 1, by_columns), {}};
  weights = add_weight_gradient(mix_unit(stem.fine(m), stem.fine(m)), fine, fine_pairs, weights, fresh);
  Bf16* branch = back.branch[m] + b * run.size(plan.fine);
  over_rows(rounded, channels, back.lateral[m], rows, [&](const RowOut& at, Vec v0, Vec v1) {
    store_bf16(branch + at.row * channels + at.column, v0, v1);
  });
  gather_coarse(g, rows, coarse_rows, channels, reduced);
  const RowPairs coarse_pairs{pairs, RowPairs::steps_for(coarse_rows)};
  round_to_pairs(reduced, coarse_rows, channels, rounded, coarse_pairs);
  const Columns coarse[2] = {activated_columns(run, plan.coarse, b, 0, 1, by_columns), {}};
  add_weight_gradient(mix_unit(stem.coarse(m), stem.fine(m)), coarse, coarse_pairs, weights, fresh);
  const ThroughActivation epilogue{
      run.kept[plan.coarse] + b * run.size(plan.coarse),
      nullptr,
      run.norms[plan.coarse],
      wide,
      back.dz + b * back.dz_stride,
      PanelSums::zeros(sums_memory, wide)};
  over_rows(rounded, channels, back.reduce[m], coarse_rows, epilogue);
  epilogue.sums.write(wide, sums, sums + wide);
}

// The backward of unit 0 for sample b, in float32. memory: two buffers.
inline void first_unit_gradient(const Bf16StemBackward& back, int64_t b, float* memory, float* weights) {
  const Bf16StemTraining& run = *back.run;
  const StemUnit& unit = run.stem->units[0];
  const int64_t channels = run.row(unit.c_out);
  const Activation dy = Activation::at(memory, run.L, channels);
  const Activation input = Activation::at(memory + training_floats(run), run.L, 1);
  std::memcpy(input.rows, run.x + b * run.L, run.L * sizeof(float));
  const Bf16 *dz = back.dz + b * back.dz_stride, *y = run.kept[0] + b * run.size(0);
  for (int64_t c = 0; c < channels; c += W) {
    const NormGradientBlock gradient(run.norms[0], back.units[0], c);
    for (int64_t l = 0; l < run.L; ++l) {
      store(dy.rows + l * channels + c, gradient(dz + l * channels + c, y + l * channels + c));
    }
  }
  int64_t start = 0;
  for (int p = 0; p < unit.num_parts; ++p) {
    const ConvNorm& part = unit.parts[p];
    add_outer(dy.rows + start, channels, input.rows - part.k / 2, 1, run.L, part.c_out, part.k, weights, part.k);
    start += part.c_out;
    weights += part.c_out * part.k;
  }
  if (back.dx == nullptr) return;
  float* dx = back.dx + b * run.L;
  const auto epilogue = [&](const RowOut& at, Vec v0, Vec v1) { store_row(dx, 1, at, v0, v1); };
  multiply(
      dy.rows - unit.window / 2 * channels, channels, back.first_input, 0, run.L, 0, back.first_input.panels.size(),
      RowFunction(epilogue));
}

// The backward of unit u, which is not the first, for sample b: replaces the unit's gradient in back.dz by that of its
// source, with its sums [2, channels of the source]. has_next: whether sample b + 1 follows. memory: eight buffers.
inline void unit_gradient(
    const Bf16StemBackward& back, int u, int64_t b, bool has_next, float* memory, float* weights, bool fresh,
    float* sums) {
  const Bf16StemTraining& run = *back.run;
  const StemUnit& unit = run.stem->units[u];
  const int64_t buffer = training_floats(run), rows = run.length(u), in_rows = run.in_length(u);
  const int64_t channels = run.row(unit.c_out), in_channels = run.row(unit.c_in);
  Bf16* dz = back.dz + b * back.dz_stride;
  const Bf16* y = run.kept[u] + b * run.size(u);
  const Bf16Activation dy = Bf16Activation::at(memory, rows, channels);
  const RowPairs pairs{reinterpret_cast<Bf16*>(memory + buffer), RowPairs::steps_for(rows)};
  fill_pairs(pairs, rows, channels, dy.rows, channels, [&](int64_t r, int64_t c, Vec& v0, Vec& v1) {
    const NormGradientBlock first(run.norms[u], back.units[u], c), second(run.norms[u], back.units[u], c + W);
    const int64_t at = r * channels + c;
    v0 = first(dz + at, y + at);
    v1 = second(dz + at + W, y + at + W);
  });
  Columns input[2];
  input_columns(run, u, b, memory + 2 * buffer, input);
  weights = add_weight_gradient(unit, input, pairs, weights, fresh);
  float *g = memory + 4 * buffer, *sums_memory = memory + 7 * buffer;
  if (const int m = merge_of(u); m >= 0) {
    over_rows(
        dy.rows - unit.window / 2 * channels, channels, back.input[u], in_rows, [&](const RowOut& at, Vec v0, Vec v1) {
          store(g + at.row * in_channels + at.column, v0);
          store(g + at.row * in_channels + at.column + W, v1);
        });
    return merge_gradient(back, m, b, g, memory, weights, fresh, sums_memory, sums);
  }
  const Bf16* extra = nullptr;
  for (int m = 0; m < kMerges; ++m) {
    if (kMergePlan[m].fine == u - 1) extra = back.branch[m] + b * run.size(u - 1);
  }
  ThroughActivation epilogue{run.kept[u - 1] + b * run.size(u - 1),     extra, run.norms[u - 1], in_channels, dz,
                             PanelSums::zeros(sums_memory, in_channels)};
  if (has_next) {
    epilogue.ahead[0] = {dz + back.dz_stride, run.size(u)};
    epilogue.ahead[1] = {y + run.size(u), run.size(u)};
    epilogue.ahead[2] = {run.kept[u - 1] + (b + 1) * run.size(u - 1), run.size(u - 1)};
  }
  if (unit.stride == 1) {
    over_rows(dy.rows - unit.window / 2 * channels, channels, back.input[u], in_rows, epilogue);
  } else {
    epilogue.step = 2;
    over_rows(dy.rows, channels, back.input[u], (in_rows + 1) / 2, epilogue);
    epilogue.first = 1;
    over_rows(dy.rows, channels, back.odd_input[u], in_rows / 2, epilogue);
  }
  epilogue.sums.write(in_channels, sums, sums + in_channels);
}

// The backward of unit u for all samples: weights [groups, bf16_weight_floats], sums [B, 2, row(source_channels)]. Unit 0
// has no sums.
inline void stem_backward_unit(const Bf16StemBackward& back, int u, int64_t groups, float* weights, float* sums) {
  const Bf16StemTraining& run = *back.run;
  const int64_t count = bf16_weight_floats(*run.stem, u), channels = run.row(source_channels(*run.stem, u)),
                buffer = training_floats(run);
  parallel(groups, 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(kSlotMain, 8 * buffer);
    for (int64_t group = begin; group < end; ++group) {
      float* own = weights + group * count;
      const int64_t first = run.B * group / groups, last = run.B * (group + 1) / groups;
      if (u == 0) std::memset(own, 0, count * sizeof(float));
      for (int64_t b = first; b < last; ++b) {
        if (u == 0) {
          first_unit_gradient(back, b, memory, own);
        } else {
          unit_gradient(back, u, b, b + 1 < last, memory, own, b == first, sums + b * 2 * channels);
        }
      }
    }
  });
}

// From the gradient of the features, grad [B, L, S], computes the head's dz with its sums [B, 2, row(S)], and the skip
// path's skip_sums [B, 2, row(S)] of grad and of grad * (x - x_mean).
inline void stem_head_gradient(
    const Bf16StemBackward& back, const Bf16* grad, float x_mean, float* sums, float* skip_sums) {
  const Bf16StemTraining& run = *back.run;
  const int64_t S = run.stem->channels, channels = run.row(S);
  parallel(run.B, 1, [&](int64_t begin, int64_t end) {
    float* memory = scratch(kSlotMain, 2 * PanelSums::floats(channels));
    for (int64_t b = begin; b < end; ++b) {
      const ThroughActivation epilogue{
          run.kept[kHead] + b * run.size(kHead), nullptr, run.norms[kHead], channels, back.dz + b * back.dz_stride,
          PanelSums::zeros(memory, channels)};
      const PanelSums of_skip = PanelSums::zeros(memory + PanelSums::floats(channels), channels);
      for (int64_t c = 0; c < channels; c += kPairWidth) {
        auto panel = epilogue.open(c);
        auto skip = of_skip.open(c);
        for (int64_t l = 0; l < run.L; ++l) {
          const Bf16* g = grad + (b * run.L + l) * S + c;
          const Vec g0 = load_some_bf16(g, S - c), g1 = load_some_bf16(g + W, S - c - W);
          const float distance = run.x[b * run.L + l] - x_mean;
          skip.add(g0, g1, g0 * distance, g1 * distance);
          panel(l, g0, g1);
        }
        panel.close();
        skip.close();
      }
      float *own = sums + b * 2 * channels, *skip = skip_sums + b * 2 * channels;
      epilogue.sums.write(channels, own, own + channels);
      of_skip.write(channels, skip, skip + channels);
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
