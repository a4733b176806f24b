// Compiles the kernels for AVX2 and FMA: vectors of eight floats, 16 registers.
#include "cpu/base/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define XMAE_ISA avx2
#define XMAE_VECTOR_BYTES 32
#define XMAE_TILE_ROWS 6
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "cpu/base/kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
