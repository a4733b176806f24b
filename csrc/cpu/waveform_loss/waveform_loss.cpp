// The operators of waveform_loss: they decode tokens to samples and compute the masked squared error and its gradients.

#include <tuple>

#include "cpu/base/tensors.h"

namespace xmae_fast {
namespace {

constexpr const char* kOp = "waveform_loss";

struct Sizes {
  int64_t B, N, D, P;
  int64_t rows() const { return B * N; }
};

// Checks tokens [B, N, D] and weight [D, 1, P] and returns their sizes.
Sizes sizes(const Tensor& tokens, const Tensor& weight) {
  STD_TORCH_CHECK(
      tokens.dim() == 3 && weight.dim() == 3 && weight.size(1) == 1 && weight.size(0) == tokens.size(2) &&
          weight.numel() > 0,
      "waveform_loss: expected tokens [B, N, D] and a weight [D, 1, P] that is not empty");
  return {tokens.size(0), tokens.size(1), weight.size(0), weight.size(2)};
}

// Packs the decoder. Its columns are the samples of a patch.
PackedMatrix pack_decoder(const Tensor& weight, const Sizes& n) {
  return pack_matrix(kernels().width, n.P, n.D, data(weight), 1, n.P);
}

// Returns a tensor [] of float32.
Tensor scalar(double value) {
  Tensor out = empty({});
  *mutable_data(out) = static_cast<float>(value);
  return out;
}

double sum_in_order(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum;
}

// The sum of each row of x [rows, P], and whether it has a number other than 0.
struct Patches {
  std::vector<double> sums;
  std::vector<uint8_t> used;

  Patches(const Tensor& x, int64_t rows, int64_t P) : sums(rows), used(rows) {
    kernels().patch_sums(data(x), rows, P, sums.data(), used.data());
  }
  // Returns the sum of all rows, at least 1: the denominator of the loss where x is the mask.
  double denominator() const {
    const double sum = sum_in_order(sums);
    return sum < 1.0 ? 1.0 : sum;
  }
};

// Returns the waveform [B, 1, N * P].
Tensor decode_waveform(
    const Tensor& tokens_,  // [B, N, D]
    const Tensor& weight_,  // [D, 1, P]
    const Tensor& bias_) {  // [1]
  const Tensor tokens = dense(kOp, "tokens", tokens_), weight = dense(kOp, "weight", weight_);
  const Tensor bias = dense(kOp, "bias", bias_);
  const Sizes n = sizes(tokens, weight);
  check_count(kOp, "bias", bias, 1);
  Tensor out = empty({n.B, 1, n.N * n.P});
  if (n.rows() == 0) return out;
  const std::vector<float> every_sample(n.P, *data(bias));
  kernels().patch_linear(
      data(tokens), n.rows(), n.D, pack_decoder(weight, n), every_sample.data(), nullptr, 1, mutable_data(out));
  return out;
}

// Returns the loss [] and its gradient by the prediction [B, L], which is empty unless wanted.
std::tuple<Tensor, Tensor> masked_mse(
    const Tensor& prediction_,  // [B, L]
    const Tensor& target_,      // [B, L]
    const Tensor& mask_,        // [B, L]
    bool want_gradient) {
  const Tensor prediction = dense(kOp, "prediction", prediction_), target = dense(kOp, "target", target_);
  const Tensor mask = dense(kOp, "mask", mask_);
  STD_TORCH_CHECK(prediction.dim() == 2, "waveform_loss: expected prediction [B, L]");
  const int64_t B = prediction.size(0), L = prediction.size(1);
  check_count(kOp, "target", target, B * L);
  check_count(kOp, "mask", mask, B * L);
  Tensor gradient = want_gradient ? empty({B, L}) : empty({0});
  if (B * L == 0) return {scalar(0.0), gradient};
  const double denominator = Patches(mask, B, L).denominator();
  const ErrorTerms terms{
      .target = data(target),
      .mask = data(mask),
      .gradient = want_gradient ? mutable_data(gradient) : nullptr,
      .factor = static_cast<float>(2.0 / denominator),
      .P = L,
  };
  std::vector<double> sums(B);
  kernels().squared_errors(data(prediction), terms, B, sums.data());
  return {scalar(sum_in_order(sums) / denominator), gradient};
}

// Returns the loss [] and its gradient by the decoded waveform [B, 1, L], which is empty unless wanted.
std::tuple<Tensor, Tensor> waveform_loss(
    const Tensor& tokens_,  // [B, N, D]
    const Tensor& weight_,  // [D, 1, P]
    const Tensor& bias_,    // [1]
    const Tensor& target_,  // [B, 1, L]
    const Tensor& mask_,    // [B, 1, L]
    bool want_gradient) {
  const Tensor tokens = dense(kOp, "tokens", tokens_), weight = dense(kOp, "weight", weight_);
  const Tensor bias = dense(kOp, "bias", bias_);
  const Tensor target = dense(kOp, "target", target_), mask = dense(kOp, "mask", mask_);
  const Sizes n = sizes(tokens, weight);
  check_count(kOp, "bias", bias, 1);
  check_count(kOp, "target", target, n.rows() * n.P);
  check_count(kOp, "mask", mask, n.rows() * n.P);
  Tensor gradient = want_gradient ? empty({n.B, 1, n.N * n.P}) : empty({0});
  if (n.rows() == 0) return {scalar(0.0), gradient};
  const Patches patches(mask, n.rows(), n.P);
  const double denominator = patches.denominator();
  const ErrorTerms terms{
      .target = data(target),
      .mask = data(mask),
      .gradient = want_gradient ? mutable_data(gradient) : nullptr,
      .factor = static_cast<float>(2.0 / denominator),
      .P = n.P,
  };
  std::vector<double> sums(n.rows());
  kernels().waveform_errors(
      data(tokens), n.D, pack_decoder(weight, n), *data(bias), terms, patches.used.data(), n.rows(), sums.data());
  return {scalar(sum_in_order(sums) / denominator), gradient};
}

// Returns the gradients of tokens [B, N, D], weight [D, 1, P] and bias [1]. Those that are not wanted are empty.
// Patches whose gradient is zero contribute nothing, whatever their tokens contain (NaN, for example).
std::tuple<Tensor, Tensor, Tensor> decode_waveform_backward(
    const Tensor& gradient_,       // [B, 1, L]: gradient of the waveform
    std::optional<Tensor> scale_,  // []: a factor of the gradient, or none
    const Tensor& tokens_,         // [B, N, D]
    const Tensor& weight_,         // [D, 1, P]
    bool want_tokens, bool want_weight) {
  const Tensor gradient = dense(kOp, "gradient", gradient_), tokens = dense(kOp, "tokens", tokens_);
  const Tensor weight = dense(kOp, "weight", weight_);
  const Sizes n = sizes(tokens, weight);
  check_count(kOp, "gradient", gradient, n.rows() * n.P);
  float scale = 1.0f;
  if (scale_.has_value()) {
    check_count(kOp, "scale", *scale_, 1);
    scale = *data(dense(kOp, "scale", *scale_));
  }
  Tensor tokens_grad = want_tokens ? empty({n.B, n.N, n.D}) : empty({0});
  Tensor weight_grad = want_weight ? empty({n.D, 1, n.P}) : empty({0});
  Tensor bias_grad = want_weight ? empty({1}) : empty({0});
  const Patches patches(gradient, n.rows(), n.P);
  if (want_tokens) {
    const PackedMatrix matrix = pack_matrix(kernels().width, n.D, n.P, data(weight), n.P, 1);
    kernels().waveform_token_gradient(
        data(gradient), n.P, matrix, scale, patches.used.data(), n.rows(), mutable_data(tokens_grad));
  }
  if (want_weight) {
    float* by_sample = scratch(kSlotGradient, n.P * n.D);
    kernels().waveform_weight_gradient(
        data(gradient), data(tokens), patches.used.data(), n.rows(), n.P, n.D, by_sample);
    float* out = mutable_data(weight_grad);
    for (int64_t d = 0; d < n.D; ++d) {
      for (int64_t p = 0; p < n.P; ++p) out[d * n.P + p] = scale * by_sample[p * n.D + d];
    }
    *mutable_data(bias_grad) = static_cast<float>(scale * sum_in_order(patches.sums));
  }
  return {tokens_grad, weight_grad, bias_grad};
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("decode_waveform", TORCH_BOX(&xmae_fast::decode_waveform));
  m.impl("decode_waveform_backward", TORCH_BOX(&xmae_fast::decode_waveform_backward));
  m.impl("masked_mse", TORCH_BOX(&xmae_fast::masked_mse));
  m.impl("waveform_loss", TORCH_BOX(&xmae_fast::waveform_loss));
}
