// Philox4x64-10 as numpy.random.Philox draws it. So the augmentation of a segment depends on (seed, epoch, item) alone.
#pragma once

#include <cstdint>

#include "io/rows.h"

namespace xmae_io {

// Draws the numbers of numpy.random.Generator(Philox(key=[seed, epoch], counter=[0, 0, 0, item])).random(8).
inline void philox_uniforms(uint64_t seed, uint64_t epoch, uint64_t item, double out[8]) {
  for (uint64_t block = 0; block < 2; ++block) {
    uint64_t c[4] = {block + 1, 0, 0, item}, k[2] = {seed, epoch};  // NumPy counts before it draws
    for (int round = 0; round < 10; ++round) {
      const unsigned __int128 a = static_cast<unsigned __int128>(0xD2E7470EE14C6C93u) * c[0];
      const unsigned __int128 b = static_cast<unsigned __int128>(0xCA5A826395121157u) * c[2];
      const uint64_t next[4] = {
          static_cast<uint64_t>(b >> 64) ^ c[1] ^ k[0], static_cast<uint64_t>(b),
          static_cast<uint64_t>(a >> 64) ^ c[3] ^ k[1], static_cast<uint64_t>(a)};
      for (int i = 0; i < 4; ++i) c[i] = next[i];
      k[0] += 0x9E3779B97F4A7C15u;
      k[1] += 0xBB67AE8584CAA73Bu;
    }
    for (int i = 0; i < 4; ++i) out[4 * block + i] = static_cast<double>(c[i] >> 11) * 0x1p-53;
  }
}

// Draws the augmentation of both signals, as published: half the time it scales by U(0.8, 1.2), else it shifts by
// int(U(-7, 7)); then half the time it flips the ECG.
inline void draw_augmentation(const double u[8], Augment out[2]) {
  for (int k = 0; k < 2; ++k, u += 4) {
    const bool scaling = u[0] < 0.5, flips = k == 1 && u[3] < 0.5;
    const double scale = scaling ? 0.8 + 0.4 * u[1] : 1.0;
    out[k] = {flips ? -scale : scale, scaling ? 0 : static_cast<int64_t>(14 * u[2] - 7)};
  }
}

}  // namespace xmae_io
