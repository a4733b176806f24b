// The launches of the stem's inference kernels in one 16-bit type, compiled apart from torch: stem_<type>.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/conv_stem/eval_arguments.h"
#include "cuda/conv_stem/stem_pack.h"

namespace xmae_fast::cuda {

constexpr const char* kStem = "conv_stem";  // as errors name it
constexpr int kMostLength = Room<8, 8>::kMostRows;

// How a GPU takes B samples of a length.
struct EvalPlan {
  int blocks, shared_bytes;  // CTAs, which take samples in turn, and what each has
  int64_t keep1_bytes;       // of global memory for `EvalArguments::keep1`; 0: shared memory has room for it
};

template <typename Number>
struct StemLaunch {
  // packed: [chunks * kChunk bytes].
  static void pack(const Packing& packing, char* packed, cudaStream_t stream);
  // On the current device, `device`; L <= kMostLength.
  static EvalPlan plan(int B, int L, int device);
  static void eval(const EvalArguments& run, const EvalPlan& plan, cudaStream_t stream);
};

}  // namespace xmae_fast::cuda
