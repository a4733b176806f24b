// Compiles the reader's functions for AVX-512: vectors of sixteen floats.
#if defined(__x86_64__)
#include <immintrin.h>

#include "io/rows.h"
#define XMAE_ISA avx512
#define XMAE_LANES 16
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,fma,prefer-vector-width=512")
#endif
#include "io/rows.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
