// Conversions between float32 and the two 16-bit types, bfloat16 and float16. They round to nearest, ties to even, and
// a GPU and a host get the same bits.
//
// Both types have the same members, and kernels take one of them as their template parameter `Number`:
//   one(value)      the 16 bits of a number, in the low half of a word
//   two(low, high)  two numbers in one register, as tensor cores take them
//   value(bits)     the number that 16 bits stand for
#pragma once

#include <cstdint>

// XMAE_HD marks a function that is compiled for the GPU and for the host.
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
    if (size >= 0x477ff000u) return sign | 0x7c00u;  // the number rounds to one beyond 65504, the largest: infinity
    if (size < 0x38800000u) {                        // below 2^-14 float16 holds multiples of 2^-24
      const float sum = float_of(size) + 0.5f;       // the last place of this sum is 2^-24
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
