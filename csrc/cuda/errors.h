// Errors of CUDA's, in the words of torch's.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/headeronly/util/Exception.h>

namespace xmae_fast::cuda {

inline void check(cudaError_t error, const char* op) {
  STD_TORCH_CHECK(error == cudaSuccess, op, ": CUDA says: ", cudaGetErrorString(error));
}

inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace xmae_fast::cuda
