// The product of tiles of bfloat16 numbers, by the instructions of one instruction set: AMX, AVX512-BF16, or plain loops
// that compute the same on every processor. All of them sum in float32.
//
// XMAE_BF16_AMX, XMAE_BF16_PAIRS or neither is defined by the file that includes this one.
#pragma once

#include "cpu/base/bf16_vec.h"

namespace xmae_fast::XMAE_ISA {

// Holds the tile registers of the calling thread. Other libraries configure them too, so nothing is kept between calls,
// and registers that are not in use need not be saved when threads change.
class TileRegisters {
 public:
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
#if defined(XMAE_BF16_AMX)
  XMAE_INLINE TileRegisters() { _tile_loadconfig(&kConfig); }
  XMAE_INLINE ~TileRegisters() { _tile_release(); }

 private:
  struct Config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
  };
  // Eight registers of 16 rows of 64 bytes.
  alignas(64) static constexpr Config kConfig{
      1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
#else
  XMAE_INLINE TileRegisters() {}
#endif
};

#define XMAE_LAMBDA_INLINE __attribute__((always_inline))
constexpr int64_t kSumsStride = kPairWidth;  // floats between rows of sums

#if defined(XMAE_BF16_AMX)
// The steps of products by AMX. Registers 0 to 3 hold the sums, row by row of two tiles, 4 and 5 the tiles of A, 6 and 7
// those of B.
XMAE_INLINE void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Adds the products of all steps. apart: numbers from one tile of B to the next.
template <int R, typename Between>
XMAE_INLINE void add_products(
    const Bf16* a0, const Bf16* a1, int64_t stride, const Bf16Step* steps, int64_t num_steps, const Bf16* b,
    int64_t apart, const Between& between) {
  const int64_t bytes = stride * 2;
  for (int64_t s = 0; s < num_steps; ++s) {
    const int64_t offset = steps[s].offset;
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a0 + offset, bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (R == 2) {
      _tile_loadd(5, a1 + offset, bytes);
      _tile_dpbf16ps(2, 5, 6);
    }
    if (steps[s].tiles == 2) {
      _tile_loadd(7, b + apart, 64);
      _tile_dpbf16ps(1, 4, 7);
      if constexpr (R == 2) _tile_dpbf16ps(3, 5, 7);
    }
    b += steps[s].tiles * apart;
    between(s);
  }
}

// Writes sums [16 R, 32].
template <int R>
XMAE_INLINE void store_sums(float* sums) {
  constexpr int64_t bytes = kSumsStride * 4;
  _tile_stored(0, sums, bytes);
  _tile_stored(1, sums + kTileColumns, bytes);
  if constexpr (R == 2) {
    _tile_stored(2, sums + kTileRows * kSumsStride, bytes);
    _tile_stored(3, sums + kTileRows * kSumsStride + kTileColumns, bytes);
  }
}
#endif

// Computes sums [16 R, 32] of R tiles of rows of A with the columns of a panel. a0, a1: the first rows of both tiles of
// A (a1 is not used for R = 1), whose rows are `stride` numbers apart. b: the panel's tiles. between(s) is called after
// step s: other work that the processor can do while it multiplies.
template <int R, typename Between>
XMAE_INLINE void multiply_tiles(
    const Bf16* a0, const Bf16* a1, int64_t stride, const Bf16Step* steps, int64_t num_steps, const Bf16* b,
    float* sums, const Between& between) {
#if defined(XMAE_BF16_AMX)
  clear_sums();
  add_products<R>(a0, a1, stride, steps, num_steps, b, kTileNumbers, between);
  store_sums<R>(sums);
#elif defined(XMAE_BF16_PAIRS)
  constexpr int rows = 8;
  for (int64_t from = 0; from < R * kTileRows; from += rows) {
    const Bf16* a = from < kTileRows ? a0 + from * stride : a1 + (from - kTileRows) * stride;
    __m512 acc[rows][2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    const Bf16* tile = b;
    for (int64_t s = 0; s < num_steps; ++s) {
      const Bf16* at = a + steps[s].offset;
      const bool both = steps[s].tiles == 2;
      for (int64_t pair = 0; pair < kTileSteps / 2; ++pair) {
        const auto b0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(tile + pair * kPairWidth));
        const auto b1 = both ? reinterpret_cast<__m512bh>(_mm512_loadu_si512(tile + kTileNumbers + pair * kPairWidth))
                             : reinterpret_cast<__m512bh>(_mm512_setzero_si512());
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
          int32_t numbers;
          std::memcpy(&numbers, at + r * stride + 2 * pair, sizeof(numbers));
          const auto both_numbers = reinterpret_cast<__m512bh>(_mm512_set1_epi32(numbers));
          acc[r][0] = _mm512_dpbf16_ps(acc[r][0], both_numbers, b0);
          acc[r][1] = _mm512_dpbf16_ps(acc[r][1], both_numbers, b1);
        }
      }
      tile += steps[s].tiles * kTileNumbers;
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      _mm512_storeu_ps(sums + (from + r) * kSumsStride, acc[r][0]);
      _mm512_storeu_ps(sums + (from + r) * kSumsStride + kTileColumns, acc[r][1]);
    }
  }
  for (int64_t s = 0; s < num_steps; ++s) between(s);
#else
  for (int64_t r = 0; r < R * kTileRows; ++r) {
    const Bf16* a = r < kTileRows ? a0 + r * stride : a1 + (r - kTileRows) * stride;
    float* out = sums + r * kSumsStride;
    for (int64_t n = 0; n < kPairWidth; ++n) out[n] = 0.0f;
    const Bf16* tile = b;
    for (int64_t s = 0; s < num_steps; ++s) {
      for (int64_t t = 0; t < steps[s].tiles; ++t, tile += kTileNumbers) {
        for (int64_t pair = 0; pair < kTileSteps / 2; ++pair) {
          const Bf16* from = a + steps[s].offset + 2 * pair;
          const float even = to_float(from[0]), odd = to_float(from[1]);
          const Bf16* weights = tile + pair * kPairWidth;
          for (int64_t n = 0; n < kTileColumns; ++n) {
            out[t * kTileColumns + n] += even * to_float(weights[2 * n]) + odd * to_float(weights[2 * n + 1]);
          }
        }
      }
    }
  }
  for (int64_t s = 0; s < num_steps; ++s) between(s);
#endif
}

// The same for numbers that are sums of three parts, `part` numbers apart in a row of A and a tile apart in B, by six of
// the nine products of parts. The small ones are summed first, because each addition rounds by as much as the sum is
// large; without that the error would be twice that of float32 multiplications.
template <int R, typename Between>
XMAE_INLINE void multiply_split_tiles(
    const Bf16* a0, const Bf16* a1, int64_t stride, int64_t part, const Bf16Step* steps, int64_t num_steps,
    const Bf16* b, float* sums, const Between& between) {
#if defined(XMAE_BF16_AMX)
  const int64_t bytes = stride * 2;
  clear_sums();
  const Bf16* from = b;
  for (int64_t s = 0; s < num_steps; ++s) {
    const int64_t offset = steps[s].offset;
    const bool both = steps[s].tiles == 2;
    const auto multiply_parts = [&]() XMAE_LAMBDA_INLINE {
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (R == 2) _tile_dpbf16ps(2, 5, 6);
      if (both) {
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (R == 2) _tile_dpbf16ps(3, 5, 7);
      }
    };
    const auto load_a = [&](int64_t p) XMAE_LAMBDA_INLINE {
      _tile_loadd(4, a0 + offset + p * part, bytes);
      if constexpr (R == 2) _tile_loadd(5, a1 + offset + p * part, bytes);
    };
    const auto load_b = [&](int64_t p) XMAE_LAMBDA_INLINE {
      _tile_loadd(6, from + p * kTileNumbers, 64);
      if (both) _tile_loadd(7, from + (3 + p) * kTileNumbers, 64);
    };
    load_a(0);
    load_b(2);
    multiply_parts();
    load_b(1);
    multiply_parts();
    load_a(1);
    multiply_parts();
    load_b(0);
    multiply_parts();
    load_a(2);
    multiply_parts();
    from += steps[s].tiles * 3 * kTileNumbers;
    between(s);
  }
  add_products<R>(a0, a1, stride, steps, num_steps, b, 3 * kTileNumbers, [](int64_t) {});
  store_sums<R>(sums);
#else
  constexpr int kProducts[6][2] = {{0, 2}, {0, 1}, {1, 1}, {1, 0}, {2, 0}, {0, 0}};  // parts of A and of B
  for (int64_t i = 0; i < R * kTileRows * kSumsStride; ++i) sums[i] = 0.0f;
  for (const auto& [of_a, of_b] : kProducts) {
    const Bf16* tiles = b + of_b * kTileNumbers;
    for (int64_t s = 0; s < num_steps; ++s) {
      for (int64_t t = 0; t < steps[s].tiles; ++t, tiles += 3 * kTileNumbers) {
        for (int64_t r = 0; r < R * kTileRows; ++r) {
          const Bf16* a = r < kTileRows ? a0 + r * stride : a1 + (r - kTileRows) * stride;
          const Bf16* from = a + steps[s].offset + of_a * part;
          float* out = sums + r * kSumsStride + t * kTileColumns;
          for (int64_t k = 0; k < kTileSteps; ++k) {
            const float number = to_float(from[k]);
            for (int64_t n = 0; n < kTileColumns; ++n) out[n] += number * to_float(tiles[place_in_tile(k, n)]);
          }
        }
      }
    }
  }
  for (int64_t s = 0; s < num_steps; ++s) between(s);
#endif
}

// Computes sums [32, 32] = A B, or adds A B to them unless `fresh`. a: 32 rows of A, which are `stride` numbers apart. b
// [steps, 2, kTileNumbers]: both tiles of each step. With tiles = 1 only 16 columns take part; if fresh, the others
// become 0.
XMAE_INLINE void accumulate_tiles(
    const Bf16* a, int64_t stride, int64_t steps, const Bf16* b, int64_t tiles, float* sums, bool fresh) {
#if defined(XMAE_BF16_AMX)
  const int64_t bytes = stride * 2, sum_bytes = kSumsStride * 4;
  const Bf16* a1 = a + kTileRows * stride;
  float* sums1 = sums + kTileRows * kSumsStride;
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, sum_bytes);
    _tile_loadd(2, sums1, sum_bytes);
    if (tiles == 2) {
      _tile_loadd(1, sums + kTileColumns, sum_bytes);
      _tile_loadd(3, sums1 + kTileColumns, sum_bytes);
    }
  }
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a + s * kTileSteps, bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a1 + s * kTileSteps, bytes);
    _tile_dpbf16ps(2, 5, 6);
    if (tiles == 2) {
      _tile_loadd(7, b + kTileNumbers, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    b += 2 * kTileNumbers;
  }
  _tile_stored(0, sums, sum_bytes);
  _tile_stored(2, sums1, sum_bytes);
  if (fresh || tiles == 2) {
    _tile_stored(1, sums + kTileColumns, sum_bytes);
    _tile_stored(3, sums1 + kTileColumns, sum_bytes);
  }
#elif defined(XMAE_BF16_PAIRS)
  constexpr int rows = 8;
  for (int64_t from = 0; from < 2 * kTileRows; from += rows) {
    const Bf16* at = a + from * stride;
    float* out = sums + from * kSumsStride;
    __m512 acc[rows][2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      acc[r][0] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(out + r * kSumsStride);
      acc[r][1] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(out + r * kSumsStride + kTileColumns);
    }
    for (int64_t pair = 0; pair < steps * kTileSteps / 2; ++pair) {
      const Bf16* tile = b + pair / 16 * 2 * kTileNumbers + pair % 16 * kPairWidth;
      const auto b0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(tile));
      const auto b1 = tiles == 2 ? reinterpret_cast<__m512bh>(_mm512_loadu_si512(tile + kTileNumbers))
                                 : reinterpret_cast<__m512bh>(_mm512_setzero_si512());
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        int32_t numbers;
        std::memcpy(&numbers, at + r * stride + 2 * pair, sizeof(numbers));
        const auto both_numbers = reinterpret_cast<__m512bh>(_mm512_set1_epi32(numbers));
        acc[r][0] = _mm512_dpbf16_ps(acc[r][0], both_numbers, b0);
        acc[r][1] = _mm512_dpbf16_ps(acc[r][1], both_numbers, b1);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      _mm512_storeu_ps(out + r * kSumsStride, acc[r][0]);
      _mm512_storeu_ps(out + r * kSumsStride + kTileColumns, acc[r][1]);
    }
  }
#else
  for (int64_t r = 0; r < 2 * kTileRows; ++r) {
    float* out = sums + r * kSumsStride;
    for (int64_t n = 0; fresh && n < kPairWidth; ++n) out[n] = 0.0f;
    for (int64_t pair = 0; pair < steps * kTileSteps / 2; ++pair) {
      const float even = to_float(a[r * stride + 2 * pair]), odd = to_float(a[r * stride + 2 * pair + 1]);
      const Bf16* tile = b + pair / 16 * 2 * kTileNumbers + pair % 16 * kPairWidth;
      for (int64_t n = 0; n < tiles * kTileColumns; ++n) {
        const Bf16* numbers = tile + n / kTileColumns * kTileNumbers + n % kTileColumns * 2;
        out[n] += even * to_float(numbers[0]) + odd * to_float(numbers[1]);
      }
    }
  }
#endif
}

}  // namespace xmae_fast::XMAE_ISA
