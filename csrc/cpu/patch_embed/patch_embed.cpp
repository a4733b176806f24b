// The operators of patch_embed. Features [B, L, S] have channels last, so that a patch is one row of P * S numbers and
// the embedding is a plain matrix product.

#include <tuple>

#include "cpu/patch_embed/patch_embed_call.h"

namespace xmae_fast {
namespace {

template <typename Matrix>
WeightsCache<Matrix>& cache() {
  static auto* const instance = new WeightsCache<Matrix>;  // never destroyed: threads may outlive main
  return *instance;
}

// Returns tokens [B, N, D].
Tensor patch_embed(
    const Tensor& features_,  // [B, L, S]
    const Tensor& weight_,    // [D, S, P]
    const Tensor& bias_,      // [D]
    const Tensor& pos_,       // [1, N, D]
    bool keep) {              // keep the packed weights, because the next call may have the same ones
  const Tensor features = dense("patch_embed", "features", features_), weight = dense("patch_embed", "weight", weight_);
  const Tensor bias = dense("patch_embed", "bias", bias_), pos = dense("patch_embed", "pos", pos_);
  const PatchSizes n = patch_sizes(features, weight);
  check_tokens(n, bias, pos);
  Tensor out = empty({n.B, n.N, n.D});
  const auto pack = [&] {
    return pack_separable(kernels().width, data(weight), patch_steps(n), places(n.D, n.steps()));
  };
  const auto run = [&](const PackedMatrix& matrix) {
    kernels().patch_linear(data(features), n.rows(), n.steps(), matrix, data(bias), data(pos), n.N, mutable_data(out));
  };
  if (n.rows() == 0) return out;
  if (keep) {
    std::vector<Bytes> bytes;
    add_bytes(bytes, weight);
    const std::vector<int64_t> shape{n.D, n.S, n.P};
    if (const SplitKernels* split = kernels().split) {
      const auto pack_parts = [&] {
        const std::vector<int64_t> steps = patch_steps(n);
        const float* from = data(weight);
        const auto value = [&](int64_t k, int64_t d) { return from[steps[k] + d * n.steps()]; };
        return pack_dense_bf16<SplitMatrix>(n.D, n.steps(), value, 3, split_part(n.steps()));
      };
      const auto matrix = cache<SplitMatrix>().get(bytes, pack_parts, shape);
      split->patch_linear(data(features), n.rows(), n.steps(), *matrix, data(bias), data(pos), n.N, mutable_data(out));
    } else {
      run(*cache<PackedMatrix>().get(bytes, pack, shape));
    }
  } else {
    run(pack());
  }
  return out;
}

// Returns tokens [B, N, D] in the dtype of the weight: the arguments of patch_embed, in float32 or bfloat16 each. The
// packed weight is kept.
Tensor patch_embed_bf16(const Tensor& features, const Tensor& weight_, const Tensor& bias, const Tensor& pos) {
  const Tensor weight = torch::stable::contiguous(weight_);
  const PatchSizes n = patch_sizes(features, weight);
  std::vector<Bytes> bytes;
  add_bytes(bytes, weight);
  const int64_t half = weight.scalar_type() == ScalarType::BFloat16;
  const auto pack = [&] { return pack_patch_weight(n, weight, false); };
  return patch_tokens(n, features, weight, bias, pos, *cache<Bf16Matrix>().get(bytes, pack, {n.D, n.S, n.P, half}));
}

// Returns the gradients of features [B, L, S], weight [D, S, P], bias [D] and pos [1, N, D]. Those that are not wanted
// are empty.
std::tuple<Tensor, Tensor, Tensor, Tensor> patch_embed_backward(
    const Tensor& grad_,      // [B, N, D]
    const Tensor& features_,  // [B, L, S]
    const Tensor& weight_,    // [D, S, P]
    bool want_features, bool want_weight,
    bool want_sums) {  // the gradients of bias and pos
  const Tensor grad = dense("patch_embed", "grad", grad_), features = dense("patch_embed", "features", features_);
  const Tensor weight = dense("patch_embed", "weight", weight_);
  const PatchSizes n = patch_sizes(features, weight);
  STD_TORCH_CHECK(grad.numel() == n.rows() * n.D, "patch_embed: expected grad [", n.B, ", ", n.N, ", ", n.D, "]");
  Tensor features_grad = want_features ? empty({n.B, n.N * n.P, n.S}) : empty({0});
  Tensor weight_grad = want_weight ? empty({n.D, n.S, n.P}) : empty({0});
  Tensor bias_grad = want_sums ? empty({n.D}) : empty({0}), pos_grad = want_sums ? empty({1, n.N, n.D}) : empty({0});
  if (want_features && n.rows() > 0) {
    const PackedMatrix matrix = pack_separable(kernels().width, data(weight), places(n.D, n.steps()), patch_steps(n));
    kernels().patch_linear(data(grad), n.rows(), n.D, matrix, nullptr, nullptr, 1, mutable_data(features_grad));
  }
  if (want_weight) {
    float* by_step = scratch(kSlotGradient, n.D * n.steps());
    kernels().patch_outer(data(grad), n.D, data(features), n.steps(), n.rows(), by_step);
    unpack(by_step, n, mutable_data(weight_grad));
  }
  if (want_sums) {
    kernels().column_sums(data(grad), n.B, n.N * n.D, mutable_data(pos_grad));
    kernels().column_sums(data(pos_grad), n.N, n.D, mutable_data(bias_grad));
  }
  return {features_grad, weight_grad, bias_grad, pos_grad};
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("patch_embed", TORCH_BOX(&xmae_fast::patch_embed));
  m.impl("patch_embed_bf16", TORCH_BOX(&xmae_fast::patch_embed_bf16));
  m.impl("patch_embed_backward", TORCH_BOX(&xmae_fast::patch_embed_backward));
}
