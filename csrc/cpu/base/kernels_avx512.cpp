// Compiles the kernels for AVX-512: vectors of sixteen floats, 32 registers. There is a table for each of three heights
// of register tiles; which one is faster depends on the processor (dispatch.cpp). They share their code, results are
// equal bit for bit, and a height costs 76 kB and 1.5 seconds of compiling. Even tiles of 14 rows keep all their sums in
// registers: 28, two for weights and one for the number that multiplies them. Offsets of rows do not fit any more: the
// inner loop reads two of 13 and three of 14 rows from the stack.
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

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
