// Compiles the kernels for vectors of four floats, which every processor has: SSE2 on x86-64, NEON on Arm.
#include "cpu/base/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define XMAE_ISA baseline
#define XMAE_VECTOR_BYTES 16
#if defined(__aarch64__)
#define XMAE_TILE_ROWS 12  // the processor has 32 registers
#else
#define XMAE_TILE_ROWS 6
#endif
#include "cpu/base/kernels.inc"
