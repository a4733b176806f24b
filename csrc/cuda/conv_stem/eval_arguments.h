// The arguments of the stem's inference kernel.
#pragma once

#include "cuda/conv_stem/stem_plan.h"

namespace xmae_fast::cuda {

struct EvalArguments {
  const void* x;  // [B, 1, source_length]: float32, or the 16-bit type that the kernel computes in
  bool x_is_float;
  const int64_t* ids_keep;  // [B, patches]: the visible patches, or null: the whole of x is visible
  int patches, patch_len;
  int64_t source_length;
  int B, L, S;         // sizes of the features; L = patches * patch_len where ids_keep is given
  const char* stream;  // [chunks * kChunk] bytes: packed weights
  int chunks;
  char* keep1;     // [CTAs, kKeep1Bytes] in global memory, or null: it is in shared memory
  void* features;  // [B, L, S] in the 16-bit type
};

// Returns number l of sample b of the waveform that the stem reads, which is the visible patches side by side.
template <typename Number>
XMAE_HD float input(const EvalArguments& run, int b, int l) {
  int64_t at = static_cast<int64_t>(b) * run.source_length + l;
  if (run.ids_keep) {
    const int patch = l / run.patch_len;
    at += (run.ids_keep[static_cast<int64_t>(b) * run.patches + patch] - patch) * run.patch_len;
  }
  return run.x_is_float ? static_cast<const float*>(run.x)[at] : Number::value(static_cast<const uint16_t*>(run.x)[at]);
}

}  // namespace xmae_fast::cuda
