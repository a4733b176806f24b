// Matrix products whose rows are patches: the kernels that embed patches, decode them, and compute the gradients of
// both.
#pragma once

#include "cpu/base/kernels.h"
#include "cpu/base/outer.h"

namespace xmae_fast::XMAE_ISA {

constexpr int64_t kThreadWork = int64_t{1} << 18;  // multiply-adds that take as long as waking a thread, some 5 us

// Computes A B for a [rows, steps]. Many rows are divided among threads by rows, few rows by panels. epilogue: as in
// `multiply`.
template <typename Number, typename Matrix, typename Epilogue>
void multiply_patches(const Number* a, int64_t rows, int64_t steps, const Matrix& matrix, const Epilogue& epilogue) {
  const int64_t panels = static_cast<int64_t>(matrix.panels.size());
  const int64_t most = tile_rows();
  if (rows < 4 * most * num_threads()) {
    const int64_t grain = kThreadWork / (rows * steps * kPanelVectors * W + 1) + 1;
    return parallel(panels, grain, [&](int64_t first, int64_t last) {
      multiply(a, steps, matrix, 0, rows, first, last, epilogue);
    });
  }
  const int64_t least = kThreadWork / (steps * matrix.columns + 1) + 1;
  parallel(rows, least > 4 * most ? least : 4 * most, [&](int64_t begin, int64_t end) {
    // The rows of a group stay in the second-level cache while all panels pass.
    const int64_t count = end - begin, together = 8 * most, groups = (count + together - 1) / together;
    for (int64_t g = 0; g < groups; ++g) {
      multiply(a, steps, matrix, begin + count * g / groups, begin + count * (g + 1) / groups, 0, panels, epilogue);
    }
  });
}

// Stores a finished row of a product in the precision of `out` [rows, stride].
XMAE_INLINE void store_in(float* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
  store_row(out, stride, at, v0, v1);
}

// Adds bias [columns] and row `at.row` + first of added [period, columns], which repeats, to a finished row of a
// product. Both may be null.
XMAE_INLINE void add_to_patch(
    const float* bias, const float* added, int64_t period, int64_t columns, int64_t first, const RowOut& at, Vec& v0,
    Vec& v1) {
  const int64_t rest = at.count > W ? at.count - W : 0;
  if (bias != nullptr) {
    const float* b = bias + at.column;
    v0 += load_some(b, at.count);
    if (rest > 0) v1 += load_some(b + W, rest);
  }
  if (added != nullptr) {
    const float* p = added + (first + at.row) % period * columns + at.column;
    v0 += load_some(p, at.count);
    if (rest > 0) v1 += load_some(p + W, rest);
  }
}

// out = a B + bias + added, for a [rows, steps], bias [columns], added [period, columns], which repeats, and
// out [rows, columns]. bias and added may be null.
template <typename Number, typename Matrix, typename Out>
void patch_linear(
    const Number* a, int64_t rows, int64_t steps, const Matrix& matrix, const float* bias, const float* added,
    int64_t period, Out* out) {
  multiply_patches(a, rows, steps, matrix, [&](const RowOut& at, Vec v0, Vec v1) {
    add_to_patch(bias, added, period, matrix.columns, 0, at, v0, v1);
    store_in(out, matrix.columns, at, v0, v1);
  });
}

// out [M, N] = a^T b for a [rows, M] and b [rows, N], where M is the smaller one. A thread computes whole panels of
// columns. For each chunk of rows the tiles of a are packed once and stay in the second-level cache; each panel of b is
// read once and multiplied by all of them.
inline void patch_outer(const float* a, int64_t M, const float* b, int64_t N, int64_t rows, float* out) {
  constexpr int64_t panel = 2 * W;
  const int64_t most = tile_rows(), tiles = (M + most - 1) / most;
  const auto tile_start = [&](int64_t t) { return M * t / tiles; };
  parallel((N + panel - 1) / panel, kThreadWork / (rows * M * panel + 1) + 1, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * panel, to = end * panel < N ? end * panel : N;
    float* packed_a = scratch(kSlotMain, kOuterRows * (M + panel));
    float* packed_b = packed_a + kOuterRows * M;
    for (int64_t m = 0; m < M; ++m) std::memset(out + m * N + from, 0, (to - from) * sizeof(float));
    for (int64_t first = 0; first < rows; first += kOuterRows) {
      const int64_t count = rows - first < kOuterRows ? rows - first : kOuterRows;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t m = tile_start(t), height = tile_start(t + 1) - m;
        float* tile = packed_a + m * count;
        for (int64_t l = 0; l < count; ++l) {
          for (int64_t r = 0; r < height; ++r) tile[l * height + r] = a[(first + l) * M + m + r];
        }
      }
      for (int64_t n = from; n < to; n += panel) {
        const int64_t columns = to - n < panel ? to - n : panel;
        for (int64_t l = 0; l < count; ++l) {
          const float* row = b + (first + l) * N + n;
          store(packed_b + l * panel, load_some(row, columns));
          store(packed_b + l * panel + W, columns > W ? load_some(row + W, columns - W) : Vec{});
        }
        for (int64_t t = 0; t < tiles; ++t) {
          const int64_t m = tile_start(t), height = tile_start(t + 1) - m;
          outer_rows<kMostRows>(height, packed_a + m * count, packed_b, panel, count, out + m * N + n, N, columns);
        }
      }
    }
  });
}

// Sums x [rows, columns] over the rows to out [columns], kSumRows rows at a time.
inline void column_sums(const float* x, int64_t rows, int64_t columns, float* out) {
  constexpr int64_t width = 512;
  parallel(columns, 65536 / (rows + 1) + 1, [&](int64_t begin, int64_t end) {
    float part[width];
    for (int64_t c = begin; c < end; c += width) {
      const int64_t count = end - c < width ? end - c : width;
      for (int64_t i = 0; i < count; ++i) out[c + i] = 0.0f;
      for (int64_t first = 0; first < rows; first += kSumRows) {
        const int64_t last = first + kSumRows < rows ? first + kSumRows : rows;
        for (int64_t i = 0; i < count; ++i) part[i] = x[first * columns + c + i];
        for (int64_t row = first + 1; row < last; ++row) {
          const float* from = x + row * columns + c;
          for (int64_t i = 0; i < count; ++i) part[i] += from[i];
        }
        for (int64_t i = 0; i < count; ++i) out[c + i] += part[i];
      }
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
