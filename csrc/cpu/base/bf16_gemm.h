// Computes C = A B for a packed B of bfloat16 numbers (Bf16Matrix). A is read where it lies, and its rows may overlap, as
// those of a convolution do. Each output is summed over the same steps in the same order wherever its row is in a tile,
// so results do not depend on how the rows are divided among threads.
#pragma once

#include "cpu/base/bf16_tiles.h"
#include "cpu/base/gemm.h"

namespace xmae_fast::XMAE_ISA {

// One or two tiles of finished rows, whose epilogue runs while the next tiles are multiplied.
struct FinishedTiles {
  const float* sums = nullptr;  // [16 or 32, kSumsStride]
  int64_t row = 0;              // of C, to which row 0 of the first tile belongs
  int64_t jump = 0;             // rows by which the second tile begins earlier than at row + 16: it was moved up so as
                                // not to reach beyond the last row
  int64_t next = 0, end = 0;    // rows of sums that are left to do
  int64_t column = 0, columns = 0;

  // Calls epilogue(RowOut, Vec, Vec) with up to `count` rows.
  template <typename Epilogue>
  XMAE_INLINE void finish(int64_t count, const Epilogue& epilogue) {
    const int64_t to = next + count < end ? next + count : end;
    if (next < kTileRows) {
      rows(next, to < kTileRows ? to : kTileRows, row, epilogue);
      if (to < kTileRows) {
        next = to;
        return;
      }
      next = kTileRows + jump;
    }
    if (next < to) rows(next, to, row - jump, epilogue);
    if (next < to) next = to;
  }

 private:
  // Calls epilogue with rows [from, to) of sums, which belong to rows first + from and so on of C.
  template <typename Epilogue>
  XMAE_INLINE void rows(int64_t from, int64_t to, int64_t first, const Epilogue& epilogue) const {
    const float* at = sums + from * kSumsStride;
    const int64_t here = column, wide = columns;
    for (int64_t i = from; i < to; ++i, at += kSumsStride) {
      epilogue(RowOut{first + i, here, wide}, load(at), load(at + W));
    }
  }
};

// Calls the form of multiply_tiles that the matrix needs.
template <int R, typename Between>
XMAE_INLINE void multiply_tiles(
    const Bf16Matrix& matrix, const Bf16* a0, const Bf16* a1, int64_t stride, const Bf16Step* steps,
    const Bf16Panel& panel, float* sums, const Between& between) {
  multiply_tiles<R>(a0, a1, stride, steps, panel.num_steps, matrix.tile(panel.weights), sums, between);
}
template <int R, typename Between>
XMAE_INLINE void multiply_tiles(
    const SplitMatrix& matrix, const Bf16* a0, const Bf16* a1, int64_t stride, const Bf16Step* steps,
    const Bf16Panel& panel, float* sums, const Between& between) {
  multiply_split_tiles<R>(
      a0, a1, stride, matrix.part_stride, steps, panel.num_steps, matrix.tile(panel.weights), sums, between);
}

// Computes rows [begin, end) and panels [first, last) of C. a: row 0 of A; rows begin row_stride apart. At least 16
// rows must be readable, also where fewer are wanted; otherwise none from `end` on is read. Calls
// epilogue(RowOut, Vec, Vec) once with each finished row of a panel.
template <typename Matrix, typename Epilogue>
void multiply(
    const Bf16* a, int64_t row_stride, const Matrix& matrix, int64_t begin, int64_t end, int64_t first, int64_t last,
    const Epilogue& epilogue) {
  if (begin >= end) return;
  alignas(64) float sums[2][2 * kTileRows * kSumsStride];
  FinishedTiles done;
  const int64_t rows = end - begin, blocks = (rows + 2 * kTileRows - 1) / (2 * kTileRows), panels = last - first;
  // What is read again and again should be the smaller of the two: all rows of A, or the weights.
  const bool rows_inside = matrix.tiles * matrix.parts * kTileNumbers > rows * row_stride;
  const TileRegisters registers;
  for (int64_t i = 0; i < blocks * panels; ++i) {
    const int64_t p = first + (rows_inside ? i / blocks : i % panels), block = rows_inside ? i % blocks : i / panels;
    const Bf16Panel& panel = *(matrix.panels.data() + p);
    const Bf16Step* steps = matrix.steps.data() + panel.first_step;
    const int64_t row = begin + block * 2 * kTileRows, left = end - row;
    FinishedTiles now{sums[i % 2], row, 0, 0, left < 2 * kTileRows ? left : 2 * kTileRows, panel.column, panel.columns};
    const int64_t each = panel.num_steps > 0 ? (done.end - done.next + panel.num_steps - 1) / panel.num_steps : 0;
    const auto between = [&](int64_t) { done.finish(each, epilogue); };
    if (left <= kTileRows) {
      // Moved up where that is possible, so that no row beyond the last is read.
      const int64_t up = row < kTileRows - left ? row : kTileRows - left;
      now.row = row - up;
      now.next = up;
      now.end = up + left;
      const Bf16* from = a + now.row * row_stride;
      multiply_tiles<1>(matrix, from, from, row_stride, steps, panel, sums[i % 2], between);
    } else {
      now.jump = left < 2 * kTileRows ? 2 * kTileRows - left : 0;
      now.end += now.jump;
      const Bf16* from = a + row * row_stride;
      const Bf16* second = from + (kTileRows - now.jump) * row_stride;
      multiply_tiles<2>(matrix, from, second, row_stride, steps, panel, sums[i % 2], between);
    }
    done.finish(2 * kTileRows, epilogue);
    done = now;
  }
  done.finish(2 * kTileRows, epilogue);
}

// The arithmetic of kernels that are written for both precisions: bfloat16 products and activations, float32 sums.
struct Bfloat16 {
  using Number = Bf16;
  using Matrix = Bf16Matrix;
  using Feature = Bf16;
  static constexpr int64_t kGroupRows = 160;
  static XMAE_INLINE int64_t row_stride(int64_t columns) { return bf16_stride(columns); }
  static XMAE_INLINE int64_t readable(int64_t rows) { return rows < kTileRows ? kTileRows : rows; }
  static XMAE_INLINE Vec silu(Vec x) { return quick_silu(x); }
  static XMAE_INLINE Vec gelu(Vec x) { return quick_gelu(x); }
  // Stores a row of a panel; rows are whole panels long.
  static XMAE_INLINE void store(Bf16* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
    store_bf16(out + at.row * stride + at.column, v0, v1);
  }
  // The same, for rows that may end within the panel.
  static XMAE_INLINE void store_dense(Bf16* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
    Bf16* p = out + at.row * stride + at.column;
    if (at.count == kPairWidth) return store_bf16(p, v0, v1);
    store_some_bf16(p, v0, at.count);
    if (at.count > W) store_some_bf16(p + W, v1, at.count - W);
  }
};

// float32 by three bfloat16 parts, whose rows have all first parts, then all second ones, then all third ones.
struct Float32Split {
  using Number = Bf16;
  using Matrix = SplitMatrix;
  using Feature = float;
  static constexpr int64_t kGroupRows = 96;
  // Three times what the matrix has as its part_stride.
  static XMAE_INLINE int64_t row_stride(int64_t columns) { return 3 * split_part(columns); }
  static XMAE_INLINE int64_t readable(int64_t rows) { return Bfloat16::readable(rows); }
  static XMAE_INLINE Vec silu(Vec x) { return XMAE_ISA::silu(x); }
  static XMAE_INLINE Vec gelu(Vec x) { return XMAE_ISA::gelu(x); }
  static XMAE_INLINE void store(Bf16* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
    Bf16* p = out + at.row * stride + at.column;
    const int64_t part = stride / 3;
    const Vec first0 = near_bf16(v0), first1 = near_bf16(v1), rest0 = v0 - first0, rest1 = v1 - first1;
    const Vec second0 = near_bf16(rest0), second1 = near_bf16(rest1);
    store_bf16(p, first0, first1);
    store_bf16(p + part, second0, second1);
    store_bf16(p + 2 * part, rest0 - second0, rest1 - second1);
  }
  static XMAE_INLINE void store_dense(float* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
    store_row(out, stride, at, v0, v1);
  }
};

}  // namespace xmae_fast::XMAE_ISA
