// Compiles the bfloat16 kernels for AVX512-BF16, whose VDPBF16PS multiplies pairs of numbers (GCC 10, Clang 9).
#include "cpu/base/bf16_kernels.h"
#include "isa.h"

#if XMAE_HAS_AVX512_BF16
#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)  // GCC 12 finds fault with its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define XMAE_ISA bf16_avx512
#define XMAE_BF16_NAME avx512_bf16
#define XMAE_BF16_PAIRS
#define XMAE_VECTOR_BYTES 64
#define XMAE_MOST_ROWS 14  // of the tables in dispatch.cpp
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16,prefer-vector-width=512")
#endif
#include "cpu/base/bf16_kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
