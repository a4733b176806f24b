// Vectors of floats of one instruction set, and rounding to float16. XMAE_LANES is 16 (AVX-512), 8 (AVX2) or 4.
#pragma once

#include <cstring>

#include "io/rows.h"

namespace xmae_io::XMAE_ISA {

typedef float Vec __attribute__((vector_size(XMAE_LANES * 4)));
typedef int32_t VecInt __attribute__((vector_size(XMAE_LANES * 4)));
typedef float VecAnywhere __attribute__((vector_size(XMAE_LANES * 4), aligned(4), may_alias));

typedef int16_t VecShort __attribute__((vector_size(XMAE_LANES * 4)));
typedef int16_t VecShortAnywhere __attribute__((vector_size(XMAE_LANES * 4), aligned(2), may_alias));

constexpr int64_t W = XMAE_LANES;   // floats in a vector
constexpr int64_t kHalves = 2 * W;  // float16 numbers in a vector

XMAE_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecAnywhere*>(p); }
XMAE_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecAnywhere*>(p) = v; }
XMAE_INLINE VecShort load_bits(const uint16_t* p) { return *reinterpret_cast<const VecShortAnywhere*>(p); }
XMAE_INLINE Vec broadcast(float s) { return s - Vec{}; }

// load_halves converts W float16 numbers to float32. round_half rounds to float16, to nearest, ties to even, and back.
#if XMAE_LANES == 16
XMAE_INLINE Vec load_halves(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
XMAE_INLINE Vec round_half(Vec v) { return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
#elif XMAE_LANES == 8
XMAE_INLINE Vec load_halves(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
XMAE_INLINE Vec round_half(Vec v) { return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
#else
XMAE_INLINE Vec load_halves(const uint16_t* p) {
  VecInt bits;
  for (int64_t i = 0; i < W; ++i) bits[i] = p[i];
  const VecInt sign = (bits & 0x8000) << 16, magnitude = (bits & 0x7fff) << 13;
  // The factor 2^112 moves float16's exponent to that of float32, also of subnormal numbers. Infinity and NaN get the
  // highest exponent.
  const VecInt top = (magnitude >= 0x0f800000) & 0x7f800000;
  const Vec value = reinterpret_cast<Vec>(magnitude) * 0x1p112f;
  return reinterpret_cast<Vec>(reinterpret_cast<VecInt>(value) | top | sign);
}
XMAE_INLINE Vec round_half(Vec v) {
  const VecInt bits = reinterpret_cast<VecInt>(v), sign = bits & static_cast<int32_t>(0x80000000);
  const VecInt magnitude = bits ^ sign;
  // To nearest, ties to even: the result has 13 bits less, or, where float16 is subnormal, is a multiple of 2^-24,
  // which adding 0.75 gives.
  const VecInt normal = (magnitude + 0xfff + ((magnitude >> 13) & 1)) & ~0x1fff;
  const VecInt subnormal = reinterpret_cast<VecInt>((reinterpret_cast<Vec>(magnitude) + 0.75f) - 0.75f);
  VecInt rounded = magnitude < 0x38800000 ? subnormal : normal;
  rounded = rounded >= 0x47800000 ? VecInt{} + 0x7f800000 : rounded;  // 65536 and more become infinity
  rounded = magnitude > 0x7f800000 ? magnitude : rounded;             // NaN stays NaN
  return reinterpret_cast<Vec>(rounded | sign);
}
#endif

// Rounds to the 11 significant bits of float16, to nearest, ties to even: equal to round_half in float16's normal
// range. Adding 1.5 * 2^13 times the number's power of two leaves just those bits in a float, and takes a third of the
// time of converting.
XMAE_INLINE Vec round_11_bits(Vec v) {
  const Vec power = reinterpret_cast<Vec>(reinterpret_cast<VecInt>(v) & 0x7f800000);
#if XMAE_LANES == 16  // the same numbers, with the work divided between adders and multipliers
  const Vec magic = broadcast(12288.0f);
  return _mm512_fnmadd_ps(power, magic, _mm512_fmadd_ps(power, magic, v));
#elif XMAE_LANES == 8
  const Vec magic = broadcast(12288.0f);
  return _mm256_fnmadd_ps(power, magic, _mm256_fmadd_ps(power, magic, v));
#else
  const Vec magic = power * 12288.0f;
  return (v + magic) - magic;
#endif
}

// Computes 2 a / b where both have 11 significant bits, by a rounded reciprocal and one correction. The result is equal
// to the division's for all 2^20 pairs of significands (tests/data/test_gather.py tries them).
struct Doubled {
  Vec half_b, r;
  XMAE_INLINE explicit Doubled(float b) : half_b(broadcast(0.5f * b)), r(broadcast(2.0f / b)) {}
  XMAE_INLINE Vec over_b(Vec a) const {
#if XMAE_LANES == 16
    const Vec q = a * r;
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(q, half_b, a), r, q);
#elif XMAE_LANES == 8
    const Vec q = a * r;
    return _mm256_fmadd_ps(_mm256_fnmadd_ps(q, half_b, a), r, q);
#else
    return a / half_b;
#endif
  }
};

// Rounds one number to float16 and back.
XMAE_INLINE float round_half(float x) { return round_half(broadcast(x))[0]; }

// Rounds to float16 and back if kHalf.
template <bool kHalf>
XMAE_INLINE Vec rounded(Vec v) {
  if constexpr (kHalf) return round_half(v);
  return v;
}

// Rounds to float32 by rounding to odd: if that is rounded to float16, the result is the same as rounding the double
// itself.
XMAE_INLINE float to_odd(double x) {
  float f = static_cast<float>(x);
  if (static_cast<double>(f) == x || x != x || f - f != 0) return f;
  int32_t bits;
  std::memcpy(&bits, &f, 4);
  const double magnitude = x < 0 ? -x : x, got = f < 0 ? -static_cast<double>(f) : f;
  if (got > magnitude) --bits;
  bits |= 1;
  std::memcpy(&f, &bits, 4);
  return f;
}

}  // namespace xmae_io::XMAE_ISA
