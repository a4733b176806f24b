// Declares the functions that launch the stem's training kernels. They are compiled without torch's headers, in
// train_bfloat16.cu and train_float16.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/conv_stem/train_run_backward.h"

namespace xmae_fast::cuda {

template <typename Number>
struct TrainLaunch {
  // Each starts all kernels of a forward or a backward on the stream and does not wait for them.
  static void forward(const TrainBuffers& buffers, cudaStream_t stream);
  static void backward(const TrainBuffers& buffers, cudaStream_t stream);
};

}  // namespace xmae_fast::cuda
