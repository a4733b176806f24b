// Helpers that the operators of both sublayers (lag_attention, feed_forward) share: dropout and optional gradients.
#pragma once

#include <cmath>
#include <optional>

#include "cpu/base/tensors.h"

namespace xmae_fast {

// Returns the weights for a call of bfloat16 kernels: vectors in float32, matrices contiguous in their own dtype, because
// they are packed once.
inline std::vector<Tensor> vectors_as_float(const char* op, const char* name, const std::vector<Tensor>& weights) {
  std::vector<Tensor> out;
  out.reserve(weights.size());
  for (const Tensor& x : weights) out.push_back(x.dim() == 1 ? as_float(op, name, x) : torch::stable::contiguous(x));
  return out;
}

// Returns the dropout of a call. seed: int64 [2], (seed, offset); not needed for p = 0. p: share of dropped elements.
inline Dropout dropout_of(const char* op, const std::optional<Tensor>& seed, double p) {
  if (p == 0) return {};
  STD_TORCH_CHECK(p > 0 && p < 1, op, ": dropout_p: expected a number in [0, 1), got ", p);
  STD_TORCH_CHECK(
      seed.has_value() && seed->scalar_type() == ScalarType::Long && seed->numel() == 2, op,
      ": seed: expected int64 of shape [2] for dropout_p > 0");
  const Tensor dense_seed = torch::stable::contiguous(*seed);
  const auto* words = static_cast<const int64_t*>(dense_seed.const_data_ptr());
  const double threshold = std::min(std::ceil(p * 4294967296.0), 4294967295.0);  // kept: word >= p 2^32
  return {
      .seed = static_cast<uint64_t>(words[0]),
      .offset = static_cast<uint64_t>(words[1]),
      .threshold = static_cast<uint32_t>(threshold),
      .scale = static_cast<float>(1.0 / (1.0 - p)),
  };
}

// The gradients that a backward returns, in order. Bit i of `needs` says whether the i-th is wanted; an unwanted one is
// a tensor without elements.
class Gradients {
 public:
  explicit Gradients(int64_t needs) : needs_(needs) {}
  // Returns the memory of the next gradient, which has the shape of `like`, or null if it is not wanted.
  float* next(const Tensor& like) {
    const bool wanted = (needs_ >> tensors_.size()) & 1;
    tensors_.push_back(wanted ? torch::stable::empty(like.sizes(), ScalarType::Float) : empty({0}));
    return wanted ? mutable_data(tensors_.back()) : nullptr;
  }
  // Adds a gradient of an argument that this call does not have.
  float* none() {
    tensors_.push_back(empty({0}));
    return nullptr;
  }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  // Returns the same, each in the dtype of its tensor: the first of `x`, those after it of `weights`.
  std::vector<Tensor> in_dtypes_of(const Tensor& x, const std::vector<Tensor>& weights) const {
    std::vector<Tensor> out;
    for (size_t i = 0; i < tensors_.size(); ++i) out.push_back(in_dtype_of(tensors_[i], i == 0 ? x : weights[i - 1]));
    return out;
  }

 private:
  int64_t needs_;
  std::vector<Tensor> tensors_;
};

}  // namespace xmae_fast
