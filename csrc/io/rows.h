// The preparation of one segment: its arguments, and the table of functions that are compiled once per instruction set.
#pragma once

#include <cstdint>

#define XMAE_INLINE inline __attribute__((always_inline))
#define XMAE_STRING_OF(x) #x
#define XMAE_STRING(x) XMAE_STRING_OF(x)

namespace xmae_io {

enum class Kind : int32_t { kHalf = 2, kFloat = 4, kDouble = 8 };  // the value is the element's size in bytes

enum Problem : uint8_t {
  kConstant = 1,       // a signal is constant, as float32
  kNonFinite = 2,      // a signal is not finite, as float32
  kConstantHalf = 4,   // a signal is constant after rounding to float16
  kNonFiniteHalf = 8,  // it is not finite as float16, or so wide that augmenting and normalising would overflow float16
  kOutside = 64,       // the segment lies outside of the file
  kVanished = 128,     // the segment could not be read, because the file was cut short while it was mapped
};

// A mapped file of `size` bytes. Its elements lie `stride` bytes apart and have the other byte order if `swapped`.
struct File {
  const uint8_t* data;
  int64_t size;
  Kind kind;
  bool swapped;
  int64_t stride;
};

// The augmentation of a signal.
struct Augment {
  double factor;  // the scale; negative where the signal is flipped
  int64_t shift;  // in samples; a positive shift is towards later times
};

// One segment.
struct Segment {
  // Data that a later segment needs, next_bytes for each signal. They are fetched into the cache while this one is
  // computed.
  const uint8_t* next[2];
  int64_t next_bytes;
  const File* file;
  int64_t offset[2];       // where PPG and ECG begin in the file, in bytes
  const Augment* augment;  // [2]: of PPG and ECG; or null
  float* out[2];           // [L] each: prepared PPG and ECG
  int64_t L;
  bool half;  // compute with the arithmetic of float16
};

constexpr int64_t kLanes = 32;  // rows of scratch are padded to whole vectors of all instruction sets and types
inline int64_t scratch_row(int64_t L) { return (L + kLanes - 1) / kLanes * kLanes + kLanes; }

// The functions. scratch: memory for 4 * scratch_row(L) floats.
struct Rows {
  const char *name, *instruction_set;  // both are the name of the instruction set
  // Reads a segment, augments it and normalises it to [-1, 1]. Returns the problems found, and writes `out` only if
  // there are none.
  uint8_t (*prepare)(const Segment& segment, float* scratch);
  // Returns the problems of a segment with both arithmetics. It uses neither `out` nor `half`.
  uint8_t (*inspect)(const Segment& segment, float* scratch);
};

// Returns the functions in use: those of the fastest instruction set, unless use_rows chose others.
const Rows& rows();
// Chooses the functions of an instruction set by name, or the fastest for "auto". Throws std::invalid_argument.
void use_rows(const char* name);

}  // namespace xmae_io
