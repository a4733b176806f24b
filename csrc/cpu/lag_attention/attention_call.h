// What the operators of lag_attention share: checked arguments, packed weights, saved activations and gradients.
#pragma once

#include "cpu/base/bf16_kernels.h"
#include "cpu/base/block_tensors.h"

namespace xmae_fast {

constexpr const char* kLagAttention = "lag_attention";

// The arguments of a call: dense tensors, and what the kernels get of them. weights has eight entries also for
// self-attention, where those of norm_kv are those of norm_q.
struct AttentionCall {
  std::vector<Tensor> weights;
  Tensor x, key_value;
  std::optional<Tensor> table, query_pos, key_pos;
  Attention a;
};

using OptionalTensor = std::optional<Tensor>;

// Returns dense positions after checking them. Python checks them too, but a compiled model skips that check, and the
// kernels use positions as addresses.
inline Tensor positions(const char* name, const OptionalTensor& pos, int64_t B, int64_t count, int64_t N) {
  STD_TORCH_CHECK(
      pos.has_value() && pos->scalar_type() == ScalarType::Long && pos->dim() == 2 && pos->size(1) == count &&
          (pos->size(0) == 1 || pos->size(0) == B),
      kLagAttention, ": ", name, ": expected int64 of shape [", B, " or 1, ", count, "]");
  const Tensor dense_pos = torch::stable::contiguous(*pos);
  const auto* p = static_cast<const int64_t*>(dense_pos.const_data_ptr());
  for (int64_t i = 0; i < dense_pos.numel(); ++i) {
    STD_TORCH_CHECK(
        p[i] >= 0 && p[i] < N, kLagAttention, ": ", name, ": expected patch indices in 0..", N - 1, ", got ", p[i]);
  }
  return dense_pos;
}

// Checks the arguments. bf16: whether the call is one of the bfloat16 kernels, which also take bfloat16.
inline AttentionCall attention_call(
    const Tensor& x, const OptionalTensor& key_value, const std::vector<Tensor>& weights, int64_t H,
    const OptionalTensor& table, const OptionalTensor& query_pos, const OptionalTensor& key_pos,
    const OptionalTensor& seed, double p, bool bf16 = false) {
  const bool cross = key_value.has_value();
  const size_t expected = cross ? 8 : 6;
  STD_TORCH_CHECK(
      x.dim() == 3 && weights.size() == expected, kLagAttention, ": expected x [B, Nq, D] and ", expected, " weights");
  const auto numbers = [bf16](const char* name, const Tensor& from) {
    return bf16 ? as_float(kLagAttention, name, from) : dense(kLagAttention, name, from);
  };
  constexpr const char* one = "one of the weights";
  AttentionCall call{
      bf16 ? vectors_as_float(kLagAttention, one, weights) : dense(kLagAttention, one, weights), numbers("x", x), x};
  call.key_value = cross ? numbers("key_value", *key_value) : call.x;
  auto& w = call.weights;
  if (!cross) w.insert(w.begin() + 2, {w[0], w[1]});
  const int64_t B = x.size(0), Nq = x.size(1), D = x.size(2);
  STD_TORCH_CHECK(H > 0 && D % H == 0, kLagAttention, ": num_heads: expected a divisor of D = ", D, ", got ", H);
  STD_TORCH_CHECK(
      call.key_value.dim() == 3 && call.key_value.size(0) == B && call.key_value.size(2) == D, kLagAttention,
      ": key_value: expected shape [", B, ", Nk, ", D, "]");
  const int64_t Nk = call.key_value.size(1), sizes[8] = {D, D, D, D, 3 * D * D, 3 * D, D * D, D};
  for (int i = 0; i < 8; ++i) {
    const int64_t got = w[i].numel();
    STD_TORCH_CHECK(
        got == sizes[i], kLagAttention, ": params: expected ", sizes[i], " numbers in weight ", i, ", got ", got);
  }
  call.a = {
      .B = B,
      .Nq = Nq,
      .Nk = Nk,
      .D = D,
      .H = H,
      .cross = cross,
      .x = data(call.x),
      .key_value = data(call.key_value),
      .norm_q = {.weight = data(w[0]), .bias = data(w[1])},
      .norm_kv = {.weight = data(w[2]), .bias = data(w[3])},
      .in_bias = data(w[5]),
      .out_bias = data(w[7]),
      .table = nullptr,
      .columns = 0,
      .query_pos = nullptr,
      .key_pos = nullptr,
      .query_pos_stride = 0,
      .key_pos_stride = 0,
      .dropout = dropout_of(kLagAttention, seed, p),
  };
  if (table.has_value()) {
    call.table = numbers("bias_table", *table);
    STD_TORCH_CHECK(
        call.table->dim() == 2 && call.table->size(0) == H && call.table->size(1) % 2 == 1, kLagAttention,
        ": bias_table: expected shape [", H, ", 2N - 1]");
    const int64_t columns = call.table->size(1), N = (columns + 1) / 2;
    call.query_pos = positions("query_pos", query_pos, B, Nq, N);
    call.key_pos = positions("key_pos", key_pos, B, Nk, N);
    call.a.table = data(*call.table);
    call.a.columns = columns;
    call.a.query_pos = static_cast<const int64_t*>(call.query_pos->const_data_ptr());
    call.a.key_pos = static_cast<const int64_t*>(call.key_pos->const_data_ptr());
    call.a.query_pos_stride = call.query_pos->size(0) == 1 ? 0 : Nq;
    call.a.key_pos_stride = call.key_pos->size(0) == 1 ? 0 : Nk;
  }
  return call;
}

// Packs the weights for the forward in bfloat16.
inline Projections<Bf16Matrix> pack_bf16(const AttentionCall& call) {
  const int64_t D = call.a.D;
  const Tensor in_weight = as_float(kLagAttention, "in weight", call.weights[4]);
  const Tensor out_weight = as_float(kLagAttention, "out weight", call.weights[6]);
  const float* in = data(in_weight);
  return {
      .q = pack_matrix_bf16(D, D, in, D, 1),
      .kv = pack_matrix_bf16(2 * D, D, in + D * D, D, 1),
      .out = pack_matrix_bf16(D, D, data(out_weight), D, 1),
  };
}

// Returns where in `kept` and `stats` the saved activations are. kept: q [B Nq, D], k | v [B Nk, 2 D] and
// context [B Nq, D]. stats: those of x's LayerNorm [B Nq, 2] and, for cross-attention, of key_value's [B Nk, 2].
inline AttentionSaved saved_of(const Attention& a, const Tensor& kept, const Tensor& stats) {
  const int64_t rows_q = a.B * a.Nq, rows_kv = a.B * a.Nk;
  float *q = mutable_data(kept), *kv = q + rows_q * a.D, *stats_q = mutable_data(stats);
  return {
      .q = q,
      .kv = kv,
      .context = kv + rows_kv * 2 * a.D,
      .stats_q = stats_q,
      .stats_kv = a.cross ? stats_q + 2 * rows_q : stats_q,
  };
}
inline int64_t kept_size(const Attention& a) { return 2 * a.B * a.D * (a.Nq + a.Nk); }
inline int64_t stats_size(const Attention& a) { return 2 * a.B * (a.Nq + (a.cross ? a.Nk : 0)); }

// Sets the memory of the gradients of x, key_value, the weights and bias_table.
inline void set_results(const AttentionCall& call, Gradients& gradients, AttentionGradients& into) {
  const auto& w = call.weights;
  into.x = gradients.next(call.x);
  into.key_value = call.a.cross ? gradients.next(call.key_value) : gradients.none();
  into.norm_q.weight = gradients.next(w[0]);
  into.norm_q.bias = gradients.next(w[1]);
  if (call.a.cross) {
    into.norm_kv.weight = gradients.next(w[2]);
    into.norm_kv.bias = gradients.next(w[3]);
  }
  into.in_weight = gradients.next(w[4]);
  into.in_bias = gradients.next(w[5]);
  into.out_weight = gradients.next(w[6]);
  into.out_bias = gradients.next(w[7]);
  into.table = call.table.has_value() ? gradients.next(*call.table) : gradients.none();
}

}  // namespace xmae_fast
