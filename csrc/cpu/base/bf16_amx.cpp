// Compiles the bfloat16 kernels for AMX. The compiler must know its instructions (GCC 11, Clang 12); where it does not,
// the table is missing, which isa.h tells by XMAE_HAS_AMX.
#include "cpu/base/bf16_kernels.h"
#include "isa.h"

#if XMAE_HAS_AMX
#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)  // GCC 12 finds fault with its own intrinsics
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define XMAE_ISA bf16_amx
#define XMAE_BF16_NAME amx
#define XMAE_BF16_AMX
#define XMAE_VECTOR_BYTES 64
#define XMAE_MOST_ROWS 14  // of the tables in dispatch.cpp

#if defined(__clang__)
#pragma clang attribute push(                                                                            \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16,amx-tile,amx-bf16,prefer-vector-width=512")
#endif
#include "cpu/base/bf16_kernels.inc"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
