// Turns error codes of the CUDA runtime into exceptions of torch.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/headeronly/util/Exception.h>

namespace xmae_fast::cuda {

// Raises with CUDA's own message unless the call succeeded. op: the operator or function that the message names.
inline void check(cudaError_t error, const char* op) {
  STD_TORCH_CHECK(error == cudaSuccess, op, ": CUDA says: ", cudaGetErrorString(error));
}

// Returns a property of a GPU, such as how many multiprocessors it has.
inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace xmae_fast::cuda
