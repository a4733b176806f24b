// Reads elements of a mapped file as floats, whatever their type, byte order and distance.
#pragma once

#include "io/lanes.h"

namespace xmae_io::XMAE_ISA {

template <class Bits>
XMAE_INLINE Bits swapped_bytes(Bits x) {
  if constexpr (sizeof(Bits) == 2) return __builtin_bswap16(x);
  if constexpr (sizeof(Bits) == 4) return __builtin_bswap32(x);
  if constexpr (sizeof(Bits) == 8) return __builtin_bswap64(x);
}

// Copies `count` elements that lie `stride` bytes apart to out [count] in native byte order.
template <class Bits>
XMAE_INLINE void copy_elements(const uint8_t* from, int64_t stride, bool swapped, int64_t count, Bits* out) {
  if (stride == sizeof(Bits)) {
    std::memcpy(out, from, count * sizeof(Bits));
  } else {
    for (int64_t i = 0; i < count; ++i) std::memcpy(out + i, from + i * stride, sizeof(Bits));
  }
  if (swapped) {
    for (int64_t i = 0; i < count; ++i) out[i] = swapped_bytes(out[i]);
  }
}

// copy_column copies column 0, 1 or 2 of `count` rows of three float16 numbers to out [count]. It reads whole rows
// only.
#if XMAE_LANES == 16
struct Picks {                                         // element i is number 3 i + column of the 96 in three vectors
  alignas(64) uint16_t first[32] = {}, last[32] = {};  // from vectors 0 and 1; then from the result and vector 2
  constexpr explicit Picks(int column) {
    for (int i = 0; i < 32; ++i) {
      const int at = 3 * i + column;
      first[i] = static_cast<uint16_t>(at < 64 ? at : 0);
      last[i] = static_cast<uint16_t>(at < 64 ? i : at - 64 + 32);
    }
  }
};
constexpr Picks kPicks[3] = {Picks(0), Picks(1), Picks(2)};

XMAE_INLINE void copy_column(const uint8_t* rows, int64_t column, int64_t count, uint16_t* out) {
  const __m512i first = _mm512_load_si512(kPicks[column].first), last = _mm512_load_si512(kPicks[column].last);
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const uint8_t* p = rows + 6 * i;
    const __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 64), c = _mm512_loadu_si512(p + 128);
    _mm512_storeu_si512(out + i, _mm512_permutex2var_epi16(_mm512_permutex2var_epi16(a, first, b), last, c));
  }
  for (; i < count; ++i) std::memcpy(out + i, rows + 6 * i + 2 * column, 2);
}
#elif XMAE_LANES == 8
struct Picks {  // element i is number 3 i + column of the 24 in three vectors; 0x80 picks nothing
  alignas(16) uint8_t bytes[3][16];
  constexpr explicit Picks(int column) : bytes() {
    for (auto& vector : bytes) {
      for (auto& byte : vector) byte = 0x80;
    }
    for (int i = 0; i < 8; ++i) {
      const int at = 3 * i + column;
      bytes[at / 8][2 * i] = static_cast<uint8_t>(2 * (at % 8));
      bytes[at / 8][2 * i + 1] = static_cast<uint8_t>(2 * (at % 8) + 1);
    }
  }
};
constexpr Picks kPicks[3] = {Picks(0), Picks(1), Picks(2)};

XMAE_INLINE void copy_column(const uint8_t* rows, int64_t column, int64_t count, uint16_t* out) {
  const __m128i* pick = reinterpret_cast<const __m128i*>(kPicks[column].bytes);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i* p = reinterpret_cast<const __m128i*>(rows + 6 * i);
    const __m128i a = _mm_shuffle_epi8(_mm_loadu_si128(p), _mm_load_si128(pick));
    const __m128i b = _mm_shuffle_epi8(_mm_loadu_si128(p + 1), _mm_load_si128(pick + 1));
    const __m128i c = _mm_shuffle_epi8(_mm_loadu_si128(p + 2), _mm_load_si128(pick + 2));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm_or_si128(_mm_or_si128(a, b), c));
  }
  for (; i < count; ++i) std::memcpy(out + i, rows + 6 * i + 2 * column, 2);
}
#else
XMAE_INLINE void copy_column(const uint8_t* rows, int64_t column, int64_t count, uint16_t* out) {
  copy_elements<uint16_t>(rows + 2 * column, 6, false, count, out);
}
#endif

// Converts float16 numbers from [count] to out [count]. Both arrays must have memory for whole vectors.
XMAE_INLINE void widen(const uint16_t* from, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += W) store(out + i, load_halves(from + i));
}

constexpr int64_t kBlock = 512;  // elements that are converted at a time, in a buffer on the stack

// Reads `count` float32 or float64 elements at `from` into out [count], rounded to float16 if kToHalf.
template <bool kToHalf>
XMAE_INLINE void read_elements(const File& file, const uint8_t* from, int64_t count, float* out) {
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = count - begin < kBlock ? count - begin : kBlock;
    const uint8_t* p = from + begin * file.stride;
    if (file.kind == Kind::kFloat) {
      uint32_t bits[kBlock];
      copy_elements(p, file.stride, file.swapped, n, bits);
      std::memcpy(out + begin, bits, n * 4);
    } else {
      uint64_t bits[kBlock];
      copy_elements(p, file.stride, file.swapped, n, bits);
      for (int64_t i = 0; i < n; ++i) {
        double x;
        std::memcpy(&x, bits + i, 8);
        out[begin + i] = kToHalf ? to_odd(x) : static_cast<float>(x);
      }
    }
  }
  if (kToHalf) {
    for (int64_t i = 0; i < count; i += W) store(out + i, round_half(load(out + i)));
  }
}

// Whether both signals are columns of one array with three float16 numbers in a row, as in the published files. If so,
// sets *rows to the first row and columns to the columns of PPG and ECG.
XMAE_INLINE bool in_three_columns(const Segment& s, const uint8_t** rows, int64_t columns[2]) {
  const File& file = *s.file;
  const int64_t apart = s.offset[1] - s.offset[0];
  if (file.kind != Kind::kHalf || file.swapped || file.stride != 6) return false;
  if (apart != 2 && apart != -2) return false;  // in (x, p, e) and (x, e, p) the signals are columns 1 and 2
  const int64_t first = s.offset[0] < s.offset[1] ? s.offset[0] : s.offset[1];
  if (first < 2) return false;
  *rows = file.data + first - 2;
  columns[0] = apart > 0 ? 1 : 2;
  columns[1] = 3 - columns[0];
  return true;
}

// Reads both signals, which are float16, without conversion into x [2, row].
XMAE_INLINE void read_halves(const Segment& s, uint16_t* x, int64_t row) {
  const uint8_t* rows;
  int64_t columns[2];
  const bool together = in_three_columns(s, &rows, columns);
  for (int64_t k = 0; k < 2; ++k) {
    if (together) {
      copy_column(rows, columns[k], s.L, x + k * row);
    } else {
      copy_elements(s.file->data + s.offset[k], s.file->stride, s.file->swapped, s.L, x + k * row);
    }
  }
}

}  // namespace xmae_io::XMAE_ISA
