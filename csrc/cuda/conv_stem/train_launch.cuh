// The stem's training kernels and the functions that launch them, as templates over the 16-bit type. train_bfloat16.cu
// and train_float16.cu instantiate them.
#pragma once

#include "cuda/conv_stem/stem_launch.h"
#include "cuda/conv_stem/train_launch.h"
#include "cuda/errors.h"
#include "cuda/lane.cuh"

namespace xmae_fast::cuda {

constexpr int kTrainThreads = 256;  // threads of a CTA

// All training kernels are this one, for another class L::Kernel (train_run.h).
template <typename Number, typename L, typename Arguments>
__global__ void __launch_bounds__(kTrainThreads, L::kTogether)
    stem_train_kernel(const __grid_constant__ Arguments run) {
  using Lane = CudaLane<Number, kTrainThreads>;
  Lane lane;
  L::template Kernel<Lane>::run(lane, run);
}

// Launches kernels on a GPU, as TrainForward and TrainBackward ask for them.
template <typename Number>
struct CudaRun {
  cudaStream_t stream;

  template <typename L, typename Arguments>
  void launch(int blocks, const Arguments& arguments) {
    constexpr int kBytes = L::template Kernel<CudaLane<Number, kTrainThreads>>::kBytes;
    const auto kernel = stem_train_kernel<Number, L, Arguments>;
    if constexpr (kBytes > 48 * 1024) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes), kStem);
    }
    kernel<<<static_cast<unsigned>(blocks), kTrainThreads, kBytes, stream>>>(arguments);
    check(cudaGetLastError(), kStem);
  }
};

template <typename Number>
void TrainLaunch<Number>::forward(const TrainBuffers& buffers, cudaStream_t stream) {
  CudaRun<Number> run{stream};
  TrainForward<CudaRun<Number>>(run, buffers).all();
}

template <typename Number>
void TrainLaunch<Number>::backward(const TrainBuffers& buffers, cudaStream_t stream) {
  CudaRun<Number> run{stream};
  TrainBackward<CudaRun<Number>>(run, buffers).all();
}

}  // namespace xmae_fast::cuda
