// The operations on rows that training in bfloat16 adds to those of rows.h, and packing of weights by vectors.
#pragma once

#include "cpu/base/bf16_outer.h"
#include "cpu/base/rows.h"

namespace xmae_fast::XMAE_ISA {

// The same as for float32 numbers: sums a [rows, columns] over the rows, kSumRows at a time.
template <typename Number>
void sum_rows(const Number* a, int64_t stride, int64_t rows, int64_t columns, float* out) {
  constexpr int64_t together = 4;  // vectors, which are two cache lines
  int64_t whole = 0;
  for (; whole + together * W <= columns; whole += together * W) {
    Vec totals[together] = {};
    for (int64_t first = 0; first < rows; first += kSumRows) {
      const int64_t end = first + kSumRows < rows ? first + kSumRows : rows;
      Vec parts[together] = {};
      for (int64_t row = first; row < end; ++row) {
        for (int64_t i = 0; i < together; ++i) parts[i] += load_bf16(a + row * stride + whole + i * W);
      }
      for (int64_t i = 0; i < together; ++i) totals[i] += parts[i];
    }
    for (int64_t i = 0; i < together; ++i) store(out + whole + i * W, totals[i]);
  }
  for (int64_t c = whole; c < columns; c += W) {
    const int64_t count = columns - c < W ? columns - c : W;
    Vec total{};
    for (int64_t first = 0; first < rows; first += kSumRows) {
      const int64_t end = first + kSumRows < rows ? first + kSumRows : rows;
      Vec part{};
      for (int64_t row = first; row < end; ++row) part += load_some_bf16(a + row * stride + c, count);
      total += part;
    }
    store_some(out + c, total, count);
  }
}

XMAE_INLINE void load_row(const Bf16* row, const RowOut& at, Vec& v0, Vec& v1) {
  v0 = load_some_bf16(row + at.column, at.count);
  v1 = at.count > W ? load_some_bf16(row + at.column + W, at.count - W) : Vec{};
}

// Rounds a [rows, columns] to out, whose rows lie `stride` apart, in parallel, with zeros after each row up to a whole
// panel.
inline void round_all(const float* a, int64_t rows, int64_t columns, Bf16* out, int64_t stride) {
  parallel(rows, 32768 / (columns + 1) + 1, [&](int64_t begin, int64_t end) {
    round_rows<Bfloat16>(a + begin * columns, columns, end - begin, columns, out + begin * stride, stride);
  });
}

// Fills the tiles of a packed matrix: B[k, n] = weights[n * row_stride + k * step_stride] for `steps` rows k and
// `columns` columns n. One of the strides must be 1. Training packs in every step, so tiles are packed by vectors.
inline void fill_tiles(
    const float* weights, int64_t row_stride, int64_t step_stride, int64_t columns, int64_t steps, Bf16* out) {
  const int64_t panels = (columns + kPairWidth - 1) / kPairWidth, chunks = outer_chunks(steps);
  parallel(panels, 4, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t here = columns - p * kPairWidth, tiles = here > kTileColumns ? 2 : 1;
      Bf16* to = out + p * chunks * 2 * kTileNumbers;
      for (int64_t c = 0; c < chunks; ++c) {
        const int64_t k = c * kTileSteps;
        for (int64_t t = 0; t < tiles; ++t, to += kTileNumbers) {
          const int64_t n = p * kPairWidth + t * kTileColumns;
          VecUint tile[kTileRows];
          if (row_stride == 1) {
            load_tile(weights + k * step_stride + n, step_stride, steps - k, columns - n, tile);
          } else {
            for (int64_t i = 0; i < kTileRows; ++i) {
              const float* from = weights + (n + i) * row_stride + k;
              const int64_t count = n + i < columns ? steps - k : 0;
              const Vec v0 = count > 0 ? load_some(from, count) : Vec{};
              const Vec v1 = count > W ? load_some(from + W, count - W) : Vec{};
              store_bf16(reinterpret_cast<Bf16*>(&tile[i]), v0, v1);
            }
            transpose(tile);
          }
          for (int64_t i = 0; i < kTileRows; ++i) store_pairs(to + i * kPairWidth, tile[i]);
        }
      }
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
