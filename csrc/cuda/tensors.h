// Helpers for torch's tensors and CUDA streams. They use torch's stable ABI and never ATen.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

namespace xmae_fast::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns torch's current stream on the device of `x`.
inline cudaStream_t stream_of(const Tensor& x) {
  void* stream = nullptr;
  const auto error = aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream);
  STD_TORCH_CHECK(error == 0, "torch has no current CUDA stream for device ", x.get_device_index());
  return static_cast<cudaStream_t>(stream);
}

// Returns a tensor of this shape and dtype on the device of `like`. Its numbers are not set.
inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  const std::vector<int64_t> shape(sizes);
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(shape), dtype);
}

}  // namespace xmae_fast::cuda
