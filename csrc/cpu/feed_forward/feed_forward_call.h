// What the operators of feed_forward share: checked arguments, packed weights and gradients.
#pragma once

#include "cpu/base/bf16_kernels.h"
#include "cpu/base/block_tensors.h"

namespace xmae_fast {

constexpr const char* kFeedForward = "feed_forward";

template <typename Matrix>
struct FeedForwardMatrices {
  Matrix up, down;
};
template <typename Matrix>
int64_t packed_count(const FeedForwardMatrices<Matrix>& packed) {
  return packed_count(packed.up) + packed_count(packed.down);
}

// The arguments of a call: dense tensors, and what the kernels get of them.
struct FeedForwardCall {
  std::vector<Tensor> weights;
  Tensor x;
  FeedForward f;
};

// Checks the arguments. x [B, N, D]. bf16: whether the call is one of the bfloat16 kernels, which also take bfloat16.
inline FeedForwardCall feed_forward_call(
    const Tensor& x, const std::vector<Tensor>& weights, const std::optional<Tensor>& seed, double p,
    bool bf16 = false) {
  STD_TORCH_CHECK(x.dim() == 3 && weights.size() == 6, kFeedForward, ": expected x [B, N, D] and six weights");
  constexpr const char* one = "one of the weights";
  FeedForwardCall call{};
  call.weights = bf16 ? vectors_as_float(kFeedForward, one, weights) : dense(kFeedForward, one, weights);
  call.x = bf16 ? as_float(kFeedForward, "x", x) : dense(kFeedForward, "x", x);
  const auto& w = call.weights;
  const int64_t D = x.size(2), F = w[3].numel();
  STD_TORCH_CHECK(
      w[0].numel() == D && w[1].numel() == D && w[2].numel() == F * D && w[4].numel() == D * F && w[5].numel() == D,
      kFeedForward, ": params: expected sizes D, D, F D, F, D F, D with D = ", D, " and F = ", F);
  const int64_t rows = x.size(0) * x.size(1);
  call.f = {
      .rows = rows,
      .D = D,
      .F = F,
      .x = data(call.x),
      .norm = {.weight = data(w[0]), .bias = data(w[1])},
      .up_bias = data(w[3]),
      .down_bias = data(w[5]),
      .dropout = dropout_of(kFeedForward, seed, p),
  };
  return call;
}

// Packs the weights for the forward in bfloat16.
inline FeedForwardMatrices<Bf16Matrix> pack_bf16(const FeedForwardCall& call) {
  const int64_t D = call.f.D, F = call.f.F;
  const Tensor up = as_float(kFeedForward, "up weight", call.weights[2]);
  const Tensor down = as_float(kFeedForward, "down weight", call.weights[4]);
  return {.up = pack_matrix_bf16(F, D, data(up), D, 1), .down = pack_matrix_bf16(D, F, data(down), F, 1)};
}

// Sets the memory of the gradients of x and of the six weights.
inline void set_results(const FeedForwardCall& call, Gradients& gradients, FeedForwardGradients& into) {
  const auto& w = call.weights;
  into.x = gradients.next(call.x);
  into.norm.weight = gradients.next(w[0]);
  into.norm.bias = gradients.next(w[1]);
  into.up_weight = gradients.next(w[2]);
  into.up_bias = gradients.next(w[3]);
  into.down_weight = gradients.next(w[4]);
  into.down_bias = gradients.next(w[5]);
}

}  // namespace xmae_fast
