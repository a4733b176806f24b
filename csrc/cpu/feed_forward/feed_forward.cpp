// The operators of feed_forward, which check their arguments and call the kernels of feed_forward_rows.h. In all of
// them:
//   weights  LayerNorm weight [D], bias [D]; up weight [F, D], bias [F]; down weight [D, F], bias [D]
//   seed     int64 [2]: seed and offset of the dropout; none for p = 0
//   p        share of dropped elements

#include <tuple>

#include "cpu/feed_forward/feed_forward_call.h"

namespace xmae_fast {
namespace {

constexpr const char* kOp = kFeedForward;

FeedForwardMatrices<PackedMatrix> pack_weights(const FeedForwardCall& call) {
  const int64_t D = call.f.D, F = call.f.F, width = kernels().width;
  return {
      .up = pack_matrix(width, F, D, data(call.weights[2]), D, 1),
      .down = pack_matrix(width, D, F, data(call.weights[4]), F, 1),
  };
}

FeedForwardMatrices<SplitMatrix> pack_split_weights(const FeedForwardCall& call) {
  const int64_t D = call.f.D, F = call.f.F;
  return {.up = pack_split(F, D, data(call.weights[2])), .down = pack_split(D, F, data(call.weights[4]))};
}

template <typename Matrix>
WeightsCache<FeedForwardMatrices<Matrix>>& cache() {
  static auto* const instance =
      new WeightsCache<FeedForwardMatrices<Matrix>>;  // never destroyed: threads may outlive main
  return *instance;
}

// Returns [B, N, D].
Tensor feed_forward_eval(
    const Tensor& x,  // [B, N, D]
    std::vector<Tensor> weights, std::optional<Tensor> seed, double p) {
  const FeedForwardCall call = feed_forward_call(x, weights, seed, p);
  std::vector<Bytes> bytes;
  add_bytes(bytes, call.weights[2]);
  add_bytes(bytes, call.weights[4]);
  const std::vector<int64_t> shape{call.f.D, call.f.F};
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  if (const SplitKernels* split = kernels().split) {
    const auto packed = cache<SplitMatrix>().get(bytes, [&] { return pack_split_weights(call); }, shape);
    split->feed_forward(call.f, packed->up, packed->down, {}, mutable_data(out));
  } else {
    const auto packed = cache<PackedMatrix>().get(bytes, [&] { return pack_weights(call); }, shape);
    kernels().feed_forward(call.f, packed->up, packed->down, {}, mutable_data(out));
  }
  return out;
}

// The same in bfloat16, for x and weights in float32 or bfloat16. The result has the dtype of x.
Tensor feed_forward_eval_bf16(
    const Tensor& x,  // [B, N, D]
    std::vector<Tensor> weights, std::optional<Tensor> seed, double p) {
  const FeedForwardCall call = feed_forward_call(x, weights, seed, p, true);
  std::vector<Bytes> bytes;
  add_bytes(bytes, call.weights[2]);
  add_bytes(bytes, call.weights[4]);
  const int64_t half = call.weights[2].scalar_type() == ScalarType::BFloat16;
  const auto pack = [&] { return pack_bf16(call); };
  const auto packed = cache<Bf16Matrix>().get(bytes, pack, {call.f.D, call.f.F, half});
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  need_bf16_kernels(kOp).feed_forward(call.f, packed->up, packed->down, {}, mutable_data(out));
  return in_dtype_of(out, x);
}

// Returns out [B, N, D], hidden [B N, F] before GELU, and stats [B N, 2] of the LayerNorm.
std::tuple<Tensor, Tensor, Tensor> feed_forward_train(
    const Tensor& x,  // [B, N, D]
    std::vector<Tensor> weights, std::optional<Tensor> seed, double p) {
  const FeedForwardCall call = feed_forward_call(x, weights, seed, p);
  const auto packed = pack_weights(call);
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  Tensor hidden = pooled({call.f.rows, call.f.F}), stats = empty({call.f.rows, 2});
  const FeedForwardSaved<float> saved{.hidden = mutable_data(hidden), .stats = mutable_data(stats)};
  kernels().feed_forward(call.f, packed.up, packed.down, saved, mutable_data(out));
  return {out, hidden, stats};
}

// Returns the gradients of x and of the six weights.
std::vector<Tensor> feed_forward_backward(
    const Tensor& grad_,  // [B, N, D]
    const Tensor& x,      // [B, N, D]
    std::vector<Tensor> weights, std::optional<Tensor> seed, double p,
    const Tensor& hidden_,  // [B N, F], as the forward returned it
    const Tensor& stats_,   // [B N, 2], as the forward returned it
    int64_t needs) {        // a bit for each gradient, in their order: whether it is wanted
  const FeedForwardCall call = feed_forward_call(x, weights, seed, p);
  const auto& w = call.weights;
  const int64_t rows = call.f.rows, D = call.f.D, F = call.f.F, width = kernels().width, wide = row_stride(F);
  const Tensor grad = dense(kOp, "the gradient", grad_);
  const Tensor hidden = dense(kOp, "hidden", hidden_), stats = dense(kOp, "stats", stats_);
  STD_TORCH_CHECK(
      grad.numel() == rows * D && hidden.numel() == rows * F && stats.numel() == 2 * rows, kOp,
      ": backward: expected the shapes that the forward returned");
  const FeedForwardMatrices<PackedMatrix> packed{
      .up = pack_matrix(width, D, F, data(w[2]), 1, D),
      .down = pack_matrix(width, F, D, data(w[4]), 1, F),
  };
  Gradients gradients(needs);
  FeedForwardBackward back{};
  back.grad = data(grad);
  back.up = &packed.up;
  back.down = &packed.down;
  set_results(call, gradients, back);
  const bool drop = call.f.dropout.active();
  const int64_t narrow = round_up(rows * D, 16), blocks = (rows + kSumRows - 1) / kSumRows;
  // This memory comes from the pool. 15 MB of fresh pages (B = 64, D = 256) would cost 7 ms of page faults, a quarter
  // of the time of all arithmetic here.
  const Tensor room = pooled({2 * rows * wide + (drop ? 2 : 1) * narrow + blocks * (F + 3 * D)});
  back.activation = mutable_data(room);
  back.hidden = back.activation + rows * wide;
  back.normed = back.hidden + rows * wide;
  back.branch = drop ? back.normed + narrow : nullptr;
  back.partials = back.normed + (drop ? 2 : 1) * narrow;
  const FeedForwardSaved<float> saved{.hidden = mutable_data(hidden), .stats = mutable_data(stats)};
  kernels().feed_forward_backward(call.f, saved, back);
  return gradients.tensors();
}

// Returns the mask [rows, columns] by which both sublayers multiply, 0 or 1 / (1 - p). In feed_forward the rows are
// tokens and the columns their D numbers; in lag_attention the rows are (sample, head) and the columns (query, key).
Tensor dropout_mask(const Tensor& seed, int64_t rows, int64_t columns, double p) {
  const Dropout dropout = dropout_of("dropout_mask", seed, p);
  Tensor out = empty({rows, columns});
  float* to = mutable_data(out);
  parallel(rows, 16, [&](int64_t begin, int64_t end) {
    const AlignedFloats row = aligned_floats(round_up(columns, kDropoutColumns));
    for (int64_t r = begin; r < end; ++r) {
      kernels().dropout_row(dropout, r, columns, row.get());
      std::copy_n(row.get(), columns, to + r * columns);
    }
  });
  return out;
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("feed_forward_eval", TORCH_BOX(&xmae_fast::feed_forward_eval));
  m.impl("feed_forward_eval_bf16", TORCH_BOX(&xmae_fast::feed_forward_eval_bf16));
  m.impl("feed_forward_train", TORCH_BOX(&xmae_fast::feed_forward_train));
  m.impl("feed_forward_backward", TORCH_BOX(&xmae_fast::feed_forward_backward));
  m.impl("dropout_mask", TORCH_BOX(&xmae_fast::dropout_mask));
}
