// What the operators of patch_embed share: sizes, the order of a patch's numbers, and features in bfloat16.
#pragma once

#include "cpu/base/bf16_kernels.h"
#include "cpu/base/tensors.h"

namespace xmae_fast {

struct PatchSizes {
  int64_t B, N, D, S, P;
  int64_t rows() const { return B * N; }
  int64_t steps() const { return P * S; }
};

// Checks features [B, L, S] and weight [D, S, P] and returns their sizes.
inline PatchSizes patch_sizes(const Tensor& features, const Tensor& weight) {
  STD_TORCH_CHECK(
      features.dim() == 3 && weight.dim() == 3 && weight.numel() > 0,
      "patch_embed: expected features [B, L, S] and a weight [D, S, P] that is not empty");
  const int64_t D = weight.size(0), S = weight.size(1), P = weight.size(2), L = features.size(1);
  STD_TORCH_CHECK(
      features.size(2) == S && L % P == 0, "patch_embed: expected features [B, N * ", P, ", ", S, "], got [",
      features.size(0), ", ", L, ", ", features.size(2), "]");
  return {features.size(0), L / P, D, S, P};
}

// Returns where each number p * S + s of a patch has its weight in a row [S, P] of the weight.
inline std::vector<int64_t> patch_steps(const PatchSizes& n) {
  std::vector<int64_t> steps;
  steps.reserve(n.steps());
  for (int64_t p = 0; p < n.P; ++p) {
    for (int64_t s = 0; s < n.S; ++s) steps.push_back(s * n.P + p);
  }
  return steps;
}

inline void check_tokens(const PatchSizes& n, const Tensor& bias, const Tensor& pos) {
  STD_TORCH_CHECK(bias.numel() == n.D, "patch_embed: expected a bias [", n.D, "], got ", bias.numel(), " numbers");
  STD_TORCH_CHECK(
      pos.numel() == n.N * n.D, "patch_embed: expected pos [1, ", n.N, ", ", n.D, "], got ", pos.numel(), " numbers");
}

// Reorders from [D, P * S] to out [D, S, P].
inline void unpack(const float* from, const PatchSizes& n, float* out) {
  const std::vector<int64_t> steps = patch_steps(n);
  parallel(n.D, 8192 / n.steps() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      for (int64_t k = 0; k < n.steps(); ++k) out[d * n.steps() + steps[k]] = from[d * n.steps() + k];
    }
  });
}

// Packs the weight [D, S, P] for the forward in bfloat16, or for the gradient of features.
Bf16Matrix pack_patch_weight(const PatchSizes& n, const Tensor& weight, bool backward);

// Returns tokens [B, N, D] in the dtype of the weight, for features [B, L, S] in float32 or bfloat16.
Tensor patch_tokens(
    const PatchSizes& n, const Tensor& features, const Tensor& weight, const Tensor& bias, const Tensor& pos,
    const Bf16Matrix& matrix);

}  // namespace xmae_fast
