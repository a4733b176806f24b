// Declares the functions that launch the stem's inference kernels. They are compiled without torch's headers, in
// stem_bfloat16.cu and stem_float16.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/conv_stem/eval_arguments.h"
#include "cuda/conv_stem/stem_pack.h"

namespace xmae_fast::cuda {

constexpr const char* kStem = "conv_stem";          // the operator's name in error messages
constexpr int kMostLength = Room<8, 8>::kMostRows;  // samples of the longest signal

// How a GPU computes a batch.
struct EvalPlan {
  int blocks;           // CTAs, which take samples in turn
  int shared_bytes;     // shared memory of a CTA
  int64_t keep1_bytes;  // global memory for `EvalArguments::keep1`; 0: it is in shared memory
};

template <typename Number>
struct StemLaunch {
  // Starts the kernel that packs the weights. packed: [chunks * kChunk] bytes.
  static void pack(const Packing& packing, char* packed, cudaStream_t stream);
  // Plans a batch of B samples of length L <= kMostLength on the current GPU, which is number `device`. Raises where it
  // has too little shared memory.
  static EvalPlan plan(int B, int L, int device);
  // Starts the kernel that computes the features.
  static void eval(const EvalArguments& run, const EvalPlan& plan, cudaStream_t stream);
};

}  // namespace xmae_fast::cuda
