// The launches of the stem's training kernels in one 16-bit type, compiled apart from torch: train_<type>.cu.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/conv_stem/train_run_backward.h"

namespace xmae_fast::cuda {

template <typename Number>
struct TrainLaunch {
  static void forward(const TrainBuffers& buffers, cudaStream_t stream);
  static void backward(const TrainBuffers& buffers, cudaStream_t stream);
};

}  // namespace xmae_fast::cuda
