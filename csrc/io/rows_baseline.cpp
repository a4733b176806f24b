// Compiles the reader's functions for vectors of four floats, which every processor has: SSE2 on x86-64, NEON on Arm.
#define XMAE_ISA baseline
#define XMAE_LANES 4
#include "io/rows.inc"
