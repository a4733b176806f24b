// Compiles the kernels for AVX-512: vectors of sixteen floats, 32 registers. Tiles of 12 rows are faster than those of
// 13 or 14, which leave no register free.
#include "cpu/base/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define XMAE_ISA avx512
#define XMAE_VECTOR_BYTES 64
#define XMAE_TILE_ROWS 12
#define XMAE_MOST_ROWS 14
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#include "cpu/base/kernels.inc"

namespace xmae_fast::avx512 {
constexpr Kernels with_tiles_of(int64_t rows, const char* name) {
  Kernels other = table;
  other.name = name;
  other.tile_rows = rows;
  return other;
}
extern const Kernels table_rows13;
constexpr Kernels table_rows13 = with_tiles_of(13, "avx512_rows13");
extern const Kernels table_rows14;
constexpr Kernels table_rows14 = with_tiles_of(14, "avx512_rows14");
}  // namespace xmae_fast::avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
