// The operators of lag_attention, which check their arguments and call the kernels of attention_rows.h. In all of them:
//   x           [B, Nq, D]
//   key_value   [B, Nk, D] for cross-attention; none for self-attention
//   weights     norm_q weight [D], bias [D]; for cross-attention norm_kv weight [D], bias [D]; in weight [3 D, D],
//               bias [3 D]; out weight [D, D], bias [D]
//   bias_table  [H, 2 N - 1], with query_pos [B or 1, Nq] and key_pos [B or 1, Nk], or none of the three
//   seed        int64 [2]: seed and offset of the dropout; none for p = 0
//   p           share of dropped attention weights

#include <tuple>

#include "cpu/base/bf16_kernels.h"
#include "cpu/base/block_tensors.h"

namespace xmae_fast {
namespace {

constexpr const char* kOp = "lag_attention";

// The arguments of a call: dense tensors, and what the kernels get of them. weights has eight entries also for
// self-attention, where those of norm_kv are those of norm_q.
struct Call {
  std::vector<Tensor> weights;
  Tensor x, key_value;
  std::optional<Tensor> table, query_pos, key_pos;
  Attention a;
};

using Optional = std::optional<Tensor>;

// Returns dense positions after checking them. Python checks them too, but a compiled model skips that check, and the
// kernels use positions as addresses.
Tensor positions(const char* name, const Optional& pos, int64_t B, int64_t count, int64_t N) {
  STD_TORCH_CHECK(
      pos.has_value() && pos->scalar_type() == ScalarType::Long && pos->dim() == 2 && pos->size(1) == count &&
          (pos->size(0) == 1 || pos->size(0) == B),
      kOp, ": ", name, ": expected int64 of shape [", B, " or 1, ", count, "]");
  const Tensor dense_pos = torch::stable::contiguous(*pos);
  const auto* p = static_cast<const int64_t*>(dense_pos.const_data_ptr());
  for (int64_t i = 0; i < dense_pos.numel(); ++i) {
    STD_TORCH_CHECK(p[i] >= 0 && p[i] < N, kOp, ": ", name, ": expected patch indices in 0..", N - 1, ", got ", p[i]);
  }
  return dense_pos;
}

// Checks the arguments. bf16: whether the call is one of the bfloat16 kernels, which also take bfloat16.
Call prepare(
    const Tensor& x, const Optional& key_value, const std::vector<Tensor>& weights, int64_t H, const Optional& table,
    const Optional& query_pos, const Optional& key_pos, const Optional& seed, double p, bool bf16 = false) {
  const bool cross = key_value.has_value();
  const size_t expected = cross ? 8 : 6;
  STD_TORCH_CHECK(
      x.dim() == 3 && weights.size() == expected, kOp, ": expected x [B, Nq, D] and ", expected, " weights");
  const auto numbers = [bf16](const char* name, const Tensor& from) {
    return bf16 ? as_float(kOp, name, from) : dense(kOp, name, from);
  };
  constexpr const char* one = "one of the weights";
  Call call{bf16 ? vectors_as_float(kOp, one, weights) : dense(kOp, one, weights), numbers("x", x), x};
  call.key_value = cross ? numbers("key_value", *key_value) : call.x;
  auto& w = call.weights;
  if (!cross) w.insert(w.begin() + 2, {w[0], w[1]});
  const int64_t B = x.size(0), Nq = x.size(1), D = x.size(2);
  STD_TORCH_CHECK(H > 0 && D % H == 0, kOp, ": num_heads: expected a divisor of D = ", D, ", got ", H);
  STD_TORCH_CHECK(
      call.key_value.dim() == 3 && call.key_value.size(0) == B && call.key_value.size(2) == D, kOp,
      ": key_value: expected shape [", B, ", Nk, ", D, "]");
  const int64_t Nk = call.key_value.size(1), sizes[8] = {D, D, D, D, 3 * D * D, 3 * D, D * D, D};
  for (int i = 0; i < 8; ++i) {
    const int64_t got = w[i].numel();
    STD_TORCH_CHECK(got == sizes[i], kOp, ": params: expected ", sizes[i], " numbers in weight ", i, ", got ", got);
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
      .dropout = dropout_of(kOp, seed, p),
  };
  if (table.has_value()) {
    call.table = numbers("bias_table", *table);
    STD_TORCH_CHECK(
        call.table->dim() == 2 && call.table->size(0) == H && call.table->size(1) % 2 == 1, kOp,
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

// Packs the weights for the forward.
AttentionWeights pack_weights(const Call& call) {
  const int64_t D = call.a.D, width = kernels().width;
  const float *in = data(call.weights[4]), *out = data(call.weights[6]);
  return {
      .q = pack_matrix(width, D, D, in, D, 1),
      .kv = pack_matrix(width, 2 * D, D, in + D * D, D, 1),
      .out = pack_matrix(width, D, D, out, D, 1),
  };
}

// Packs the weights for the gradients of the products' inputs.
AttentionWeights pack_backward(const Call& call) {
  const int64_t D = call.a.D, width = kernels().width;
  const float *in = data(call.weights[4]), *out = data(call.weights[6]);
  return {
      .q = pack_matrix(width, D, D, in, 1, D),
      .kv = pack_matrix(width, D, 2 * D, in + D * D, 1, D),
      .out = pack_matrix(width, D, D, out, 1, D),
  };
}

Projections<Bf16Matrix> pack_bf16_weights(const Call& call) {
  const int64_t D = call.a.D;
  const Tensor in_weight = as_float(kOp, "in weight", call.weights[4]);
  const Tensor out_weight = as_float(kOp, "out weight", call.weights[6]);
  const float* in = data(in_weight);
  return {
      .q = pack_matrix_bf16(D, D, in, D, 1),
      .kv = pack_matrix_bf16(2 * D, D, in + D * D, D, 1),
      .out = pack_matrix_bf16(D, D, data(out_weight), D, 1),
  };
}

Projections<SplitMatrix> pack_split_weights(const Call& call) {
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
  const Call call = prepare(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p);
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
  const Call call = prepare(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p, true);
  std::vector<Bytes> bytes;
  add_bytes(bytes, call.weights[4]);
  add_bytes(bytes, call.weights[6]);
  const int64_t half = call.weights[4].scalar_type() == ScalarType::BFloat16;
  const auto packed = cache<Bf16Matrix>().get(bytes, [&] { return pack_bf16_weights(call); }, {call.a.D, half});
  Tensor out = torch::stable::empty(x.sizes(), ScalarType::Float);
  need_bf16_kernels(kOp).attention(call.a, *packed, {}, mutable_data(out));
  return in_dtype_of(out, x);
}

// Returns where in `kept` and `stats` the saved activations are. kept: q [B Nq, D], k | v [B Nk, 2 D] and
// context [B Nq, D]. stats: those of x's LayerNorm [B Nq, 2] and, for cross-attention, of key_value's [B Nk, 2].
AttentionSaved saved_of(const Attention& a, const Tensor& kept, const Tensor& stats) {
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
int64_t kept_size(const Attention& a) { return 2 * a.B * a.D * (a.Nq + a.Nk); }
int64_t stats_size(const Attention& a) { return 2 * a.B * (a.Nq + (a.cross ? a.Nk : 0)); }

// Returns out [B, Nq, D], and kept and stats for the backward (see saved_of).
std::tuple<Tensor, Tensor, Tensor> lag_attention_train(
    const Tensor& x, Optional key_value, std::vector<Tensor> weights, int64_t num_heads, Optional bias_table,
    Optional query_pos, Optional key_pos, Optional seed, double p) {
  const Call call = prepare(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p);
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
  const Call call = prepare(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p);
  const auto& w = call.weights;
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
  back.x = gradients.next(call.x);
  back.key_value = a.cross ? gradients.next(call.key_value) : gradients.none();
  back.norm_q.weight = gradients.next(w[0]);
  back.norm_q.bias = gradients.next(w[1]);
  if (a.cross) {
    back.norm_kv.weight = gradients.next(w[2]);
    back.norm_kv.bias = gradients.next(w[3]);
  }
  back.in_weight = gradients.next(w[4]);
  back.in_bias = gradients.next(w[5]);
  back.out_weight = gradients.next(w[6]);
  back.out_bias = gradients.next(w[7]);
  back.table = call.table.has_value() ? gradients.next(*call.table) : gradients.none();
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
