// Rounding vectors of floats to bfloat16, and functions that are as exact as bfloat16 needs.
#pragma once

#include "cpu/base/bf16_matrix.h"
#include "cpu/base/vec.h"

namespace xmae_fast::XMAE_ISA {

static_assert(W == kTileColumns, "a vector has as many floats as a tile has columns");

typedef uint16_t HalfInts __attribute__((vector_size(XMAE_VECTOR_BYTES / 2)));
typedef uint16_t HalfIntsAnywhere __attribute__((vector_size(XMAE_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint32_t VecUint __attribute__((vector_size(XMAE_VECTOR_BYTES)));

// The bits of the nearest bfloat16 numbers, ties to even; a NaN stays one.
XMAE_INLINE VecUint bf16_bits(Vec v) {
  const VecUint bits = reinterpret_cast<VecUint>(v);
  const VecUint rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
  return reinterpret_cast<VecUint>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
}
XMAE_INLINE void store_bf16(Bf16* p, Vec v) {
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(v))));
#else
  *reinterpret_cast<HalfIntsAnywhere*>(p) = __builtin_convertvector(bf16_bits(v), HalfInts);
#endif
}
XMAE_INLINE void store_bf16(Bf16* p, Vec v0, Vec v1) {
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  const auto both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(v1), reinterpret_cast<__m512>(v0));
  _mm512_storeu_si512(p, reinterpret_cast<__m512i>(both));
#else
  store_bf16(p, v0);
  store_bf16(p + W, v1);
#endif
}
XMAE_INLINE void store_some_bf16(Bf16* p, Vec v, int64_t count) {
  if (count >= W) return store_bf16(p, v);
  Bf16 lanes[W];
  store_bf16(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}
XMAE_INLINE Vec load_bf16(const Bf16* p) {
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return reinterpret_cast<Vec>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#else
  const auto bits = *reinterpret_cast<const HalfIntsAnywhere*>(p);
  return reinterpret_cast<Vec>(__builtin_convertvector(static_cast<HalfInts>(bits), VecUint) << 16);
#endif
}
// Loads the first `count` numbers of a vector, or all if count >= W; the others are 0. count may be negative.
XMAE_INLINE Vec load_some_bf16(const Bf16* p, int64_t count) {
  if (count >= W) return load_bf16(p);
  Bf16 lanes[W] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load_bf16(lanes);
}

// Returns a bfloat16 number that is as near to each float as any.
XMAE_INLINE Vec near_bf16(Vec x) { return reinterpret_cast<Vec>((reinterpret_cast<VecUint>(x) + 0x8000) & 0xFFFF0000); }

// 2^f for f in [0, 1]: relative error at most 7.5e-5.
XMAE_INLINE Vec power_of_fraction(Vec f) {
  return ((f * 7.80245302e-2f + 2.26067146e-1f) * f + 6.95833543e-1f) * f + 9.99925219e-1f;
}

XMAE_INLINE Vec quick_inverse(Vec x) {
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  return reinterpret_cast<Vec>(_mm512_rcp14_ps(reinterpret_cast<__m512>(x)));
#else
  return 1.0f / x;
#endif
}

// e^-x for 0 <= x <= 80: relative error at most 1e-4.
XMAE_INLINE Vec quick_decay(Vec x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number
  const Vec t = x * -1.44269504f, shifted = round + (t - 0.5f), p = power_of_fraction(t - (shifted - round));
  return reinterpret_cast<Vec>((reinterpret_cast<VecInt>(shifted) << 23) + reinterpret_cast<VecInt>(p));
}

// 1 / (1 + e^-x), where `power` computes 2^f for f in [0, 1]. A NaN stays one; infinities and numbers of any size give 0
// or 1.
template <Vec (*power)(Vec)>
XMAE_INLINE Vec sigmoid_by(Vec x) {
  const Vec t = x * -1.44269504f;  // e^-x = 2^t
#if defined(XMAE_BF16_AMX) || defined(XMAE_BF16_PAIRS)
  const auto number = reinterpret_cast<__m512>(t);
  const Vec f = reinterpret_cast<Vec>(_mm512_reduce_ps(number, 9));  // t - floor(t), 0 for infinities
  const auto whole = reinterpret_cast<Vec>(_mm512_scalef_ps(reinterpret_cast<__m512>(power(f)), number));
  return quick_inverse(whole + 1.0f);
#else
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number
  const Vec shifted = round + (t - 0.5f), n = shifted - round, p = power(t - n);
  const Vec whole = reinterpret_cast<Vec>((reinterpret_cast<VecInt>(shifted) << 23) + reinterpret_cast<VecInt>(p));
  return n > 125.0f ? Vec{} : n < -125.0f ? broadcast(1.0f) : quick_inverse(whole + 1.0f);
#endif
}

// For inference: relative error at most 2e-4, which is a tenth of what rounding to bfloat16 adds.
XMAE_INLINE Vec quick_sigmoid(Vec x) { return sigmoid_by<power_of_fraction>(x); }
XMAE_INLINE Vec quick_silu(Vec x) { return x * quick_sigmoid(x); }

// 2^f for f in [0, 1]: relative error at most 3e-6.
XMAE_INLINE Vec fine_power_of_fraction(Vec f) {
  const Vec p = ((f * 1.35341682e-2f + 5.20114663e-2f) * f + 2.41442748e-1f) * f + 6.93003838e-1f;
  return p * f + 1.00000259f;
}

// For training: relative error at most 7e-5, of which 3e-6 do not average out. The statistics of a batch would show those
// of quick_sigmoid.
XMAE_INLINE Vec fine_sigmoid(Vec x) { return sigmoid_by<fine_power_of_fraction>(x); }
XMAE_INLINE Vec fine_silu(Vec x) { return x * fine_sigmoid(x); }
XMAE_INLINE Vec fine_silu_gradient(Vec x) {
  const Vec s = fine_sigmoid(x);
  return s + (x * s) * (1.0f - s);
}

// x Phi(x) as x sigmoid(x q(x^2)): absolute error at most 3e-5 plus 2e-4 of the value. q was fitted on |x| <= 7; beyond,
// Phi is 0 or 1 for any larger argument.
XMAE_INLINE Vec quick_gelu(Vec x) {
  Vec s = x * x;
  s = s > 49.0f ? broadcast(49.0f) : s;
  return x * quick_sigmoid(x * ((s * -7.03034053e-4f + 7.40112951e-2f) * s + 1.59501576f));
}
// The same, and sets the derivative, that of the approximation: absolute error at most 2e-4 plus 2e-4 of the value.
XMAE_INLINE Vec quick_gelu(Vec x, Vec& gradient) {
  const Vec s = min(broadcast(49.0f), x * x);
  const Vec positive = reinterpret_cast<Vec>(reinterpret_cast<VecUint>(x) & 0x7FFFFFFF);
  const Vec u = min(broadcast(80.0f), positive * ((s * -7.03034053e-4f + 7.40112951e-2f) * s + 1.59501576f));
  const Vec slope = (s * -3.515170265e-3f + 0.2220338853f) * s + 1.59501576f;
  // With above = sigmoid(|u|) and below = 1 - above nothing cancels and nothing is infinite.
  const Vec power = quick_decay(u), above = quick_inverse(power + 1.0f), below = power * above;
  const Vec share = x < 0.0f ? below : above;
  gradient = share + x * above * below * slope;
  return x * share;
}

}  // namespace xmae_fast::XMAE_ISA
