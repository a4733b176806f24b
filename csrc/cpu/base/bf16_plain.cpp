// Compiles the bfloat16 kernels for every processor: plain loops multiply as AMX does. They are for tests of values on
// processors without its instructions; no processor is faster with them.
#include "cpu/base/bf16_kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors of 64 bytes never leave this file
#endif
#define XMAE_ISA bf16_plain
#define XMAE_BF16_NAME plain
#define XMAE_PORTABLE_VECTORS
#define XMAE_VECTOR_BYTES 64
#define XMAE_MOST_ROWS 14  // of the tables in dispatch.cpp
#include "cpu/base/bf16_kernels.inc"
