// Digests of weights: has any of them changed since they were packed? Version counters cannot tell (writes through .data
// or a NumPy view do not count), so the bytes are read, at the speed of the memory.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace xmae_fast::XMAE_ISA {

typedef uint32_t VecWord __attribute__((vector_size(XMAE_VECTOR_BYTES)));

// Every lane is a chain state = (state ^ word) * odd, a bijection of the state: one changed word always shows in its
// lane. The lanes are then mixed down to 128 bits.
inline Digest fingerprint(const float* data, int64_t count) {
  typedef uint32_t Anywhere __attribute__((vector_size(XMAE_VECTOR_BYTES), aligned(4), may_alias));
  constexpr int chains = 4;
  VecWord state[chains] = {};
  for (int i = 0; i < chains; ++i) state[i] += 0x9E3779B9u * (i + 1);
  const int64_t step = chains * W;
  int64_t at = 0;
  for (; at + step <= count; at += step) {
#pragma GCC unroll 4
    for (int i = 0; i < chains; ++i) {
      state[i] = (state[i] ^ *reinterpret_cast<const Anywhere*>(data + at + i * W)) * 0x85EBCA6Bu;
    }
  }
  uint32_t rest[chains * W] = {};
  std::memcpy(rest, data + at, (count - at) * sizeof(float));
  for (int i = 0; i < chains; ++i) state[i] = (state[i] ^ *reinterpret_cast<const Anywhere*>(rest + i * W)) * 0x85EBCA6Bu;
  uint32_t lanes[chains * W];
  std::memcpy(lanes, state, sizeof(lanes));
  Digest digest{static_cast<uint64_t>(count), ~static_cast<uint64_t>(count)};
  for (const uint32_t lane : lanes) {
    digest.low = (digest.low ^ lane) * 0x9E3779B97F4A7C15ull;
    digest.low ^= digest.low >> 29;
    digest.high = (digest.high + lane) * 0xC2B2AE3D27D4EB4Full;
    digest.high ^= digest.high >> 31;
  }
  return digest;
}

}  // namespace xmae_fast::XMAE_ISA
