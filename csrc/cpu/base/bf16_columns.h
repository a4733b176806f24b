// Computes out += A^T B for A [rows, M] and B [rows, N] of bfloat16 numbers, the gradients of weights. A is laid out by
// columns, so that a tap of a convolution is a shift, and B by pairs of rows; both have zeros after the last row. M and N
// are whole panels.
#pragma once

#include "cpu/base/bf16_gemm.h"

namespace xmae_fast::XMAE_ISA {

constexpr int64_t kLead = kTileSteps;  // numbers before row 0 in a column of A: zeros, of which taps need kPad
constexpr int64_t kChunkSteps = 8;     // steps that are multiplied while 32 columns of A and of B stay in L1

// A by columns.
struct Columns {
  Bf16* numbers;   // [M, stride]; row r of a column is at kLead + r
  int64_t stride;  // an odd number of cache lines, because the rows of a tile would otherwise share a few sets

  static XMAE_INLINE int64_t stride_for(int64_t rows) {
    const int64_t lines = (rows + kTileSteps - 1) / kTileSteps + 2;
    return (lines | 1) * kTileSteps;
  }
};

// B by pairs of rows.
struct RowPairs {
  Bf16* numbers;  // [N / 32, steps, 2, 16, 16, 2]: tiles of 32 rows and 16 columns
  int64_t steps;

  // The pair of rows 2 pair and 2 pair + 1, in the first tile of the panel that begins at `column`.
  XMAE_INLINE Bf16* at(int64_t pair, int64_t column) const {
    constexpr int64_t pairs = kTileSteps / 2;
    return numbers + ((column / kPairWidth * steps + pair / pairs) * 2) * kTileNumbers + pair % pairs * kPairWidth;
  }
  static XMAE_INLINE int64_t steps_for(int64_t rows) { return (rows + kTileSteps - 1) / kTileSteps; }
};

#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
// Returns 32 numbers, rounded. It is no lambda, because GCC compiles those without this file's instruction set.
XMAE_INLINE __m512i round_row(Vec low, Vec high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high), reinterpret_cast<__m512>(low)));
}
#endif

// Rounds two rows of a panel, (a0, a1) and (b0, b1), stores each and stores both by pairs.
XMAE_INLINE void store_two_rows(Bf16* a, Bf16* b, Bf16* pairs, Vec a0, Vec a1, Vec b0, Vec b1) {
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  const __m512i in_a = round_row(a0, a1), in_b = round_row(b0, b1);
  const __m512i first = _mm512_set_epi16(
      47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32,
      0);
  const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
  _mm512_storeu_si512(a, in_a);
  _mm512_storeu_si512(b, in_b);
  _mm512_storeu_si512(pairs, _mm512_permutex2var_epi16(in_a, first, in_b));
  _mm512_storeu_si512(pairs + kTileNumbers, _mm512_permutex2var_epi16(in_a, second, in_b));
#else
  store_bf16(a, a0, a1);
  store_bf16(b, b0, b1);
  for (int64_t n = 0; n < kPairWidth; ++n) {
    Bf16* to = pairs + n / kTileColumns * kTileNumbers + n % kTileColumns * 2;
    to[0] = a[n];
    to[1] = b[n];
  }
#endif
}

// Rounds 32 rows of 16 columns and stores them by columns. row(r) returns row r.
template <typename Row>
XMAE_INLINE void store_by_columns(Bf16* out, int64_t stride, const Row& row) {
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  const __m512i interleave = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16,
      0);
  __m512i v[16], w[16];  // v[i]: rows 2 i and 2 i + 1 by pairs
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const auto both =
        _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(row(2 * i + 1)), reinterpret_cast<__m512>(row(2 * i)));
    v[i] = _mm512_permutexvar_epi16(interleave, reinterpret_cast<__m512i>(both));
  }
  // Transposes 16 by 16 pairs.
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    w[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    w[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(w[i], w[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(w[i], w[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(w[i + 1], w[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(w[i + 1], w[i + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low = _mm512_shuffle_i32x4(v[j], v[j + 4], 0x88),
                  high = _mm512_shuffle_i32x4(v[j + 8], v[j + 12], 0x88);
    const __m512i low_odd = _mm512_shuffle_i32x4(v[j], v[j + 4], 0xDD);
    const __m512i high_odd = _mm512_shuffle_i32x4(v[j + 8], v[j + 12], 0xDD);
    _mm512_storeu_si512(out + j * stride, _mm512_shuffle_i32x4(low, high, 0x88));
    _mm512_storeu_si512(out + (4 + j) * stride, _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
    _mm512_storeu_si512(out + (8 + j) * stride, _mm512_shuffle_i32x4(low, high, 0xDD));
    _mm512_storeu_si512(out + (12 + j) * stride, _mm512_shuffle_i32x4(low_odd, high_odd, 0xDD));
  }
#else
  for (int64_t r = 0; r < kTileSteps; ++r) {
    Bf16 lanes[W];
    store_bf16(lanes, row(r));
    for (int64_t c = 0; c < W; ++c) out[c * stride + r] = lanes[c];
  }
#endif
}

// Fills A from its rows, rounded, with zeros before and after them. row(r, c) returns columns [c, c + 16) of row r.
template <typename Row>
XMAE_INLINE void fill_columns(const Columns& out, int64_t rows, int64_t M, const Row& row) {
  const int64_t whole = rows / kTileSteps * kTileSteps, end = (rows + kTileSteps - 1) / kTileSteps * kTileSteps;
  for (int64_t first = 0; first < whole; first += kTileSteps) {
    for (int64_t c = 0; c < M; c += kTileColumns) {
      Bf16* to = out.numbers + c * out.stride + kLead + first;
      store_by_columns(to, out.stride, [&](int64_t r) { return row(first + r, c); });
    }
  }
  for (int64_t c = 0; whole < rows && c < M; c += kTileColumns) {
    Bf16* to = out.numbers + c * out.stride + kLead + whole;
    store_by_columns(to, out.stride, [&](int64_t r) { return whole + r < rows ? row(whole + r, c) : Vec{}; });
  }
  for (int64_t c = 0; c < M; ++c) {
    Bf16* to = out.numbers + c * out.stride;
    std::memset(to, 0, kLead * sizeof(Bf16));
    std::memset(to + kLead + end, 0, (out.stride - kLead - end) * sizeof(Bf16));
  }
}

// Fills B from its rows, rounded, and stores these rows to `out`, `stride` apart; if their number is odd, a row of zeros
// follows them there. row(r, c, v0, v1) sets columns [c, c + 32) of row r.
template <typename Row>
XMAE_INLINE void fill_pairs(const RowPairs& pairs, int64_t rows, int64_t N, Bf16* out, int64_t stride, const Row& row) {
  for (int64_t r = 0; r + 1 < rows; r += 2) {
    for (int64_t c = 0; c < N; c += kPairWidth) {
      Vec a0, a1, b0, b1;
      row(r, c, a0, a1);
      row(r + 1, c, b0, b1);
      store_two_rows(out + r * stride + c, out + (r + 1) * stride + c, pairs.at(r / 2, c), a0, a1, b0, b1);
    }
  }
  for (int64_t c = 0; c < N; c += kPairWidth) {
    if (rows % 2 == 1) {
      Vec a0, a1;
      row(rows - 1, c, a0, a1);
      store_two_rows(
          out + (rows - 1) * stride + c, out + rows * stride + c, pairs.at(rows / 2, c), a0, a1, Vec{}, Vec{});
    }
    for (int64_t pair = (rows + 1) / 2; pair < pairs.steps * kTileSteps / 2; ++pair) {
      std::memset(pairs.at(pair, c), 0, kPairWidth * sizeof(Bf16));
      std::memset(pairs.at(pair, c) + kTileNumbers, 0, kPairWidth * sizeof(Bf16));
    }
  }
}

}  // namespace xmae_fast::XMAE_ISA
