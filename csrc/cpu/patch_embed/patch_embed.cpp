// The operators of patch_embed. Features [B, L, S] have channels last, so that a patch is one row of P * S numbers and
// the embedding is a plain matrix product.

#include <tuple>

#include "cpu/base/bf16_kernels.h"
#include "cpu/base/tensors.h"

namespace xmae_fast {
namespace {

struct Sizes {
  int64_t B, N, D, S, P;
  int64_t rows() const { return B * N; }
  int64_t steps() const { return P * S; }
};

// Checks features [B, L, S] and weight [D, S, P] and returns their sizes.
Sizes sizes(const Tensor& features, const Tensor& weight) {
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
std::vector<int64_t> patch_steps(const Sizes& n) {
  std::vector<int64_t> steps;
  steps.reserve(n.steps());
  for (int64_t p = 0; p < n.P; ++p) {
    for (int64_t s = 0; s < n.S; ++s) steps.push_back(s * n.P + p);
  }
  return steps;
}

template <typename Matrix>
WeightsCache<Matrix>& cache() {
  static auto* const instance = new WeightsCache<Matrix>;  // never destroyed: threads may outlive main
  return *instance;
}

void check_tokens(const Sizes& n, const Tensor& bias, const Tensor& pos) {
  STD_TORCH_CHECK(bias.numel() == n.D, "patch_embed: expected a bias [", n.D, "], got ", bias.numel(), " numbers");
  STD_TORCH_CHECK(
      pos.numel() == n.N * n.D, "patch_embed: expected pos [1, ", n.N, ", ", n.D, "], got ", pos.numel(), " numbers");
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
  const Sizes n = sizes(features, weight);
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

// Returns a [rows, steps] of float32 or bfloat16 as bfloat16 rows of `padded` numbers with zeros at their ends, and at
// least kTileRows of them.
std::vector<Bf16> padded_rows(const Tensor& a, int64_t rows, int64_t steps, int64_t padded) {
  std::vector<Bf16> out(std::max(rows, kTileRows) * padded);
  const bool half = a.scalar_type() == ScalarType::BFloat16;
  const auto* halves = static_cast<const Bf16*>(a.const_data_ptr());
  const auto* floats = static_cast<const float*>(a.const_data_ptr());
  parallel(rows, 8192 / (steps + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      Bf16* to = out.data() + row * padded;
      for (int64_t k = 0; k < steps; ++k) to[k] = half ? halves[row * steps + k] : to_bf16(floats[row * steps + k]);
    }
  });
  return out;
}

// Returns tokens [B, N, D] in the dtype of the weight: the arguments of patch_embed, in float32 or bfloat16 each. The
// packed weight is kept.
Tensor patch_embed_bf16(const Tensor& features_, const Tensor& weight_, const Tensor& bias_, const Tensor& pos_) {
  const Tensor features = torch::stable::contiguous(features_), weight = torch::stable::contiguous(weight_);
  const Tensor bias = as_float("patch_embed", "bias", bias_), pos = as_float("patch_embed", "pos", pos_);
  const ScalarType dtype = features.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16,
      "patch_embed: the C++ kernels take float32 and bfloat16, and features is neither");
  const Sizes n = sizes(features, weight);
  check_tokens(n, bias, pos);
  Tensor out = empty({n.B, n.N, n.D});
  if (n.rows() == 0) return in_dtype_of(out, weight);
  std::vector<Bytes> bytes;
  add_bytes(bytes, weight);
  const auto pack = [&] {
    const Tensor numbers = as_float("patch_embed", "weight", weight);
    const float* from = data(numbers);
    const std::vector<int64_t> steps = patch_steps(n);
    return pack_dense_bf16(n.D, n.steps(), [&](int64_t k, int64_t d) { return from[steps[k] + d * n.steps()]; });
  };
  const int64_t half = weight.scalar_type() == ScalarType::BFloat16;
  const auto matrix = cache<Bf16Matrix>().get(bytes, pack, {n.D, n.S, n.P, half});
  const int64_t whole = round_up(n.steps(), kTileSteps);
  const bool as_it_is = dtype == ScalarType::BFloat16 && whole == n.steps() && n.rows() >= kTileRows;
  const auto copy = as_it_is ? std::vector<Bf16>{} : padded_rows(features, n.rows(), n.steps(), whole);
  const Bf16* rows = as_it_is ? static_cast<const Bf16*>(features.const_data_ptr()) : copy.data();
  need_bf16_kernels("patch_embed")
      .patch_linear(rows, n.rows(), whole, *matrix, data(bias), data(pos), n.N, mutable_data(out));
  return in_dtype_of(out, weight);
}

// Reorders from [D, P * S] to out [D, S, P].
void unpack(const float* from, const Sizes& n, float* out) {
  const std::vector<int64_t> steps = patch_steps(n);
  parallel(n.D, 8192 / n.steps() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      for (int64_t k = 0; k < n.steps(); ++k) out[d * n.steps() + steps[k]] = from[d * n.steps() + k];
    }
  });
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
  const Sizes n = sizes(features, weight);
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
