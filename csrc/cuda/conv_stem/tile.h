// Operations on tiles of 16-bit activations: their rows in shared memory, products on tensor cores, and the steps after
// a product, on numbers in registers. `Lane` is one thread: lane.cuh on a GPU, tests/ops/cuda/host/lane.h on a host.
//
// A lane's registers of mma.m16n8k16, for g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//   C: row g, columns 2t and 2t + 1; then row g + 8, the same columns
//   A: rows g and g + 8 of columns 2t and 2t + 1; then rows g and g + 8 of columns 2t + 8 and 2t + 9
// So two neighbouring 8-column tiles of C, rounded, are an A operand: outputs enter the next product without leaving
// the lane.
#pragma once

#include <cmath>

#include "cuda/conv_stem/stem_plan.h"

namespace xmae_fast::cuda {

// Rows of C 16-bit numbers in shared memory. The 16-byte pieces of a row are exchanged with each other so that any one
// piece of eight successive rows lies in eight different groups of four banks: all eight can be read at once. `at`
// returns the offset of a piece in bytes.
template <int C>
struct Rows {
  static constexpr int kBytes = 2 * C;
  static XMAE_HD uint32_t at(uint32_t row, uint32_t piece) {
    const uint32_t exchange = C == 32 ? (row >> 1) & 3u : row & 7u;
    return row * kBytes + ((piece ^ exchange) << 4);
  }
};

template <int R, int N>
struct Sums {
  float v[R][N][4];  // a lane's numbers of C: [16-row tiles][8-column tiles][registers]
};
template <int R, int N>
struct Outputs {
  uint32_t v[R][N / 2][4];  // rounded sums as A operands: [16-row tiles][16-column tiles][registers]
};

template <int R, int N>
XMAE_HD void clear(Sums<R, N>& sums) {
  XMAE_UNROLL
  for (int i = 0; i < R; ++i) {
    XMAE_UNROLL
    for (int j = 0; j < N; ++j) {
      XMAE_UNROLL
      for (int k = 0; k < 4; ++k) sums.v[i][j][k] = 0.0f;
    }
  }
}

// Sets each sum to the shift of its column. shifts: float32 [8 N] in shared memory.
template <int R, int N, typename Lane>
XMAE_HD void begin_with(Lane& lane, Sums<R, N>& sums, uint32_t shifts) {
  XMAE_UNROLL
  for (int j = 0; j < N; ++j) {
    const Float2 shift = lane.template load<Float2>(shifts + (8 * j + 2 * (lane.lane() % 4)) * 4);
    XMAE_UNROLL
    for (int i = 0; i < R; ++i) {
      sums.v[i][j][0] = sums.v[i][j][2] = shift.x;
      sums.v[i][j][1] = sums.v[i][j][3] = shift.y;
    }
  }
}

// sums[:, first TILES tiles] += A [rows, 32] B. weights: TILES tiles of B in shared memory. load_a(i, h, a) writes the
// A operand of row tile i for input numbers 16 h to 16 h + 15 to a. Of A and B, the one with fewer tiles is kept in
// registers as a whole while the tiles of the other pass.
template <int TILES, int R, int N, typename Lane, typename LoadA>
XMAE_HD void multiply(Lane& lane, Sums<R, N>& sums, uint32_t weights, const LoadA& load_a) {
  const uint32_t mine = weights + 16 * lane.lane();
  if constexpr (R <= TILES) {
    uint32_t a[R][2][4];
    XMAE_UNROLL
    for (int i = 0; i < R; ++i) {
      load_a(i, 0, a[i][0]);
      load_a(i, 1, a[i][1]);
    }
    XMAE_UNROLL
    for (int j = 0; j < TILES; ++j) {
      const Words4 b = lane.template load<Words4>(mine + kTileBytes * j);
      XMAE_UNROLL
      for (int i = 0; i < R; ++i) lane.mma(sums.v[i][j], a[i][0], b.v[0], b.v[1]);
      XMAE_UNROLL
      for (int i = 0; i < R; ++i) lane.mma(sums.v[i][j], a[i][1], b.v[2], b.v[3]);
    }
  } else {
    Words4 b[TILES];
    XMAE_UNROLL
    for (int j = 0; j < TILES; ++j) b[j] = lane.template load<Words4>(mine + kTileBytes * j);
    XMAE_UNROLL
    for (int i = 0; i < R; ++i) {
      uint32_t a[2][4];
      load_a(i, 0, a[0]);
      load_a(i, 1, a[1]);
      XMAE_UNROLL
      for (int j = 0; j < TILES; ++j) lane.mma(sums.v[i][j], a[0], b[j].v[0], b[j].v[1]);
      XMAE_UNROLL
      for (int j = 0; j < TILES; ++j) lane.mma(sums.v[i][j], a[1], b[j].v[2], b[j].v[3]);
    }
  }
}

// For ldmatrix.x4 each lane names one row. To load the A operand of 16 rows and 16 columns it names row matrix_row() of
// them, and half matrix_half() of the columns.
template <typename Lane>
XMAE_HD int matrix_row(const Lane& lane) {
  return lane.lane() & 15;
}
template <typename Lane>
XMAE_HD int matrix_half(const Lane& lane) {
  return lane.lane() >> 4;
}

// Adds the products of one tap and 32 input channels, number `part`, to sums. rows_at: the input [rows, C_IN] in shared
// memory. row: the input row that the tap reads for the warp's first output row; those of the next rows lie STRIDE
// apart.
template <int TILES, int C_IN, int STRIDE, int R, int N, typename Lane>
XMAE_HD void convolve_step(Lane& lane, Sums<R, N>& sums, uint32_t weights, uint32_t rows_at, int row, int part) {
  const uint32_t mine = row + STRIDE * matrix_row(lane);
  uint32_t address[2];
  for (int h = 0; h < 2; ++h) address[h] = rows_at + Rows<C_IN>::at(mine, 4 * part + 2 * h + matrix_half(lane));
  multiply<TILES>(lane, sums, weights, [&](int i, int h, uint32_t (&a)[4]) {
    lane.load_matrix(a, address[h] + i * kTileRows * STRIDE * Rows<C_IN>::kBytes);
  });
}

// Returns silu(2 sums), rounded.
template <int R, int N, typename Lane>
XMAE_HD Outputs<R, N> activated(Lane& lane, const Sums<R, N>& sums) {
  Outputs<R, N> out;
  XMAE_UNROLL
  for (int i = 0; i < R; ++i) {
    XMAE_UNROLL
    for (int j = 0; j < N; ++j) {
      float y[4];
      XMAE_UNROLL
      for (int k = 0; k < 4; ++k) y[k] = fmaf(sums.v[i][j][k], lane.tanh(sums.v[i][j][k]), sums.v[i][j][k]);
      out.v[i][j / 2][j % 2 * 2] = Lane::Number::two(y[0], y[1]);
      out.v[i][j / 2][j % 2 * 2 + 1] = Lane::Number::two(y[2], y[3]);
    }
  }
  return out;
}

template <int R, int N, typename Lane>
XMAE_HD Outputs<R, N> rounded(Lane&, const Sums<R, N>& sums) {
  Outputs<R, N> out;
  XMAE_UNROLL
  for (int i = 0; i < R; ++i) {
    XMAE_UNROLL
    for (int j = 0; j < N; ++j) {
      out.v[i][j / 2][j % 2 * 2] = Lane::Number::two(sums.v[i][j][0], sums.v[i][j][1]);
      out.v[i][j / 2][j % 2 * 2 + 1] = Lane::Number::two(sums.v[i][j][2], sums.v[i][j][3]);
    }
  }
  return out;
}

// Stores rows [row, row + 16 R) of an activation, but only those before `length`. rows_at: where it lies in shared
// memory, after `padding` rows of zeros.
template <int R, int N, typename Lane>
XMAE_HD void store_rows(Lane& lane, const Outputs<R, N>& out, uint32_t rows_at, int padding, int row, int length) {
  const int g = lane.lane() / 4, t = lane.lane() % 4, left = length - row - g;
  XMAE_UNROLL
  for (int j = 0; j < N; ++j) {
    const uint32_t column = rows_at + Rows<8 * N>::at(row + g + padding, j) + 4 * t;
    XMAE_UNROLL
    for (int i = 0; i < R; ++i) {
      XMAE_UNROLL
      for (int below = 0; below < 2; ++below) {
        const int down = i * kTileRows + 8 * below;  // pieces of rows 8 apart have the same places
        if (down < left) lane.store(column + down * Rows<8 * N>::kBytes, out.v[i][j / 2][j % 2 * 2 + below]);
      }
    }
  }
}

// Writes zeros around an activation [length, C] at rows_at.
template <int C, typename Lane>
XMAE_HD void store_padding(Lane& lane, uint32_t rows_at, int length) {
  constexpr int kPieces = Rows<C>::kBytes / 16;
  for (int i = lane.thread(); i < 2 * kPadRows * kPieces; i += Lane::kThreads) {
    const int row = i / kPieces;
    const Words4 zeros{{0, 0, 0, 0}};
    lane.store(rows_at + Rows<C>::at(row < kPadRows ? row : length + row, i % kPieces), zeros);
  }
}

// The two rows of a coarser level between which a row lies: linear interpolation without aligned corners, as
// torch.nn.functional.interpolate does it. ratio: coarse rows / rows.
struct Between {
  int low, high;
  float weight;  // of `high`
};
XMAE_HD Between between(int row, float ratio, int coarse_rows) {
  const float at = fmaxf(ratio * (static_cast<float>(row) + 0.5f) - 0.5f, 0.0f);
  const int floor = static_cast<int>(at), low = floor < coarse_rows - 1 ? floor : coarse_rows - 1;
  return {low, low < coarse_rows - 1 ? low + 1 : low, at - static_cast<float>(low)};
}

// Adds the rows coarse_at [coarse_rows, 8 N] in shared memory, interpolated to `length` rows, to the sums of the warp's
// rows, which begin at `row`.
template <int R, int N, typename Lane>
XMAE_HD void add_upsampled(Lane& lane, Sums<R, N>& sums, uint32_t coarse_at, int row, int length, int coarse_rows) {
  const float ratio = static_cast<float>(coarse_rows) / static_cast<float>(length);
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  XMAE_UNROLL
  for (int i = 0; i < R; ++i) {
    XMAE_UNROLL
    for (int below = 0; below < 2; ++below) {
      const int at = row + i * kTileRows + 8 * below + g;
      if (at >= length) continue;
      const Between rows = between(at, ratio, coarse_rows);
      XMAE_UNROLL
      for (int j = 0; j < N; ++j) {
        const uint32_t low = lane.template load<uint32_t>(coarse_at + Rows<8 * N>::at(rows.low, j) + 4 * t);
        const uint32_t high = lane.template load<uint32_t>(coarse_at + Rows<8 * N>::at(rows.high, j) + 4 * t);
        XMAE_UNROLL
        for (int k = 0; k < 2; ++k) {
          const float a = Lane::Number::value(low >> 16 * k & 0xffffu),
                      b = Lane::Number::value(high >> 16 * k & 0xffffu);
          sums.v[i][j][2 * below + k] += a + rows.weight * (b - a);
        }
      }
    }
  }
}

}  // namespace xmae_fast::cuda
