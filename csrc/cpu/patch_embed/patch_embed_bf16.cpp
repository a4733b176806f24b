// patch_embed in bfloat16: what its operators for inference and for training share, and the operators for training,
// patch_embed_train_bf16 and patch_embed_backward_bf16. Tensors may be in float32 or bfloat16.

#include <tuple>

#include "cpu/patch_embed/patch_embed_call.h"

namespace xmae_fast {
namespace {

constexpr const char* kOp = "patch_embed";

bool is_half(const Tensor& features) {
  const ScalarType dtype = features.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16, kOp,
      ": the C++ kernels take float32 and bfloat16, and features is neither");
  return dtype == ScalarType::BFloat16;
}

// Returns features as bfloat16 rows [B N, P S] of `padded` numbers with zeros at their ends, and at least kTileRows rows.
Tensor padded_rows(const Bf16Kernels& table, const Tensor& features, const PatchSizes& n, int64_t padded) {
  const Tensor out = pooled_bf16({std::max(n.rows(), kTileRows), padded});
  Bf16* to = mutable_halves(out);
  if (!is_half(features)) {
    table.round_rows(data(features), n.rows(), n.steps(), to, padded);
    return out;
  }
  const auto* from = static_cast<const Bf16*>(features.const_data_ptr());
  for (int64_t row = 0; row < n.rows(); ++row) {
    std::copy_n(from + row * n.steps(), n.steps(), to + row * padded);
    std::fill(to + row * padded + n.steps(), to + (row + 1) * padded, Bf16{0});
  }
  return out;
}

// Returns tokens [B, N, D] in the dtype of the weight, like patch_embed_bf16, but packs the weight in every call.
Tensor patch_embed_train_bf16(const Tensor& features, const Tensor& weight, const Tensor& bias, const Tensor& pos) {
  const PatchSizes n = patch_sizes(features, weight);
  return patch_tokens(n, features, weight, bias, pos, pack_patch_weight(n, weight, false));
}

// Returns the gradients of features [B, L, S], weight [D, S, P], bias [D] and pos [1, N, D], the first in the dtype of
// features and the others in that of the weight. Those that are not wanted are empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> patch_embed_backward_bf16(
    const Tensor& grad_,      // [B, N, D]
    const Tensor& features_,  // [B, L, S]
    const Tensor& weight,     // [D, S, P]
    bool want_features, bool want_weight,
    bool want_sums) {  // the gradients of bias and pos
  const Bf16Kernels& table = need_bf16_kernels(kOp);
  const Tensor grad = as_float(kOp, "grad", grad_), features = torch::stable::contiguous(features_);
  const PatchSizes n = patch_sizes(features, weight);
  STD_TORCH_CHECK(grad.numel() == n.rows() * n.D, kOp, ": expected grad [", n.B, ", ", n.N, ", ", n.D, "]");
  const bool half = is_half(features);
  const auto empty_features = [&](std::initializer_list<int64_t> sizes) {
    return half ? empty_bf16(sizes) : empty(sizes);
  };
  Tensor features_grad = want_features ? empty_features({n.B, n.N * n.P, n.S}) : empty_features({0});
  Tensor weight_grad = want_weight ? empty({n.D, n.S, n.P}) : empty({0});
  Tensor bias_grad = want_sums ? empty({n.D}) : empty({0}), pos_grad = want_sums ? empty({1, n.N, n.D}) : empty({0});
  want_features = want_features && n.rows() > 0;
  const Bf16Matrix matrix = want_features ? pack_patch_weight(n, weight, true) : Bf16Matrix{};
  const int64_t rounded = (n.rows() + kTileRows) * bf16_stride(n.D), across = transposed_size(n.rows(), n.D);
  const Tensor room = pooled_bf16({rounded + across + paired_size(n.rows(), n.steps())});
  float* by_step = want_weight ? scratch(kSlotGradient, n.D * n.steps()) : nullptr;
  table.patch_backward({
      .rows = n.rows(),
      .D = n.D,
      .steps = n.steps(),
      .grad = data(grad),
      .features = features.const_data_ptr(),
      .half = half,
      .matrix = &matrix,
      .features_grad = want_features ? features_grad.mutable_data_ptr() : nullptr,
      .weight_grad = by_step,
      .rounded = mutable_halves(room),
      .across = mutable_halves(room) + rounded,
      .paired = mutable_halves(room) + rounded + across,
  });
  if (want_weight) unpack(by_step, n, mutable_data(weight_grad));
  if (want_sums) {
    kernels().column_sums(data(grad), n.B, n.N * n.D, mutable_data(pos_grad));
    kernels().column_sums(data(pos_grad), n.N, n.D, mutable_data(bias_grad));
  }
  const auto as_weight = [&](const Tensor& x) { return in_dtype_of(x, weight); };
  return {features_grad, as_weight(weight_grad), as_weight(bias_grad), as_weight(pos_grad)};
}

}  // namespace

Bf16Matrix pack_patch_weight(const PatchSizes& n, const Tensor& weight, bool backward) {
  const Tensor numbers = as_float(kOp, "weight", weight);
  const float* from = data(numbers);
  const Tensor ordered = pooled({n.D, n.steps()});  // [D, P, S]
  float* to = mutable_data(ordered);
  parallel(n.D, 8192 / n.steps() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      const float* row = from + d * n.steps();
      for (int64_t p = 0; p < n.P; ++p) {
        for (int64_t s = 0; s < n.S; ++s) to[d * n.steps() + p * n.S + s] = row[s * n.P + p];
      }
    }
  });
  return backward ? pack_matrix_bf16(n.steps(), n.D, to, 1, n.steps())
                  : pack_matrix_bf16(n.D, n.steps(), to, n.steps(), 1);
}

Tensor patch_tokens(
    const PatchSizes& n, const Tensor& features_, const Tensor& weight, const Tensor& bias_, const Tensor& pos_,
    const Bf16Matrix& matrix) {
  const Bf16Kernels& table = need_bf16_kernels(kOp);
  const Tensor features = torch::stable::contiguous(features_);
  const Tensor bias = as_float(kOp, "bias", bias_), pos = as_float(kOp, "pos", pos_);
  check_tokens(n, bias, pos);
  Tensor out = empty({n.B, n.N, n.D});
  if (n.rows() == 0) return in_dtype_of(out, weight);
  const int64_t whole = round_up(n.steps(), kPairWidth);
  const bool as_it_is = is_half(features) && whole == n.steps() && n.rows() >= kTileRows;
  const Tensor rows = as_it_is ? features : padded_rows(table, features, n, whole);
  table.patch_linear(
      static_cast<const Bf16*>(rows.const_data_ptr()), n.rows(), whole, matrix, data(bias), data(pos), n.N,
      mutable_data(out));
  return in_dtype_of(out, weight);
}

}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("patch_embed_train_bf16", TORCH_BOX(&xmae_fast::patch_embed_train_bf16));
  m.impl("patch_embed_backward_bf16", TORCH_BOX(&xmae_fast::patch_embed_backward_bf16));
}
