// The operators of lag_attention, which check their arguments and call the kernels of attention_rows.h. In all of them:
//   x           [B, Nq, D]
//   key_value   [B, Nk, D] for cross-attention; none for self-attention
//   weights     norm_q weight [D], bias [D]; for cross-attention norm_kv weight [D], bias [D]; in weight [3 D, D],
//               bias [3 D]; out weight [D, D], bias [D]
//   bias_table  [H, 2 N - 1], with query_pos [B or 1, Nq] and key_pos [B or 1, Nk], or none of the three
//   seed        int64 [2]: seed and offset of the dropout; none for p = 0
//   p           share of dropped attention weights

#include <tuple>

#include "cpu/lag_attention/attention_call.h"

namespace xmae_fast {
namespace {

constexpr const char* kOp = kLagAttention;
using Optional = OptionalTensor;

// Packs the weights for the forward.
AttentionWeights pack_weights(const AttentionCall& call) {
  const int64_t D = call.a.D, width = kernels().width;
  const float *in = data(call.weights[4]), *out = data(call.weights[6]);
  return {
      .q = pack_matrix(width, D, D, in, D, 1),
      .kv = pack_matrix(width, 2 * D, D, in + D * D, D, 1),
      .out = pack_matrix(width, D, D, out, D, 1),
  };
}

// Packs the weights for the gradients of the products' inputs.
AttentionWeights pack_backward(const AttentionCall& call) {
  const int64_t D = call.a.D, width = kernels().width;
  const float *in = data(call.weights[4]), *out = data(call.weights[6]);
  return {
      .q = pack_matrix(width, D, D, in, 1, D),
      .kv = pack_matrix(width, D, 2 * D, in + D * D, 1, D),
      .out = pack_matrix(width, D, D, out, 1, D),
  };
}

Projections<SplitMatrix> pack_split_weights(const AttentionCall& call) {
  const int64_t D = call.a.D;
  const float *in = data(call.weights[4]), *out = data(call.weights[6]);
  return {.q = pack_split(D, D, in), .kv = pack_split(2 * D, D, in + D * D), .out = pack_split(D, D, out)};
}

template <typename Matrix>
WeightsCache<Projections<Matrix>>& cache() {
  static auto* const instance = new WeightsCache<Projections<Matrix>>;  // never destroyed: threads may outlive main
  return *instance;
}

// Returns [B, Nq, D].
Tensor lag_attention_eval(
    const Tensor& x, Optional key_value, std::vector<Tensor> weights, int64_t num_heads, Optional bias_table,
    Optional query_pos, Optional key_pos, Optional seed, double p) {
  const AttentionCall call = attention_call(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p);
  std::vector<Bytes> bytes;
  add_bytes(bytes, call.weights[4]);
  add_bytes(bytes, call.weights[6]);
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  if (const SplitKernels* split = kernels().split) {
    const auto packed = cache<SplitMatrix>().get(bytes, [&] { return pack_split_weights(call); });
    split->attention(call.a, *packed, {}, mutable_data(out));
  } else {
    const auto packed = cache<PackedMatrix>().get(bytes, [&] { return pack_weights(call); });
    kernels().attention(call.a, *packed, {}, mutable_data(out));
  }
  return out;
}

// The same in bfloat16, for tensors in float32 or bfloat16. The result has the dtype of x.
Tensor lag_attention_eval_bf16(
    const Tensor& x, Optional key_value, std::vector<Tensor> weights, int64_t num_heads, Optional bias_table,
    Optional query_pos, Optional key_pos, Optional seed, double p) {
  const AttentionCall call =
      attention_call(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p, true);
  std::vector<Bytes> bytes;
  add_bytes(bytes, call.weights[4]);
  add_bytes(bytes, call.weights[6]);
  const int64_t half = call.weights[4].scalar_type() == ScalarType::BFloat16;
  const auto packed = cache<Bf16Matrix>().get(bytes, [&] { return pack_bf16(call); }, {call.a.D, half});
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  need_bf16_kernels(kOp).attention(call.a, *packed, {}, mutable_data(out));
  return in_dtype_of(out, x);
}

// Returns out [B, Nq, D], and kept and stats for the backward (see saved_of).
std::tuple<Tensor, Tensor, Tensor> lag_attention_train(
    const Tensor& x, Optional key_value, std::vector<Tensor> weights, int64_t num_heads, Optional bias_table,
    Optional query_pos, Optional key_pos, Optional seed, double p) {
  const AttentionCall call = attention_call(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p);
  const AttentionWeights packed = pack_weights(call);
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  Tensor kept = pooled({kept_size(call.a)}), stats = empty({stats_size(call.a)});
  kernels().attention(call.a, packed, saved_of(call.a, kept, stats), mutable_data(out));
  return {out, kept, stats};
}

// Returns the gradients of x, key_value, the weights and bias_table.
std::vector<Tensor> lag_attention_backward(
    const Tensor& grad_,  // [B, Nq, D]
    const Tensor& x, Optional key_value, std::vector<Tensor> weights, int64_t num_heads, Optional bias_table,
    Optional query_pos, Optional key_pos, Optional seed, double p,
    const Tensor& kept_,   // as the forward returned it
    const Tensor& stats_,  // as the forward returned it
    int64_t needs) {       // a bit for each gradient, in their order: whether it is wanted
  const AttentionCall call = attention_call(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p);
  const Attention& a = call.a;
  const int64_t rows_q = a.B * a.Nq, rows_kv = a.B * a.Nk;
  const Tensor grad = dense(kOp, "the gradient", grad_);
  const Tensor kept = dense(kOp, "kept", kept_), stats = dense(kOp, "stats", stats_);
  STD_TORCH_CHECK(
      grad.numel() == rows_q * a.D && kept.numel() == kept_size(a) && stats.numel() == stats_size(a), kOp,
      ": backward: expected the shapes that the forward returned");
  const AttentionWeights packed = pack_backward(call);
  Gradients gradients(needs);
  AttentionBackward back{};
  back.grad = data(grad);
  back.weights = &packed;
  set_results(call, gradients, back);
  const int64_t size_q = rows_q * row_stride(a.D), size_kv = rows_kv * row_stride(2 * a.D);
  const int64_t normed_q = round_up(rows_q * a.D, 16), normed_kv = a.cross ? round_up(rows_kv * a.D, 16) : 0;
  const Tensor room = pooled({size_q + size_kv + normed_q + normed_kv + a.B * attention_partials(a)});
  back.dq = mutable_data(room);
  back.dkv = back.dq + size_q;
  back.normed_q = back.dkv + size_kv;
  back.normed_kv = a.cross ? back.normed_q + normed_q : back.normed_q;
  back.partials = back.normed_q + normed_q + normed_kv;
  kernels().attention_backward(a, saved_of(a, kept, stats), back);
  return gradients.tensors();
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("lag_attention_eval", TORCH_BOX(&xmae_fast::lag_attention_eval));
  m.impl("lag_attention_eval_bf16", TORCH_BOX(&xmae_fast::lag_attention_eval_bf16));
  m.impl("lag_attention_train", TORCH_BOX(&xmae_fast::lag_attention_train));
  m.impl("lag_attention_backward", TORCH_BOX(&xmae_fast::lag_attention_backward));
}
