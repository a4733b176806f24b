// What the two sublayers' operators share: dropout from its seed, optional gradients.
#pragma once

#include <cmath>
#include <optional>

#include "cpu/base/tensors.h"

namespace xmae_fast {

// seed: int64 [2], (seed, offset), or nothing where nothing is dropped; p: share of dropped elements.
inline Dropout dropout_of(const char* op, const std::optional<Tensor>& seed, double p) {
  if (p == 0) return {};
  STD_TORCH_CHECK(p > 0 && p < 1, op, ": dropout_p: expected a number in [0, 1), got ", p);
  STD_TORCH_CHECK(seed.has_value() && seed->scalar_type() == ScalarType::Long && seed->numel() == 2,
                  op, ": seed: expected int64 of shape [2] for dropout_p > 0");
  const Tensor dense_seed = torch::stable::contiguous(*seed);
  const auto* words = static_cast<const int64_t*>(dense_seed.const_data_ptr());
  const double threshold = std::min(std::ceil(p * 4294967296.0), 4294967295.0);  // word >= p 2^32
  return {static_cast<uint64_t>(words[0]), static_cast<uint64_t>(words[1]), static_cast<uint32_t>(threshold),
          static_cast<float>(1.0 / (1.0 - p))};
}

// Gradients of a backward: those whose bit is set in `needs`, in order; the others stay without elements.
class Gradients {
 public:
  explicit Gradients(int64_t needs) : needs_(needs) {}
  // The memory of the next gradient, of the shape of `like`; null if it was not asked for.
  float* next(const Tensor& like) {
    const bool wanted = (needs_ >> tensors_.size()) & 1;
    tensors_.push_back(wanted ? torch::stable::empty(like.sizes(), ScalarType::Float) : empty({0}));
    return wanted ? mutable_data(tensors_.back()) : nullptr;
  }
  // One that does not exist in this call.
  float* none() {
    tensors_.push_back(empty({0}));
    return nullptr;
  }
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  int64_t needs_;
  std::vector<Tensor> tensors_;
};

}  // namespace xmae_fast
