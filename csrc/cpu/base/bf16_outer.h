// Computes A^T B of bfloat16 numbers, the gradients of weights: A [rows, M] and B [rows, N] are rows of gradients and of
// activations, and the sums run over all rows. Tiles need consecutive rows in pairs, so both are laid out first: B in
// pairs of rows (pair_rows), A transposed to [M, rows] (transpose_rows). The transposed A may be read from any row on, as
// the taps of a convolution do.
#pragma once

#include "cpu/base/bf16_tiles.h"

namespace xmae_fast::XMAE_ISA {

// Returns the pairs (x0[n], x1[n]) of 16 columns n as bfloat16 numbers, x0 in the lower halves.
XMAE_INLINE VecUint interleave(Vec x0, Vec x1) {
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(x1), reinterpret_cast<__m512>(x0));
  return reinterpret_cast<VecUint>(_mm512_permutexvar_epi16(_mm512_load_si512(order), reinterpret_cast<__m512i>(both)));
#else
  return bf16_bits(x0) | bf16_bits(x1) << 16;
#endif
}

// Loads the pairs of `count` columns (16 if there are more) of two rows. Other columns, and a row that is null, are 0.
XMAE_INLINE VecUint load_pairs(const float* x0, const float* x1, int64_t count) {
  return interleave(x0 != nullptr ? load_some(x0, count) : Vec{}, x1 != nullptr ? load_some(x1, count) : Vec{});
}
XMAE_INLINE VecUint load_pairs(const Bf16* x0, const Bf16* x1, int64_t count) {
  const auto widened = [count](const Bf16* x) {
    if (x == nullptr) return VecUint{};
    Bf16 lanes[W] = {};
    if (count < W) {
      for (int64_t i = 0; i < count; ++i) lanes[i] = x[i];
      x = lanes;
    }
    const HalfInts bits = *reinterpret_cast<const HalfIntsAnywhere*>(x);
    return __builtin_convertvector(bits, VecUint);
  };
  return widened(x0) | widened(x1) << 16;
}

// Transposes 16 vectors of 16 numbers.
XMAE_INLINE void transpose(VecUint (&rows)[kTileRows]) {
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  __m512i a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    const auto even = reinterpret_cast<__m512i>(rows[i]), odd = reinterpret_cast<__m512i>(rows[i + 1]);
    a[i] = _mm512_unpacklo_epi32(even, odd);
    a[i + 1] = _mm512_unpackhi_epi32(even, odd);
  }
  for (int i = 0; i < 16; i += 4) {
    b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  // Now part l (128 bits) of b[4 g + j] is column 4 l + j of rows 4 g to 4 g + 3.
  for (int j = 0; j < 4; ++j) {
    const __m512i even0 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88), odd0 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xDD);
    const __m512i even1 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88);
    const __m512i odd1 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xDD);
    rows[j] = reinterpret_cast<VecUint>(_mm512_shuffle_i32x4(even0, even1, 0x88));
    rows[4 + j] = reinterpret_cast<VecUint>(_mm512_shuffle_i32x4(odd0, odd1, 0x88));
    rows[8 + j] = reinterpret_cast<VecUint>(_mm512_shuffle_i32x4(even0, even1, 0xDD));
    rows[12 + j] = reinterpret_cast<VecUint>(_mm512_shuffle_i32x4(odd0, odd1, 0xDD));
  }
#else
  VecUint out[kTileRows];
  for (int64_t i = 0; i < kTileRows; ++i) {
    for (int64_t j = 0; j < kTileRows; ++j) out[i][j] = rows[j][i];
  }
  for (int64_t i = 0; i < kTileRows; ++i) rows[i] = out[i];
#endif
}

// Loads a tile: the pairs of `count` rows (32 if there are more) and 16 columns, of which `columns` exist.
template <typename Number>
XMAE_INLINE void load_tile(
    const Number* x, int64_t stride, int64_t count, int64_t columns, VecUint (&tile)[kTileRows]) {
  if (count >= kTileSteps && columns >= W) {
    for (int64_t i = 0; i < kTileRows; ++i) tile[i] = load_pairs(x + 2 * i * stride, x + (2 * i + 1) * stride, W);
    return;
  }
  for (int64_t i = 0; i < kTileRows; ++i) {
    const Number* x0 = 2 * i < count ? x + 2 * i * stride : nullptr;
    const Number* x1 = 2 * i + 1 < count ? x + (2 * i + 1) * stride : nullptr;
    tile[i] = load_pairs(x0, x1, columns);
  }
}

XMAE_INLINE void store_pairs(Bf16* p, VecUint pairs) { std::memcpy(p, &pairs, sizeof(pairs)); }

// Lays out rows of B. x: `count` rows of `columns` numbers (float or Bf16), `stride` apart, of which the first is row
// 32 `chunk` of B; rows from `count` on, to a whole chunk, are 0. out [panels, chunks, 2 tiles] is all of B: paired_size
// numbers for its 32 `chunks` rows.
template <typename Number>
void pair_rows(
    const Number* x, int64_t stride, int64_t count, int64_t columns, int64_t chunk, int64_t chunks, Bf16* out) {
  for (int64_t row = 0; row < count; row += kTileSteps, ++chunk) {
    for (int64_t c = 0; c < columns; c += kTileColumns) {
      VecUint tile[kTileRows];
      load_tile(x + row * stride + c, stride, count - row, columns - c, tile);
      Bf16* to =
          out + (c / kPairWidth * chunks + chunk) * 2 * kTileNumbers + c % kPairWidth / kTileColumns * kTileNumbers;
      for (int64_t i = 0; i < kTileRows; ++i) store_pairs(to + i * kPairWidth, tile[i]);
      if (c % kPairWidth == 0 && c + kTileColumns >= columns) std::memset(to + kTileNumbers, 0, kTileNumbers * 2);
    }
  }
}

// Lays out rows of A: x as for pair_rows -> rows [0, columns) of out, from number 32 `chunk` on. Rows of out are
// out_stride apart and as long as whole chunks. Whole groups of 16 rows of out are written, the last ones with zeros.
template <typename Number>
void transpose_rows(
    const Number* x, int64_t stride, int64_t count, int64_t columns, int64_t chunk, Bf16* out, int64_t out_stride) {
  for (int64_t row = 0; row < count; row += kTileSteps, ++chunk) {
    for (int64_t c = 0; c < columns; c += kTileColumns) {
      VecUint tile[kTileRows];
      load_tile(x + row * stride + c, stride, count - row, columns - c, tile);
      transpose(tile);
      Bf16* to = out + c * out_stride + chunk * kTileSteps;
      for (int64_t i = 0; i < kTileRows; ++i) store_pairs(to + i * out_stride, tile[i]);
    }
  }
}

constexpr int64_t kOuterChunks = 32;  // chunks of 32 rows that are summed in registers and then added to the result

struct OuterSteps {
  Bf16Step steps[kOuterChunks];
  constexpr OuterSteps() : steps{} {
    for (int64_t i = 0; i < kOuterChunks; ++i) steps[i] = {i * kTileSteps, 2};
  }
};

// Computes blocks [first, last) of 32 rows, and panels [from, to) of 32 columns, of out [M, N] = A^T B, whose rows are
// out_stride apart. a: A transposed, in rows of 32 `chunks` numbers that are a_stride apart; whole groups of 16 rows must
// be readable. b: as pair_rows lays it out. add: adds to out instead. The sums are the same however out is divided.
inline void outer_tiles(
    const Bf16* a, int64_t a_stride, const Bf16* b, int64_t chunks, int64_t M, int64_t N, int64_t first, int64_t last,
    int64_t from, int64_t to, float* out, int64_t out_stride, bool add = false) {
  static constexpr OuterSteps regular;
  constexpr int64_t height = 2 * kTileRows;
  alignas(64) float sums[height * kSumsStride];
  const TileRegisters registers;
  const auto nothing = [](int64_t) {};
  const auto block = [&](int64_t i, int64_t p, int64_t chunk, int64_t count, bool onto) {
    const int64_t rows = M - i * height < height ? M - i * height : height;
    const int64_t columns = N - p * kPairWidth < kPairWidth ? N - p * kPairWidth : kPairWidth;
    const Bf16* a0 = a + i * height * a_stride + chunk * kTileSteps;
    const Bf16* tiles = b + (p * chunks + chunk) * 2 * kTileNumbers;
    if (rows > kTileRows) {
      multiply_tiles<2>(a0, a0 + kTileRows * a_stride, a_stride, regular.steps, count, tiles, sums, nothing);
    } else {
      multiply_tiles<1>(a0, a0, a_stride, regular.steps, count, tiles, sums, nothing);
    }
    for (int64_t r = 0; r < rows; ++r) {
      float* row = out + (i * height + r) * out_stride + p * kPairWidth;
      const float* sum = sums + r * kSumsStride;
      if (columns == kPairWidth) {
        store(row, onto ? load(row) + load(sum) : load(sum));
        store(row + W, onto ? load(row + W) + load(sum + W) : load(sum + W));
      } else {
        for (int64_t c = 0; c < columns; ++c) row[c] = onto ? row[c] + sum[c] : sum[c];
      }
    }
  };
  for (int64_t chunk = 0; chunk == 0 || chunk < chunks; chunk += kOuterChunks) {
    const int64_t count = chunks - chunk < kOuterChunks ? chunks - chunk : kOuterChunks;
    const bool onto = add || chunk > 0;
    // What is read again and again should be the smaller of the two.
    if (last - first < to - from) {
      for (int64_t p = from; p < to; ++p) {
        for (int64_t i = first; i < last; ++i) block(i, p, chunk, count, onto);
      }
    } else {
      for (int64_t i = first; i < last; ++i) {
        for (int64_t p = from; p < to; ++p) block(i, p, chunk, count, onto);
      }
    }
  }
}

// Computes all of out [M, N] = A^T B, or adds it, with the longer side of out divided among threads.
inline void outer_bf16(
    const Bf16* a, int64_t a_stride, const Bf16* b, int64_t chunks, int64_t M, int64_t N, float* out,
    int64_t out_stride, bool add = false) {
  const int64_t blocks = (M + 2 * kTileRows - 1) / (2 * kTileRows), panels = (N + kPairWidth - 1) / kPairWidth;
  if (blocks > panels) {
    parallel(blocks, 1, [&](int64_t first, int64_t last) {
      outer_tiles(a, a_stride, b, chunks, M, N, first, last, 0, panels, out, out_stride, add);
    });
  } else {
    parallel(panels, 1, [&](int64_t first, int64_t last) {
      outer_tiles(a, a_stride, b, chunks, M, N, 0, blocks, first, last, out, out_stride, add);
    });
  }
}

}  // namespace xmae_fast::XMAE_ISA
