// Lays weights out as a PackedMatrix. This code is compiled once for all processors, so the vector width is an
// argument.
#pragma once

#include <algorithm>

#include "cpu/base/common.h"

namespace xmae_fast {

// Consecutive steps of the sums whose weights for one column lie at equal distances.
struct Run {
  int64_t offset, length;  // floats from the start of a row of A to the first step; number of steps
};

// The weights of one column for one run: weights[step * stride] * scale. They are null where the column takes no part.
struct RunWeights {
  const float* weights = nullptr;
  int64_t stride = 1;
  float scale = 1.0f;
};

// Packs a matrix in which columns may take part in different runs. source(run, column) returns the RunWeights.
template <typename Source>
PackedMatrix pack(int64_t width, int64_t columns, const std::vector<Run>& runs, const Source& source) {
  PackedMatrix packed;
  packed.columns = columns;
  packed.width = width;
  const int64_t panel_width = kPanelVectors * width, count = static_cast<int64_t>(runs.size());
  std::vector<std::vector<int64_t>> vectors;  // [panel][run]: how many of the panel's vectors take part
  int64_t total = 0;
  for (int64_t column = 0; column < columns; column += panel_width) {
    auto& active = vectors.emplace_back(count, 0);
    for (int64_t run = 0; run < count; ++run) {
      for (int64_t i = 0; i < std::min(panel_width, columns - column); ++i) {
        if (source(run, column + i).weights != nullptr) active[run] = std::max(active[run], i / width + 1);
      }
      total += active[run] * width * runs[run].length;
    }
  }
  packed.count = total;
  packed.data = aligned_floats(total);
  int64_t at = 0;
  for (int64_t p = 0; p < static_cast<int64_t>(vectors.size()); ++p) {
    Panel panel{
        .column = p * panel_width,
        .columns = std::min(panel_width, columns - p * panel_width),
        .first_segment = static_cast<int64_t>(packed.segments.size()),
        .num_segments = 0,
        .weights = at,
    };
    for (int64_t run = 0; run < count; ++run) {
      const int64_t active = vectors[p][run], length = runs[run].length;
      if (active == 0 || length == 0) continue;
      float* out = packed.data.get() + at;
      for (int64_t i = 0; i < active * width; ++i) {
        const RunWeights from = i < panel.columns ? source(run, panel.column + i) : RunWeights{};
        if (from.weights == nullptr) {
          for (int64_t k = 0; k < length; ++k) out[k * active * width + i] = 0.0f;
        } else {
          for (int64_t k = 0; k < length; ++k) out[k * active * width + i] = from.weights[k * from.stride] * from.scale;
        }
      }
      at += active * width * length;
      Segment* last = panel.num_segments > 0 ? &packed.segments.back() : nullptr;
      if (last != nullptr && last->vectors == active && last->offset + last->length == runs[run].offset) {
        last->length += length;
      } else {
        packed.segments.push_back({runs[run].offset, length, active});
        ++panel.num_segments;
      }
    }
    packed.panels.push_back(panel);
  }
  return packed;
}

// Returns a matrix of `steps` steps in which every column takes part in every step. Its data are not set.
inline PackedMatrix dense_panels(int64_t width, int64_t columns, int64_t steps) {
  PackedMatrix packed;
  packed.columns = columns;
  packed.width = width;
  const int64_t panel_width = kPanelVectors * width;
  int64_t total = 0;
  for (int64_t column = 0; column < columns; column += panel_width) {
    const int64_t count = std::min(panel_width, columns - column), vectors = (count + width - 1) / width;
    packed.panels.push_back({
        .column = column,
        .columns = count,
        .first_segment = static_cast<int64_t>(packed.segments.size()),
        .num_segments = steps > 0 ? 1 : 0,
        .weights = total,
    });
    if (steps > 0) packed.segments.push_back({0, steps, vectors});
    total += vectors * width * steps;
  }
  packed.count = total;
  packed.data = aligned_floats(total);
  return packed;
}

// Packs B[k, n] = weights[n * row_stride + k * step_stride], of `steps` rows k and `columns` columns n. Panels are
// packed in parallel, because training packs its weights in every step, and sixteen steps of a panel at a time, so that
// what is read and written stays in the first-level cache.
inline PackedMatrix pack_matrix(
    int64_t width, int64_t columns, int64_t steps, const float* weights, int64_t row_stride, int64_t step_stride) {
  PackedMatrix packed = dense_panels(width, columns, steps);
  parallel(static_cast<int64_t>(packed.panels.size()), 4, [&](int64_t first, int64_t last) {
    constexpr int64_t block = 16;
    for (int64_t p = first; p < last; ++p) {
      const Panel& panel = packed.panels[p];
      const float* from = weights + panel.column * row_stride;
      const int64_t padded = (panel.columns + width - 1) / width * width;
      for (int64_t begin = 0; begin < steps; begin += block) {
        const int64_t end = std::min(begin + block, steps);
        float* out = packed.data.get() + panel.weights;
        if (row_stride == 1) {
          for (int64_t k = begin; k < end; ++k) {
            std::copy_n(from + k * step_stride, panel.columns, out + k * padded);
            std::fill(out + k * padded + panel.columns, out + (k + 1) * padded, 0.0f);
          }
          continue;
        }
        for (int64_t i = 0; i < panel.columns; ++i) {
          for (int64_t k = begin; k < end; ++k) out[k * padded + i] = from[i * row_stride + k * step_stride];
        }
        for (int64_t i = panel.columns; i < padded; ++i) {
          for (int64_t k = begin; k < end; ++k) out[k * padded + i] = 0.0f;
        }
      }
    }
  });
  return packed;
}

// Packs B[k, n] = weights[steps[k] + columns[n]], with panels in parallel.
inline PackedMatrix pack_separable(
    int64_t width, const float* weights, const std::vector<int64_t>& steps, const std::vector<int64_t>& columns) {
  const int64_t panel_width = kPanelVectors * width, K = static_cast<int64_t>(steps.size());
  PackedMatrix packed = dense_panels(width, static_cast<int64_t>(columns.size()), K);
  // Packing costs some 2 ns a number, which is read from the second-level cache.
  const int64_t panels = static_cast<int64_t>(packed.panels.size()), grain = 8192 / (K * panel_width + 1) + 1;
  parallel(panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const Panel& panel = packed.panels[p];
      const int64_t lanes = (panel.columns + width - 1) / width * width;
      float* out = packed.data.get() + panel.weights;
      for (int64_t k = 0; k < K; ++k, out += lanes) {
        const float* from = weights + steps[k];
        for (int64_t i = 0; i < panel.columns; ++i) out[i] = from[columns[panel.column + i]];
        for (int64_t i = panel.columns; i < lanes; ++i) out[i] = 0.0f;
      }
    }
  });
  return packed;
}

// Returns 0, stride, 2 stride, ..., `count` numbers.
inline std::vector<int64_t> places(int64_t count, int64_t stride) {
  std::vector<int64_t> out(count);
  for (int64_t i = 0; i < count; ++i) out[i] = i * stride;
  return out;
}

}  // namespace xmae_fast
