// Many segments from mapped files to the rows of a batch.
#pragma once

#include <cstddef>
#include <vector>

#include "io/rows.h"

namespace xmae_io {

struct Batch {
  const std::vector<File>& files;
  int64_t count, L;
  const int32_t* file;        // [count]
  const int64_t* offsets[2];  // [count] bytes: PPG, ECG
};

struct Randomness {
  uint64_t seed, epoch;
  const int64_t* items;  // [count], or null: no augmentation
};

// ppg, ecg: [count, L]; problems: [count], 0 where the row was written. Results do not depend on `threads`.
void gather(
    const Batch& batch, bool half, const Randomness& random, int threads, float* const out[2], uint8_t* problems);

// problems: [count], of both arithmetics.
void inspect(const Batch& batch, int threads, uint8_t* problems);

// The elements themselves in native byte order; out: [count, L * element size]. problems: 0, kOutside or kVanished.
void copy(const Batch& batch, int threads, uint8_t* const out[2], uint8_t* problems);

}  // namespace xmae_io
