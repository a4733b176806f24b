// Weights on their way from global memory through shared memory.
#pragma once

#include "cuda/conv_stem/stem_plan.h"

namespace xmae_fast::cuda {

// Two slots of shared memory, a chunk in each. Every thread of the CTA takes the same pieces in the same order.
template <typename Lane>
class WeightStream {
 public:
  XMAE_HD WeightStream(Lane& lane, uint32_t slots, const char* source, int chunks)
      : lane_(lane), source_(source), slots_(slots), chunks_(chunks) {
    copy();
  }

  // The next sample begins at the first chunk, whose copy is under way.
  XMAE_HD void rewind() { position_ = kChunk; }

  // Where in shared memory the next `bytes` are; they stay until the next but one chunk is begun.
  XMAE_HD uint32_t next(int bytes) {
    if (position_ + bytes > kChunk) {
      lane_.wait_for_copies();
      lane_.barrier();  // what all threads copied is there, and nobody reads the other slot any more
      position_ = 0;
      copy();
    }
    const uint32_t at = slots_ + (chunk_ & 1) * kChunk + position_;  // of the chunk before the one under way
    position_ += bytes;
    return at;
  }
  template <int TILES>
  XMAE_HD uint32_t tiles() {
    return next(TILES * kTileBytes);
  }

 private:
  // Begin to copy the next chunk, after the last one the first. An even number of them: its slot follows from its number.
  XMAE_HD void copy() {
    const uint32_t mine = 16 * lane_.thread();
    const char* const from = source_ + (static_cast<uint32_t>(chunk_) * kChunk + mine);
    const uint32_t to = slots_ + (chunk_ & 1) * kChunk + mine;
    XMAE_UNROLL
    for (int i = 0; i < kChunk; i += 16 * Lane::kThreads) lane_.copy_async(to + i, from + i);
    chunk_ = chunk_ + 1 == chunks_ ? 0 : chunk_ + 1;
  }

  Lane& lane_;
  const char* source_;
  uint32_t slots_;
  int chunks_, chunk_ = 0, position_ = kChunk;  // chunk_: to be copied next
};

}  // namespace xmae_fast::cuda
