// Portable vectors of four floats: baseline x86-64 (SSE2), and any other processor (NEON on Arm).
#define XMAE_ISA baseline
#define XMAE_LANES 4
#include "io/rows.inc"
