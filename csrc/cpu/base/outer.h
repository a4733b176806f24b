// Computes out += A^T B, the gradients of weights. A [rows, M] and B [rows, N] are stored row by row, so every row adds
// an outer product; rows may overlap, as the windows of a convolution do. Each chunk of rows is summed from zero and
// then added, which keeps the chains of rounding short and the same for any number of threads.
#pragma once

#include "cpu/base/gemm.h"

namespace xmae_fast::XMAE_ISA {

constexpr int64_t kOuterRows = 64;  // rows of a chunk: its packed tile of A stays in the first-level cache

// out [R, columns] += tile^T b for tile [rows, R] and b [rows, 2 W]. columns <= 2 W; rows of b and out lie b_stride and
// out_stride apart.
template <int R>
void outer_tile(
    const float* tile, const float* b, int64_t b_stride, int64_t rows, float* out, int64_t out_stride,
    int64_t columns) {
  Vec acc[R][2] = {};
  for (int64_t l = 0; l < rows; ++l) {
    const Vec b0 = load(b), b1 = load(b + W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec s = broadcast(tile[r]);
      acc[r][0] += s * b0;
      acc[r][1] += s * b1;
    }
    tile += R;
    b += b_stride;
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* row = out + r * out_stride;
    store_some(row, load_some(row, columns) + acc[r][0], columns);
    if (columns > W) store_some(row + W, load_some(row + W, columns - W) + acc[r][1], columns - W);
  }
}

// Calls the instantiation of outer_tile for `height` columns of A, 1 to R.
template <int R>
XMAE_INLINE void outer_rows(
    int64_t height, const float* tile, const float* b, int64_t b_stride, int64_t rows, float* out, int64_t out_stride,
    int64_t columns) {
  if (height == R) return outer_tile<R>(tile, b, b_stride, rows, out, out_stride, columns);
  if constexpr (R > 1) outer_rows<R - 1>(height, tile, b, b_stride, rows, out, out_stride, columns);
}

// Copies `height` columns of A to tile [rows, height]. The width of the copy is a constant, because for N = 256 a copy
// of unknown width takes a fifth of the time of the whole product.
template <int R>
XMAE_INLINE void outer_pack(int64_t height, const float* from, int64_t a_stride, int64_t rows, float* tile) {
  if (height == R) {
    for (int64_t l = 0; l < rows; ++l) std::memcpy(tile + l * R, from + l * a_stride, R * sizeof(float));
  } else if constexpr (R > 1) {
    outer_pack<R - 1>(height, from, a_stride, rows, tile);
  }
}

// out [M, N] += A^T B for a [rows, M] and b [rows, N], whose rows lie a_stride, b_stride and out_stride apart. Reads
// nothing outside of A and B.
inline void add_outer(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows, int64_t M, int64_t N, float* out,
    int64_t out_stride) {
  constexpr int64_t panel = 2 * W;
  const int64_t most = tile_rows(), tiles = (M + most - 1) / most, whole = N / panel * panel;
  float* tile = scratch(kSlotTile, kOuterRows * kMostRows);
  float* tail = whole < N ? scratch(kSlotTail, kOuterRows * panel) : nullptr;
  for (int64_t first = 0; first < rows; first += kOuterRows) {
    const int64_t count = rows - first < kOuterRows ? rows - first : kOuterRows;
    const float* b_chunk = b + first * b_stride;
    if (whole < N) {  // the last panel is not whole: it is padded with zeros
      for (int64_t l = 0; l < count; ++l) {
        for (int64_t n = 0; n < panel; ++n) {
          tail[l * panel + n] = whole + n < N ? b_chunk[l * b_stride + whole + n] : 0.0f;
        }
      }
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t m = M * t / tiles, height = M * (t + 1) / tiles - m;
      const float* from = a + first * a_stride + m;
      outer_pack<kMostRows>(height, from, a_stride, count, tile);
      for (int64_t n = 0; n < whole; n += panel) {
        outer_rows<kMostRows>(height, tile, b_chunk + n, b_stride, count, out + m * out_stride + n, out_stride, panel);
      }
      if (whole < N) {
        outer_rows<kMostRows>(height, tile, tail, panel, count, out + m * out_stride + whole, out_stride, N - whole);
      }
    }
  }
}

}  // namespace xmae_fast::XMAE_ISA
