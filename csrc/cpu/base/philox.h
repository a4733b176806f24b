// Philox4x32-10, the counter-based generator of random numbers of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC'11). A draw depends on (seed, offset, row, block) alone, so it is the same for any number of threads and
// any device.
#pragma once

#include <cstdint>

// Marks a function that is compiled once for AVX2 and once for any x86-64 processor. The loader chooses.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define XMAE_FAST_AVX2_CLONE __attribute__((target_clones("avx2", "default")))
#else
#define XMAE_FAST_AVX2_CLONE
#endif

namespace xmae_fast {

constexpr int kLanes = 16;    // draws that one call makes
constexpr int kRegister = 8;  // lanes computed together: their state fits in AVX2's registers, that of 16 would not

struct PhiloxStream {
  uint64_t seed;    // the key
  uint64_t offset;  // upper half of the counter: one per call that shares a seed
};

// word[w][lane] is word w, 0 to 3, of a lane's draw.
struct PhiloxWords {
  alignas(32) uint32_t word[4][kLanes];
};

// Draws (row + lane / blocks, block + lane % blocks) for each lane.
template <int blocks>
__attribute__((always_inline)) inline void philox(
    const PhiloxStream& stream, uint32_t row, uint32_t block, PhiloxWords& out) {
  for (int first = 0; first < kLanes; first += kRegister) {
    alignas(32) uint32_t c0[kRegister], c1[kRegister], c2[kRegister], c3[kRegister];
    for (int lane = 0; lane < kRegister; ++lane) {
      c0[lane] = block + (first + lane) % blocks;
      c1[lane] = row + (first + lane) / blocks;
      c2[lane] = static_cast<uint32_t>(stream.offset);
      c3[lane] = static_cast<uint32_t>(stream.offset >> 32);
    }
    uint32_t k0 = static_cast<uint32_t>(stream.seed), k1 = static_cast<uint32_t>(stream.seed >> 32);
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 1  // otherwise GCC unrolls this loop into scalars before it looks for vectors
      for (int lane = 0; lane < kRegister; ++lane) {
        const uint64_t p0 = 0xD2511F53ull * c0[lane];
        const uint64_t p1 = 0xCD9E8D57ull * c2[lane];
        c0[lane] = static_cast<uint32_t>(p1 >> 32) ^ c1[lane] ^ k0;
        c2[lane] = static_cast<uint32_t>(p0 >> 32) ^ c3[lane] ^ k1;
        c1[lane] = static_cast<uint32_t>(p1);
        c3[lane] = static_cast<uint32_t>(p0);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int lane = 0; lane < kRegister; ++lane) {
      out.word[0][first + lane] = c0[lane];
      out.word[1][first + lane] = c1[lane];
      out.word[2][first + lane] = c2[lane];
      out.word[3][first + lane] = c3[lane];
    }
  }
}

// Returns a whole number in [0, range): the high word of word * range (Lemire, "Fast random integer generation in an
// interval", 2019). Its probabilities are off by less than range / 2^32, relatively.
inline int64_t bounded(uint32_t word, int64_t range) {
  return static_cast<int64_t>((static_cast<uint64_t>(word) * static_cast<uint64_t>(range)) >> 32);
}

}  // namespace xmae_fast
