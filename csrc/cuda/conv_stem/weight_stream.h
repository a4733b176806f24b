// Streams weights from global memory through shared memory, so that copies run while a CTA computes.
#pragma once

#include "cuda/conv_stem/stem_plan.h"

namespace xmae_fast::cuda {

// Holds two chunks of weights in two slots of shared memory: one that is used and one that is being copied. Every
// thread of the CTA must take the same pieces in the same order.
template <typename Lane>
class WeightStream {
 public:
  XMAE_HD WeightStream(Lane& lane, uint32_t slots, const char* source, int chunks)
      : lane_(lane), source_(source), slots_(slots), chunks_(chunks) {
    copy();
  }

  // To be called before each sample: it begins at the first chunk, whose copy has been started.
  XMAE_HD void rewind() { position_ = kChunk; }

  // Returns the address in shared memory of the next `bytes` of weights. They stay there until a piece of the next
  // chunk is taken, because that starts a copy over them.
  XMAE_HD uint32_t next(int bytes) {
    if (position_ + bytes > kChunk) {
      lane_.wait_for_copies();
      lane_.barrier();  // now the copies of all threads have arrived, and no thread reads the other slot any more
      position_ = 0;
      copy();
    }
    // chunk_ is one past the chunk being copied, so the chunk in use is in the slot of the same parity.
    const uint32_t at = slots_ + (chunk_ & 1) * kChunk + position_;
    position_ += bytes;
    return at;
  }
  template <int TILES>
  XMAE_HD uint32_t tiles() {
    return next(TILES * kTileBytes);
  }

 private:
  // Starts to copy the next chunk, or the first after the last one. The number of chunks is even, so that the parity of
  // a chunk's number says which slot it has.
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
  int chunks_, chunk_ = 0, position_ = kChunk;  // chunk_: the chunk to be copied next
};

}  // namespace xmae_fast::cuda
