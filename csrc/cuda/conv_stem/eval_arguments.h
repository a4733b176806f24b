// What the stem's inference kernel is called with.
#pragma once

#include "cuda/conv_stem/stem_plan.h"

namespace xmae_fast::cuda {

struct EvalArguments {
  const void* x;            // [B, 1, source_length], float32 or 16-bit as computed
  bool x_is_float;
  const int64_t* ids_keep;  // [B, patches] visible patches, or null: all of x in order
  int patches, patch_len;
  int64_t source_length;
  int B, L, S;                 // of the features; L = patches * patch_len where there are ids_keep
  const char* stream;       // packed weights [chunks * kChunk bytes]
  int chunks;
  char* keep1;              // [CTAs, kKeep1Bytes] in global memory, or null: shared memory has room for it
  void* features;           // [B, L, S], 16-bit
};

// Sample b's number at place l of the waveform that the stem sees: the visible patches side by side.
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
