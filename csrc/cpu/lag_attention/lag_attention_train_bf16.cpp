// Training of lag_attention in bfloat16: the operators lag_attention_train_bf16 and lag_attention_backward_bf16. Their
// arguments are those of the float32 operators, in float32 or bfloat16; what the forward keeps is in float32.

#include <tuple>

#include "cpu/lag_attention/attention_call.h"

namespace xmae_fast {
namespace {

constexpr const char* kOp = kLagAttention;
using Optional = OptionalTensor;

// Packs the weights for the gradients of the products' inputs.
Projections<Bf16Matrix> pack_backward(const AttentionCall& call) {
  const int64_t D = call.a.D;
  const Tensor in_weight = as_float(kOp, "in weight", call.weights[4]);
  const Tensor out_weight = as_float(kOp, "out weight", call.weights[6]);
  const float* in = data(in_weight);
  return {
      .q = pack_matrix_bf16(D, D, in, 1, D),
      .kv = pack_matrix_bf16(D, 2 * D, in + D * D, 1, D),
      .out = pack_matrix_bf16(D, D, data(out_weight), 1, D),
  };
}

// Returns out [B, Nq, D] in the dtype of x, and kept and stats for the backward (see saved_of).
std::tuple<Tensor, Tensor, Tensor> lag_attention_train_bf16(
    const Tensor& x, Optional key_value, std::vector<Tensor> weights, int64_t num_heads, Optional bias_table,
    Optional query_pos, Optional key_pos, Optional seed, double p) {
  const Bf16Kernels& table = need_bf16_kernels(kOp);
  const AttentionCall call =
      attention_call(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p, true);
  const auto packed = pack_bf16(call);
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  Tensor kept = pooled({kept_size(call.a)}), stats = empty({stats_size(call.a)});
  table.attention(call.a, packed, saved_of(call.a, kept, stats), mutable_data(out));
  return {in_dtype_of(out, x), kept, stats};
}

// Returns the gradients of x, key_value, the weights and bias_table, each in the dtype of its tensor.
std::vector<Tensor> lag_attention_backward_bf16(
    const Tensor& grad_,  // [B, Nq, D]
    const Tensor& x, Optional key_value, std::vector<Tensor> weights, int64_t num_heads, Optional bias_table,
    Optional query_pos, Optional key_pos, Optional seed, double p,
    const Tensor& kept_,   // as the forward returned it
    const Tensor& stats_,  // as the forward returned it
    int64_t needs) {       // a bit for each gradient, in their order: whether it is wanted
  const Bf16Kernels& table = need_bf16_kernels(kOp);
  const AttentionCall call =
      attention_call(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p, true);
  const Attention& a = call.a;
  const int64_t D = a.D, rows_q = a.B * a.Nq, rows_kv = a.B * a.Nk;
  const Tensor grad = as_float(kOp, "the gradient", grad_);
  const Tensor kept = dense(kOp, "kept", kept_), stats = dense(kOp, "stats", stats_);
  STD_TORCH_CHECK(
      grad.numel() == rows_q * D && kept.numel() == kept_size(a) && stats.numel() == stats_size(a), kOp,
      ": backward: expected the shapes that the forward returned");
  const Projections<Bf16Matrix> packed = pack_backward(call);
  Gradients gradients(needs);
  AttentionBackwardBf16 back{};
  set_results(call, gradients, back);
  back.grad = data(grad);
  back.weights = &packed;
  const int64_t dq = rows_q * bf16_stride(D), dkv = rows_kv * bf16_stride(2 * D);
  const int64_t across = transposed_size(rows_q, D), dkv_across = transposed_size(rows_kv, 2 * D);
  const int64_t paired_q = paired_size(rows_q, D), paired_kv = a.cross ? paired_size(rows_kv, D) : 0;
  const int64_t partials = round_up(a.B * attention_partials(a), 16);
  const int64_t numbers = dq + dkv + 2 * across + dkv_across + 2 * paired_q + paired_kv;
  const Tensor room = pooled({partials + numbers / 2});
  back.partials = mutable_data(room);
  back.dq = reinterpret_cast<Bf16*>(back.partials + partials);
  back.dkv = back.dq + dq;
  back.dq_across = back.dkv + dkv;
  back.grad_across = back.dq_across + across;
  back.dkv_across = back.grad_across + across;
  back.context = back.dkv_across + dkv_across;
  back.normed_q = back.context + paired_q;
  back.normed_kv = a.cross ? back.normed_q + paired_q : back.normed_q;
  table.attention_backward(a, saved_of(a, kept, stats), back);
  std::vector<Tensor> inputs{call.a.cross ? *key_value : x};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  inputs.push_back(bias_table.has_value() ? *bias_table : x);
  return gradients.in_dtypes_of(x, inputs);
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("lag_attention_train_bf16", TORCH_BOX(&xmae_fast::lag_attention_train_bf16));
  m.impl("lag_attention_backward_bf16", TORCH_BOX(&xmae_fast::lag_attention_backward_bf16));
}
