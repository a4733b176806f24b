// Preparing one segment: what a call needs, and the functions that exist once per instruction set.
#pragma once

#include <cstdint>

#define XMAE_INLINE inline __attribute__((always_inline))
#define XMAE_STRING_OF(x) #x
#define XMAE_STRING(x) XMAE_STRING_OF(x)

namespace xmae_io {

enum class Kind : int32_t { kHalf = 2, kFloat = 4, kDouble = 8 };  // the value is the element's size in bytes

enum Problem : uint8_t {
  kConstant = 1,         // of either signal, as float32
  kNonFinite = 2,        // of either signal, as float32
  kConstantHalf = 4,     // after rounding to float16
  kNonFiniteHalf = 8,    // after rounding to float16, or so wide that augmenting and normalising overflows float16
  kOutside = 64,         // lies beyond the end of the file
  kVanished = 128,       // could not be read: the file was cut short while it was mapped
};

// A mapped file: elements `stride` bytes apart, of the other byte order where `swapped`.
struct File {
  const uint8_t* data;
  int64_t size;
  Kind kind;
  bool swapped;
  int64_t stride;
};

struct Augment {
  double factor;  // the scale, negative where the signal flips
  int64_t shift;  // samples; positive: later
};

// One segment. `scratch` holds 4 * scratch_row(L) floats.
struct Segment {
  // What is read next, [next_bytes] each, fetched into the cache meanwhile.
  const uint8_t* next[2];
  int64_t next_bytes;
  const File* file;
  int64_t offset[2];        // bytes: PPG, ECG
  const Augment* augment;   // [2], or null
  float* out[2];            // [L] each
  int64_t L;
  bool half;                // arithmetic in float16
};

constexpr int64_t kLanes = 32;  // rows of scratch are padded to whole vectors of every instruction set and type
inline int64_t scratch_row(int64_t L) { return (L + kLanes - 1) / kLanes * kLanes + kLanes; }

struct Rows {
  const char* name;
  // Reads, augments, normalises to [-1, 1]; out is written only where 0 is returned, else the problems found.
  uint8_t (*prepare)(const Segment& segment, float* scratch);
  // The problems of a segment, of both arithmetics; out and half are not used.
  uint8_t (*inspect)(const Segment& segment, float* scratch);
};

const Rows& rows();
void use_rows(const char* name);  // "auto" or a name; throws std::invalid_argument

}  // namespace xmae_io
