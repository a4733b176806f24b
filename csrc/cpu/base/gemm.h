// Computes C = A B for a packed B (PackedMatrix in common.h). Registers hold R rows x 2 vectors of C. A is read where
// it lies, and its rows may overlap: a convolution over [L, C] activations is this product with k * C numbers in a row
// of A and C numbers between the starts of two rows. Each output is summed in chains of a fixed length and order, so
// results do not depend on how the rows are divided among threads.
#pragma once

#include "cpu/base/blocks.h"
#include "cpu/base/vec.h"

namespace xmae_fast::XMAE_ISA {

constexpr int kMostRows = XMAE_MOST_ROWS;  // the most rows of a register tile in any table: see tile_rows

// Where a row of C that is in registers belongs: row `row`, columns [column, column + count).
struct RowOut {
  int64_t row, column, count;
};

// acc += A B over `length` steps. a: the first number of the first of R rows. b: weights [length, vectors * W]. Returns
// the end of b.
template <int R, int vectors>
XMAE_INLINE const float* multiply_segment(
    const float* a, int64_t row_stride, const float* b, int64_t length, Vec (&acc)[R][kPanelVectors]) {
  for (int64_t k = 0; k < length; ++k) {
    const Vec b0 = load(b);
    if constexpr (vectors == 2) {
      const Vec b1 = load(b + W);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Vec s = broadcast(a[r * row_stride + k]);
        acc[r][0] += s * b0;
        acc[r][1] += s * b1;
      }
    } else {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) acc[r][0] += broadcast(a[r * row_stride + k]) * b0;
    }
    b += vectors * W;
  }
  return b;
}

// Adds acc to total, or stores it there if !has_total, and sets acc to 0. GCC does not see that `total` is written
// before it is read.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
template <int R>
XMAE_INLINE void add_chain(Vec (&acc)[R][kPanelVectors], float* total, bool has_total) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) {
      float* place = total + (kPanelVectors * r + v) * W;
      store(place, has_total ? load(place) + acc[r][v] : acc[r][v]);
      acc[r][v] = Vec{};
    }
  }
}

// Computes R rows and one panel of C.
template <int R, typename Epilogue>
void multiply_tile(
    const float* a, int64_t row_stride, const PackedMatrix& matrix, const Panel& panel, const Segment* segments,
    int64_t row, const Epilogue& epilogue) {
  Vec acc[R][kPanelVectors] = {};
  alignas(XMAE_VECTOR_BYTES) float total[R * kPanelVectors * W];  // sum of the finished chains
  bool has_total = false;
  int64_t left = matrix.chain;
  const float* b = matrix.data.get() + panel.weights;
  for (int64_t s = 0; s < panel.num_segments; ++s) {
    const Segment& segment = segments[s];
    for (int64_t done = 0; done < segment.length;) {
      if (left == 0) {
        add_chain(acc, total, has_total);
        has_total = true;
        left = matrix.chain;
      }
      const int64_t rest = segment.length - done, length = rest < left ? rest : left;
      if (segment.vectors == 2) {
        b = multiply_segment<R, 2>(a + segment.offset + done, row_stride, b, length, acc);
      } else {
        b = multiply_segment<R, 1>(a + segment.offset + done, row_stride, b, length, acc);
      }
      done += length;
      left -= length;
    }
  }
  if (has_total) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      acc[r][0] += load(total + 2 * r * W);
      acc[r][1] += load(total + (2 * r + 1) * W);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) epilogue(RowOut{row + r, panel.column, panel.columns}, acc[r][0], acc[r][1]);
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

// Calls the instantiation of multiply_tile for `rows` rows, 1 to R.
template <int R, typename Epilogue>
XMAE_INLINE void multiply_rows(
    int64_t rows, const float* a, int64_t row_stride, const PackedMatrix& matrix, const Panel& panel,
    const Segment* segments, int64_t row, const Epilogue& epilogue) {
  if (rows == R) return multiply_tile<R>(a, row_stride, matrix, panel, segments, row, epilogue);
  if constexpr (R > 1) multiply_rows<R - 1>(rows, a, row_stride, matrix, panel, segments, row, epilogue);
}

// Computes rows [begin, end) and panels [first, last) of C. a: row 0 of A; rows begin row_stride apart. Calls
// epilogue(RowOut, Vec, Vec) with each finished row of a panel.
template <typename Epilogue>
void multiply(
    const float* a, int64_t row_stride, const PackedMatrix& matrix, int64_t begin, int64_t end, int64_t first,
    int64_t last, const Epilogue& epilogue) {
  const int64_t most = tile_rows(), tiles = (end - begin + most - 1) / most;
  for (int64_t p = first; p < last; ++p) {
    const Panel& panel = *(matrix.panels.data() + p);
    const Segment* segments = matrix.segments.data() + panel.first_segment;
    for (int64_t t = 0; t < tiles; ++t) {  // tiles have nearly equal heights, so that none at the end is short
      const int64_t from = begin + (end - begin) * t / tiles, to = begin + (end - begin) * (t + 1) / tiles;
      multiply_rows<kMostRows>(to - from, a + from * row_stride, row_stride, matrix, panel, segments, from, epilogue);
    }
  }
}

// Stores a finished row to out [rows, stride].
XMAE_INLINE void store_row(float* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
  float* p = out + at.row * stride + at.column;
  store_some(p, v0, at.count);
  if (at.count > W) store_some(p + W, v1, at.count - W);
}

// The arithmetic of kernels that are written for both precisions.
struct Float32 {
  using Number = float;
  using Matrix = PackedMatrix;
  using Feature = float;
  static constexpr int64_t kGroupRows = 72;  // rows of a group; their hidden layer takes 300 kB for F = 1024
  // Returns the distance of rows in scratch memory, in numbers.
  static XMAE_INLINE int64_t row_stride(int64_t columns) { return xmae_fast::row_stride(columns); }
  // Returns how many rows a product may read where `rows` are wanted.
  static XMAE_INLINE int64_t readable(int64_t rows) { return rows; }
  static XMAE_INLINE Vec silu(Vec x) { return XMAE_ISA::silu(x); }
  static XMAE_INLINE Vec gelu(Vec x) { return XMAE_ISA::gelu(x); }
  static XMAE_INLINE void store(float* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
    store_row(out, stride, at, v0, v1);
  }
  static XMAE_INLINE void store_dense(float* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
    store_row(out, stride, at, v0, v1);
  }
};

}  // namespace xmae_fast::XMAE_ISA
