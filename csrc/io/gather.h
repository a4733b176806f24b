// Reads many segments from memory-mapped files into the rows of a batch.
#pragma once

#include <cstddef>
#include <vector>

#include "io/rows.h"

namespace xmae_io {

// Where the segments of a batch are.
struct Batch {
  const std::vector<File>& files;
  int64_t count, L;
  const int32_t* file;        // [count]: which of the files
  const int64_t* offsets[2];  // [count] each: where PPG and ECG begin in the file, in bytes
};

// The numbers from which the augmentation of a segment follows.
struct Randomness {
  uint64_t seed, epoch;
  const int64_t* items;  // [count]: the segments' numbers in the data set; or null: no augmentation
};

// Reads, augments and normalises the segments. half: with the arithmetic of float16. out: PPG and ECG [count, L] each.
// problems [count]: 0 where the row was written, else values of Problem. Results do not depend on `threads`.
void gather(
    const Batch& batch, bool half, const Randomness& random, int threads, float* const out[2], uint8_t* problems);

// Writes the problems of each segment, with both arithmetics, to problems [count].
void inspect(const Batch& batch, int threads, uint8_t* problems);

// Copies the elements themselves in native byte order. out: PPG and ECG [count, L * element size] bytes each. problems
// [count]: 0, kOutside or kVanished.
void copy(const Batch& batch, int threads, uint8_t* const out[2], uint8_t* problems);

}  // namespace xmae_io
