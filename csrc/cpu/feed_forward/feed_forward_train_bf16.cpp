// Training of feed_forward in bfloat16: the operators feed_forward_train_bf16 and feed_forward_backward_bf16. Their
// arguments are those of the float32 operators, in float32 or bfloat16.

#include <tuple>

#include "cpu/feed_forward/feed_forward_call.h"

namespace xmae_fast {
namespace {

constexpr const char* kOp = kFeedForward;

// Returns out [B, N, D] in the dtype of x, hidden [B N, F] before GELU in bfloat16, and stats [B N, 2] of the LayerNorm
// in float32.
std::tuple<Tensor, Tensor, Tensor> feed_forward_train_bf16(
    const Tensor& x,  // [B, N, D]
    std::vector<Tensor> weights, std::optional<Tensor> seed, double p) {
  const Bf16Kernels& table = need_bf16_kernels(kOp);
  const FeedForwardCall call = feed_forward_call(x, weights, seed, p, true);
  const auto packed = pack_bf16(call);
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  Tensor hidden = pooled_bf16({call.f.rows, call.f.F}), stats = empty({call.f.rows, 2});
  const FeedForwardSaved<Bf16> saved{.hidden = mutable_halves(hidden), .stats = mutable_data(stats)};
  table.feed_forward(call.f, packed.up, packed.down, saved, mutable_data(out));
  return {in_dtype_of(out, x), hidden, stats};
}

// Returns the gradients of x and of the six weights, each in the dtype of its tensor.
std::vector<Tensor> feed_forward_backward_bf16(
    const Tensor& grad_,  // [B, N, D]
    const Tensor& x,      // [B, N, D]
    std::vector<Tensor> weights, std::optional<Tensor> seed, double p,
    const Tensor& hidden_,  // [B N, F], as the forward returned it
    const Tensor& stats_,   // [B N, 2], as the forward returned it
    int64_t needs) {        // a bit for each gradient, in their order: whether it is wanted
  const Bf16Kernels& table = need_bf16_kernels(kOp);
  const FeedForwardCall call = feed_forward_call(x, weights, seed, p, true);
  const int64_t rows = call.f.rows, D = call.f.D, F = call.f.F;
  const Tensor grad = as_float(kOp, "the gradient", grad_), stats = dense(kOp, "stats", stats_);
  const Tensor hidden = torch::stable::contiguous(hidden_);
  STD_TORCH_CHECK(
      grad.numel() == rows * D && hidden.numel() == rows * F && hidden.scalar_type() == ScalarType::BFloat16 &&
          stats.numel() == 2 * rows,
      kOp, ": backward: expected what the forward returned");
  const Tensor up = as_float(kOp, "up weight", call.weights[2]), down = as_float(kOp, "down weight", call.weights[4]);
  const FeedForwardMatrices<Bf16Matrix> packed{
      .up = pack_matrix_bf16(D, F, data(up), 1, D),
      .down = pack_matrix_bf16(F, D, data(down), 1, F),
  };
  Gradients gradients(needs);
  FeedForwardBackwardBf16 back{};
  set_results(call, gradients, back);
  back.grad = data(grad);
  back.up = &packed.up;
  back.down = &packed.down;
  const int64_t branch = transposed_size(rows, D), dhidden = transposed_size(rows, F);
  const int64_t activation = paired_size(rows, F), normed = paired_size(rows, D);
  const int64_t partials = outer_chunks(rows) * row_stride(F + 3 * D);
  const Tensor room = pooled({partials + (branch + dhidden + activation + normed) / 2});
  back.partials = mutable_data(room);
  back.branch = reinterpret_cast<Bf16*>(back.partials + partials);
  back.hidden = back.branch + branch;
  back.activation = back.hidden + dhidden;
  back.normed = back.activation + activation;
  const FeedForwardSaved<Bf16> saved{.hidden = mutable_halves(hidden), .stats = mutable_data(stats)};
  table.feed_forward_backward(call.f, saved, back);
  return gradients.in_dtypes_of(x, weights);
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("feed_forward_train_bf16", TORCH_BOX(&xmae_fast::feed_forward_train_bf16));
  m.impl("feed_forward_backward_bf16", TORCH_BOX(&xmae_fast::feed_forward_backward_bf16));
}
