// Compiles the kernels for AVX-512: vectors of sixteen floats, 32 registers. Tiles of 12 rows are faster than those of
// 13 or 14, which leave no register free.
#include "cpu/base/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define XMAE_ISA avx512
#define XMAE_VECTOR_BYTES 64
#define XMAE_TILE_ROWS 12
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#include "cpu/base/kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
