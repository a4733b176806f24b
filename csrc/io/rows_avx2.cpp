// Compiles the reader's functions for AVX2, FMA and F16C: vectors of eight floats.
#if defined(__x86_64__)
#include <immintrin.h>

#include "io/rows.h"
#define XMAE_ISA avx2
#define XMAE_LANES 8
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,f16c,fma")
#endif
#include "io/rows.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
