// 16-bit floating-point numbers, rounded to nearest even, two in a register; the same functions on a GPU and on a host.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define XMAE_HD __host__ __device__ __forceinline__
#else
#define XMAE_HD inline
#endif
#if defined(__CUDA_ARCH__)
#define XMAE_UNROLL _Pragma("unroll")
#define XMAE_NO_UNROLL _Pragma("unroll 1")
#else
#define XMAE_UNROLL
#define XMAE_NO_UNROLL
#endif

namespace xmae_fast::cuda {

struct Float2 {
  float x, y;
};
struct alignas(16) Words4 {
  uint32_t v[4];
};

XMAE_HD uint32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}
XMAE_HD float float_of(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

struct Bf16 {
  static constexpr bool kIsHalf = false;

  static XMAE_HD uint32_t one(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;  // NaN stays NaN
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  }
  static XMAE_HD uint32_t two(float low, float high) {
#if defined(__CUDA_ARCH__)
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return one(low) | one(high) << 16;
#endif
  }
  static XMAE_HD float value(uint32_t bits) { return float_of(bits << 16); }
};

struct Half {
  static constexpr bool kIsHalf = true;

  static XMAE_HD uint32_t one(float value) {
#if defined(__CUDA_ARCH__)
    return __half_as_ushort(__float2half_rn(value));
#else
    const uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return sign | 0x7e00u;
    if (size >= 0x477ff000u) return sign | 0x7c00u;                             // rounds beyond 65504
    if (size < 0x38800000u) {                                                   // below 2^-14: multiples of 2^-24
      const float sum = float_of(size) + 0.5f;                                  // whose last place is 2^-24
      return sign | (bits_of(sum) - bits_of(0.5f));
    }
    return sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13);
#endif
  }
  static XMAE_HD uint32_t two(float low, float high) {
#if defined(__CUDA_ARCH__)
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return one(low) | one(high) << 16;
#endif
  }
  static XMAE_HD float value(uint32_t bits) {
#if defined(__CUDA_ARCH__)
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
#else
    const uint32_t sign = (bits & 0x8000u) << 16, size = bits & 0x7fffu;
    if (size >= 0x7c00u) return float_of(sign | 0x7f800000u | (size & 0x3ffu) << 13);
    if (size < 0x0400u) return float_of(sign | bits_of(static_cast<float>(size) * 0x1p-24f));
    return float_of(sign | ((size << 13) + 0x38000000u));
#endif
  }
};

}  // namespace xmae_fast::cuda
