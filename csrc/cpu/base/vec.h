// Vectors of floats of one instruction set, by the vector extensions of GCC and Clang. XMAE_VECTOR_BYTES is their
// width.
#pragma once

#include "cpu/base/common.h"

// Whether vectors are those of this processor, so that its intrinsics take them.
#if defined(__x86_64__) && !defined(XMAE_PORTABLE_VECTORS)
#define XMAE_X86_VECTORS 1
#else
#define XMAE_X86_VECTORS 0
#endif

namespace xmae_fast::XMAE_ISA {

typedef float Vec __attribute__((vector_size(XMAE_VECTOR_BYTES)));
typedef int32_t VecInt __attribute__((vector_size(XMAE_VECTOR_BYTES)));
typedef float VecAnywhere __attribute__((vector_size(XMAE_VECTOR_BYTES), aligned(4), may_alias));

constexpr int64_t W = XMAE_VECTOR_BYTES / 4;  // floats in a vector

XMAE_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecAnywhere*>(p); }
XMAE_INLINE void store(float* p, Vec v) { *reinterpret_cast<VecAnywhere*>(p) = v; }
XMAE_INLINE Vec broadcast(float s) { return s - Vec{}; }  // x - 0 is x for every x, so the compiler drops the 0

// Load and store the first `count` floats of a vector: all if count >= W, and none if count <= 0. The others are loaded
// as 0 and not stored.
#if XMAE_X86_VECTORS && XMAE_VECTOR_BYTES == 64
// With masks all kernels together have 40 % less code than with the loops below. load_some has a branch for whole
// vectors, as below, because GCC fuses multiplications with additions within a block of code: without the branch it
// would fuse other products than before, and results would have other bits.
XMAE_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>(count <= 0 ? 0 : (uint32_t{1} << (count < W ? count : W)) - 1);
}
XMAE_INLINE Vec load_some(const float* p, int64_t count) {
  if (count >= W) return load(p);
  return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
XMAE_INLINE void store_some(float* p, Vec v, int64_t count) { _mm512_mask_storeu_ps(p, first_lanes(count), v); }
#else
XMAE_INLINE Vec load_some(const float* p, int64_t count) {
  if (count >= W) return load(p);
  alignas(XMAE_VECTOR_BYTES) float lanes[W] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
XMAE_INLINE void store_some(float* p, Vec v, int64_t count) {
  if (count >= W) return store(p, v);
  alignas(XMAE_VECTOR_BYTES) float lanes[W];
  store(lanes, v);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}
#endif

// Returns the sum of a vector's floats, by halves.
XMAE_INLINE float sum(Vec v) {
  float lanes[W];
  store(lanes, v);
  for (int64_t half = W / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}
// a > b ? a : b and a < b ? a : b, so b where one of them is NaN. Compilers do not make one instruction of these.
// The masks of all lanes cost nothing; without them GCC 12 warns of its own header.
#if XMAE_X86_VECTORS && XMAE_VECTOR_BYTES == 64
XMAE_INLINE Vec max(Vec a, Vec b) { return _mm512_maskz_max_ps(0xFFFF, a, b); }
XMAE_INLINE Vec min(Vec a, Vec b) { return _mm512_maskz_min_ps(0xFFFF, a, b); }
#elif XMAE_X86_VECTORS && XMAE_VECTOR_BYTES == 32
XMAE_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
XMAE_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
#elif XMAE_X86_VECTORS
XMAE_INLINE Vec max(Vec a, Vec b) { return _mm_max_ps(a, b); }
XMAE_INLINE Vec min(Vec a, Vec b) { return _mm_min_ps(a, b); }
#else
XMAE_INLINE Vec max(Vec a, Vec b) { return a > b ? a : b; }
XMAE_INLINE Vec min(Vec a, Vec b) { return a < b ? a : b; }
#endif
XMAE_INLINE Vec abs(Vec a) { return a < 0.0f ? -a : a; }

// The errors below are what tests/ops/test_cpu_vec.py asserts, for each instruction set, against float64. eps is 2^-24.

// e^x within these limits.
constexpr float kLeastExponent = -87.3365478515625f, kMostExponent = 88.3762626647949f;
XMAE_INLINE Vec exp_within(Vec x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
  const Vec shifted = x * 1.44269504088896341f + round;
  const Vec n = shifted - round;
  const Vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
  const VecInt power = (reinterpret_cast<VecInt>(shifted) << 23) + reinterpret_cast<VecInt>(p);
  return reinterpret_cast<Vec>(power);
}

// e^x: error at most 1.4 units in the last place for -87.33 <= x <= 88.37. Outside of that the result is the one at the
// limit, 1.18e-38 or 2.41e38, never 0 or infinity. A NaN whose lowest nine bits are 0, as arithmetic makes it, stays
// NaN.
XMAE_INLINE Vec exp(Vec x) { return exp_within(max(broadcast(kLeastExponent), min(broadcast(kMostExponent), x))); }
// e^-x, the same bits as exp(-x): here the multiply-adds negate, which costs no instruction.
XMAE_INLINE Vec exp_minus(Vec x) {
  return exp_within(-min(broadcast(-kLeastExponent), max(broadcast(-kMostExponent), x)));
}

// 1 / (1 + e^-x) and x / (1 + e^-x): error at most 3.4 units in the last place for x >= -87.3. For smaller x sigmoid is
// at most 4.2e-39 from the true value, and silu at most 4.2e-39 |x|. For infinities silu is not that of torch.
XMAE_INLINE Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp_minus(x)); }
XMAE_INLINE Vec silu(Vec x) { return x / (1.0f + exp_minus(x)); }
// The derivative of silu: absolute error at most 1.1e-6 + 4.2e-39 |x|.
XMAE_INLINE Vec silu_gradient(Vec x) {
  const Vec s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

// Returns the normal distribution function Phi at -|x| and sets gauss = exp(-x^2 / 2). The relative error is at most
// (10 + 2 x^2) eps, because x^2 is rounded before its exponential is taken, plus an absolute error of 1.2e-38.
// Phi(-|x|) = erfcx(|x| / sqrt 2) exp(-x^2 / 2) / 2, erfcx(z) = t poly(t), t = 1 / (1 + 0.3 z), fitted on 0 <= z <= 10.
XMAE_INLINE Vec normal_tail(Vec x, Vec& gauss) {
  const Vec z = abs(x) * 0.70710678118654752f;
  gauss = exp(-(z * z));
  const Vec t = 1.0f / (1.0f + 0.3f * z);
  Vec p = t * -0.129523402338f + 0.485565707968f;
  p = p * t - 0.512283427403f;
  p = p * t + 0.547726358026f;
  p = p * t - 0.09465526554f;
  p = p * t + 0.214928069712f;
  p = p * t + 0.148338634296f;
  p = p * t + 0.17071530527f;
  p = p * t + 0.169188000424f;
  return 0.5f * t * p * gauss;
}

// x Phi(x), the form of GELU by erf: absolute error at most 2.5e-7 + 5e-39 |x|; for x < 0 also at most (11 + 2 x^2) eps
// of the value, plus 1.2e-38 |x| + 1.5e-45. For infinities it is NaN.
XMAE_INLINE Vec gelu(Vec x) {
  Vec gauss;
  const Vec tail = normal_tail(x, gauss);
  return x < 0.0f ? x * tail : x - x * tail;
}
// The same, and sets its derivative Phi(x) + x phi(x): absolute error at most 3.2e-7 + 5e-39 |x|.
XMAE_INLINE Vec gelu(Vec x, Vec& gradient) {
  Vec gauss;
  const Vec tail = normal_tail(x, gauss), below = x < 0.0f ? tail : 1.0f - tail;
  gradient = below + x * gauss * 0.39894228040143268f;
  return x < 0.0f ? x * tail : x - x * tail;
}

}  // namespace xmae_fast::XMAE_ISA
