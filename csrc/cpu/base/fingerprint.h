// Digests of weights, which tell whether any weight has changed since it was packed. Version counters of tensors cannot
// tell, because writes through .data or a NumPy view do not count; so the bytes are read, at the speed of the memory.
//
// The digest is XXH3 with 64 bits, seed 0 and the published secret, bit for bit
// (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), of the numbers' bytes as they lie in memory, whatever
// their dtype. Every instruction set computes the same digest. Below, a word has 64 bits and `at` counts bytes.
#pragma once

#include "cpu/base/kernels.h"
#include "cpu/base/vec.h"

namespace xmae_fast::XMAE_ISA {
namespace xxh3 {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the digest reads words as they lie in memory");

typedef uint64_t Words __attribute__((vector_size(XMAE_VECTOR_BYTES)));
typedef uint64_t WordsAnywhere __attribute__((vector_size(XMAE_VECTOR_BYTES), aligned(1), may_alias));

constexpr uint64_t kPrime32[3] = {0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D};
constexpr uint64_t kPrime64[5] = {
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5};
constexpr uint64_t kMix[2] = {0x165667919E3779F9, 0x9FB21C651E98DF25};

constexpr int64_t kStripe = 64;        // bytes that the eight sums take at a time, one word each
constexpr int64_t kBlockStripes = 16;  // stripes after which the sums are scrambled; each stripe has its own secret
constexpr int64_t kSecretSize = 192, kSecretStep = 8;
// clang-format off
alignas(64) constexpr unsigned char kSecret[kSecretSize] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};
// clang-format on

XMAE_INLINE uint64_t word(const unsigned char* p) {
  uint64_t out;
  std::memcpy(&out, p, sizeof(out));
  return out;
}
XMAE_INLINE uint64_t half_word(const unsigned char* p) {
  uint32_t out;
  std::memcpy(&out, p, sizeof(out));
  return out;
}
XMAE_INLINE uint64_t secret(int64_t at) { return word(kSecret + at); }
XMAE_INLINE uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

// Returns the exclusive or of both halves of the 128-bit product.
XMAE_INLINE uint64_t folded_product(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}
XMAE_INLINE uint64_t avalanche(uint64_t x) {
  x = (x ^ x >> 37) * kMix[0];
  return x ^ x >> 32;
}
// Mixes the two words at p with the two words of the secret at `at`.
XMAE_INLINE uint64_t mix_pair(const unsigned char* p, int64_t at) {
  return folded_product(word(p) ^ secret(at), word(p + 8) ^ secret(at + 8));
}

// The avalanche of XXH64, which XXH3 has for fewer than 4 bytes.
XMAE_INLINE uint64_t older_avalanche(uint64_t x) {
  x = (x ^ x >> 33) * kPrime64[1];
  x = (x ^ x >> 29) * kPrime64[2];
  return x ^ x >> 32;
}

// Digests up to 16 bytes.
inline uint64_t tiny(const unsigned char* p, int64_t bytes) {
  if (bytes == 0) return older_avalanche(secret(56) ^ secret(64));
  if (bytes < 4) {
    const uint64_t first = p[0], middle = p[bytes / 2], last = p[bytes - 1];
    const uint64_t all = first << 16 | middle << 24 | last | static_cast<uint64_t>(bytes) << 8;
    return older_avalanche(all ^ half_word(kSecret) ^ half_word(kSecret + 4));
  }
  if (bytes <= 8) {
    uint64_t x = (half_word(p + bytes - 4) + (half_word(p) << 32)) ^ secret(8) ^ secret(16);
    x = (x ^ rotate(x, 49) ^ rotate(x, 24)) * kMix[1];
    x = (x ^ ((x >> 35) + bytes)) * kMix[1];
    return x ^ x >> 28;
  }
  const uint64_t low = word(p) ^ secret(24) ^ secret(32), high = word(p + bytes - 8) ^ secret(40) ^ secret(48);
  return avalanche(bytes + __builtin_bswap64(low) + high + folded_product(low, high));
}

// Digests 17 to 128 bytes, by pairs of words from both ends towards the middle.
inline uint64_t small(const unsigned char* p, int64_t bytes) {
  uint64_t sum = bytes * kPrime64[0];
  for (int64_t i = (bytes - 1) / 32; i >= 0; --i) {
    sum += mix_pair(p + 16 * i, 32 * i);
    sum += mix_pair(p + bytes - 16 * (i + 1), 32 * i + 16);
  }
  return avalanche(sum);
}

// Digests 129 to 240 bytes, by pairs of words in order, with one more step of mixing after the eighth pair.
inline uint64_t medium(const unsigned char* p, int64_t bytes) {
  uint64_t sum = bytes * kPrime64[0];
  for (int64_t i = 0; i < 8; ++i) sum += mix_pair(p + 16 * i, 16 * i);
  sum = avalanche(sum);
  for (int64_t i = 8; i < bytes / 16; ++i) sum += mix_pair(p + 16 * i, 16 * (i - 8) + 3);
  return avalanche(sum + mix_pair(p + bytes - 16, 136 - 17));
}

// Returns the low 32 bits of each word times its high 32 bits.
XMAE_INLINE Words product_of_halves(Words x) {
#if defined(__x86_64__) && !defined(__clang__)  // GCC would compile the plain form to three products, Clang to one
#if XMAE_VECTOR_BYTES == 64
  return reinterpret_cast<Words>(_mm512_mul_epu32(reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(x >> 32)));
#elif XMAE_VECTOR_BYTES == 32
  return reinterpret_cast<Words>(_mm256_mul_epu32(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(x >> 32)));
#else
  return reinterpret_cast<Words>(_mm_mul_epu32(reinterpret_cast<__m128i>(x), reinterpret_cast<__m128i>(x >> 32)));
#endif
#else
  return (x & 0xFFFFFFFF) * (x >> 32);
#endif
}

// The eight sums. To each are added the products of its own words and its neighbour's words themselves, so that no word
// is lost where a product is zero. Changes that cancel in the plain sum of a block (two flipped top bits, a swap) show
// in the products, since each stripe has another secret: two signs go unnoticed only if all 32 low bits of their words
// happen to differ as the secrets do. The plain words are added up separately, in `plain`, and change places once per
// block.
struct Sums {
  static constexpr int kVectors = kStripe / XMAE_VECTOR_BYTES;
  static_assert(kVectors * XMAE_VECTOR_BYTES == kStripe, "a stripe must be whole vectors");
  Words sums[kVectors], plain[kVectors] = {};

  XMAE_INLINE void add_stripe(const unsigned char* p, int64_t at) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const Words data = load_words(p + v * XMAE_VECTOR_BYTES);
      plain[v] += data;
      sums[v] += product_of_halves(data ^ load_words(kSecret + at + v * XMAE_VECTOR_BYTES));
    }
  }
  XMAE_INLINE void swap_neighbours() {
    uint64_t words[8], swapped[8];
    std::memcpy(words, plain, kStripe);
    for (int i = 0; i < 8; ++i) swapped[i] = words[i ^ 1];
    for (int v = 0; v < kVectors; ++v) {
      sums[v] += load_words(reinterpret_cast<const unsigned char*>(swapped) + v * XMAE_VECTOR_BYTES);
      plain[v] = Words{};
    }
  }
  XMAE_INLINE void scramble() {
    swap_neighbours();
    for (int v = 0; v < kVectors; ++v) {
      sums[v] ^= sums[v] >> 47 ^ load_words(kSecret + kSecretSize - kStripe + v * XMAE_VECTOR_BYTES);
      sums[v] *= kPrime32[0];
    }
  }
  static XMAE_INLINE Words load_words(const unsigned char* p) { return *reinterpret_cast<const WordsAnywhere*>(p); }
};

// Digests more than 240 bytes: blocks of sixteen stripes, then the remaining stripes without the last, then the last 64
// bytes.
inline uint64_t large(const unsigned char* p, int64_t bytes) {
  constexpr uint64_t start[8] = {kPrime32[2], kPrime64[0], kPrime64[1], kPrime64[2],
                                 kPrime64[3], kPrime32[1], kPrime64[4], kPrime32[0]};
  constexpr int64_t block = kBlockStripes * kStripe;
  Sums sums;
  std::memcpy(sums.sums, start, sizeof(start));
  const int64_t blocks = (bytes - 1) / block;
  for (int64_t b = 0; b < blocks; ++b, p += block) {
#pragma GCC unroll 16
    for (int64_t stripe = 0; stripe < kBlockStripes; ++stripe) {
      sums.add_stripe(p + stripe * kStripe, stripe * kSecretStep);
    }
    sums.scramble();
  }
  const int64_t left = bytes - blocks * block;
  for (int64_t stripe = 0; stripe < (left - 1) / kStripe; ++stripe) {
    sums.add_stripe(p + stripe * kStripe, stripe * kSecretStep);
  }
  sums.add_stripe(p + left - kStripe, kSecretSize - kStripe - 7);
  sums.swap_neighbours();
  uint64_t words[8], result = bytes * kPrime64[0];
  std::memcpy(words, sums.sums, sizeof(words));
  for (int i = 0; i < 4; ++i) {
    result += folded_product(words[2 * i] ^ secret(11 + 16 * i), words[2 * i + 1] ^ secret(19 + 16 * i));
  }
  return avalanche(result);
}

}  // namespace xxh3

// Returns the digest of that many bytes at `data`.
inline uint64_t fingerprint(const void* data, int64_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  if (bytes <= 16) return xxh3::tiny(p, bytes);
  if (bytes <= 128) return xxh3::small(p, bytes);
  if (bytes <= 240) return xxh3::medium(p, bytes);
  return xxh3::large(p, bytes);
}

}  // namespace xmae_fast::XMAE_ISA
