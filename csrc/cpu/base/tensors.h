// Helpers that turn torch's tensors into the arrays of kernels: float32, contiguous, on the CPU. `op` and `name` are
// the operator's and the argument's names in error messages.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "cpu/base/weights_cache.h"

namespace xmae_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns the tensor if it is contiguous, else a contiguous copy. Raises unless it is float32.
inline Tensor dense(const char* op, const char* name, const Tensor& x) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float, op, ": the C++ kernels take float32, and ", name, " is not");
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}
inline std::vector<Tensor> dense(const char* op, const char* name, const std::vector<Tensor>& tensors) {
  std::vector<Tensor> out;
  out.reserve(tensors.size());
  for (const Tensor& x : tensors) out.push_back(dense(op, name, x));
  return out;
}
// Returns the tensor in float32, contiguous. Raises unless it is float32 or bfloat16.
inline Tensor as_float(const char* op, const char* name, const Tensor& x) {
  if (x.scalar_type() != ScalarType::BFloat16) return dense(op, name, x);
  return torch::stable::contiguous(torch::stable::to(x, ScalarType::Float));
}
inline std::vector<Tensor> as_float(const char* op, const char* name, const std::vector<Tensor>& tensors) {
  std::vector<Tensor> out;
  out.reserve(tensors.size());
  for (const Tensor& x : tensors) out.push_back(as_float(op, name, x));
  return out;
}
// Returns float32 numbers in the dtype of `like`, which is float32 or bfloat16.
inline Tensor in_dtype_of(const Tensor& x, const Tensor& like) {
  return like.scalar_type() == ScalarType::Float ? x : torch::stable::to(x, like.scalar_type());
}
inline const float* data(const Tensor& x) { return static_cast<const float*>(x.const_data_ptr()); }
inline float* mutable_data(const Tensor& x) { return static_cast<float*>(x.mutable_data_ptr()); }
inline Bf16* mutable_halves(const Tensor& x) { return static_cast<Bf16*>(x.mutable_data_ptr()); }
// Returns a float32 tensor of this shape. Its numbers are not set.
inline Tensor empty(std::initializer_list<int64_t> sizes) {
  const std::vector<int64_t> shape(sizes);
  return torch::stable::empty(torch::headeronly::HeaderOnlyArrayRef<int64_t>(shape), ScalarType::Float);
}
inline Tensor empty_bf16(std::initializer_list<int64_t> sizes) {
  const std::vector<int64_t> shape(sizes);
  return torch::stable::empty(torch::headeronly::HeaderOnlyArrayRef<int64_t>(shape), ScalarType::BFloat16);
}
// The same for a large tensor that every training step makes again; see pool.cpp.
Tensor pooled(std::initializer_list<int64_t> sizes);
Tensor pooled_bf16(std::initializer_list<int64_t> sizes);
// Adds where a contiguous tensor's numbers lie, for a WeightsCache. Raises unless it is float32 or bfloat16.
inline void add_bytes(std::vector<Bytes>& bytes, const Tensor& x) {
  const ScalarType dtype = x.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16,
      "xmae_fast: expected weights in float32 or bfloat16, got another dtype");
  bytes.push_back({x.const_data_ptr(), x.numel() * (dtype == ScalarType::Float ? 4 : 2)});
}
inline void check_count(const char* op, const char* name, const Tensor& x, int64_t count) {
  STD_TORCH_CHECK(x.numel() == count, op, ": ", name, ": expected ", count, " numbers, got ", x.numel());
}
inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

}  // namespace xmae_fast
