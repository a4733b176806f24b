// The operator conv_stem_eval: the stem in evaluation, with BatchNorm folded into the weights.

#include <cmath>

#include "cpu/conv_stem/stem_weights.h"

namespace xmae_fast {
namespace {

// BatchNorm with running statistics as y * scale + shift: scale = gamma / sqrt(var + eps), shift = beta - mean * scale.
// Both are computed in double.
struct Fold {
  std::vector<float> scale, shift;

  void add(const ConvNorm& norm) {
    for (int64_t c = 0; c < norm.c_out; ++c) {
      const double factor = norm.gamma[c] / std::sqrt(static_cast<double>(norm.var[c]) + kNormEps);
      scale.push_back(static_cast<float>(factor));
      shift.push_back(static_cast<float>(norm.beta[c] - norm.mean[c] * factor));
    }
  }
};

// Returns the values with zeros after them, up to whole panels.
AlignedFloats padded(const std::vector<float>& values, int64_t width) {
  const int64_t count = static_cast<int64_t>(values.size());
  AlignedFloats out = aligned_floats(round_up(count, kPanelVectors * width));
  std::fill_n(out.get(), round_up(count, kPanelVectors * width), 0.0f);
  std::copy_n(values.data(), count, out.get());
  return out;
}

// Folds BatchNorm into the weights and packs them for vectors of `width` floats.
FoldedStem fold(const Stem& stem, int64_t width) {
  FoldedStem folded;
  for (int u = 0; u < kUnits; ++u) {
    const StemUnit& unit = stem.units[u];
    Fold norm;
    for (int p = 0; p < unit.num_parts; ++p) norm.add(unit.parts[p]);
    folded.units[u] = {
        .matrix = pack_forward(width, unit, norm.scale.data()),
        .bias = padded(norm.shift, width),
        .stride = unit.stride,
        .reach = unit.window / 2,
    };
  }
  // With running statistics rounding is not amplified from layer to layer, so that even long chains of sums have a
  // smaller error than torch.
  for (FoldedUnit& unit : folded.units) unit.matrix.chain = 256;
  for (int m = 0; m < kMerges; ++m) {
    folded.lateral[m] = pack_lateral(width, stem, m);
    folded.reduce[m] = pack_reduce(width, stem, m);
  }
  Fold skip;
  skip.add(stem.skip);
  for (int64_t s = 0; s < stem.channels; ++s) skip.scale[s] *= stem.skip.weight[s];
  folded.skip_scale = padded(skip.scale, width);
  folded.skip_shift = padded(skip.shift, width);
  std::copy_n(stem.widths, 3, folded.widths);
  folded.channels = stem.channels;
  return folded;
}

WeightsCache<FoldedStem>& cache() {
  static auto* const instance = new WeightsCache<FoldedStem>;  // never destroyed: threads may outlive main
  return *instance;
}

// Returns features [B, L, S].
Tensor conv_stem_eval(
    const Tensor& x_,               // [B, 1, L]
    std::vector<Tensor> tensors) {  // the stem's weights; see stem_weights.h
  const StemWeights weights = stem_weights(tensors);
  const Tensor x = dense("conv_stem", "x", x_);
  const int64_t B = x.size(0), L = x.size(2);
  std::vector<Bytes> bytes;
  for (const Tensor& w : weights.tensors) add_bytes(bytes, w);
  const auto folded = cache().get(bytes, [&] { return fold(weights.stem, kernels().width); });
  Tensor out = empty({B, L, weights.stem.channels});
  kernels().stem_eval(*folded, data(x), B, L, mutable_data(out));
  return out;
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) { m.impl("conv_stem_eval", TORCH_BOX(&xmae_fast::conv_stem_eval)); }
