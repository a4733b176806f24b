// The operators conv_stem_eval and conv_stem_eval_bf16: the stem in evaluation, with BatchNorm folded into the weights.

#include <cmath>

#include "cpu/base/bf16_kernels.h"
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

// How the weights are laid out for one precision. row: returns how many numbers a row of an activation has.
struct Float32Layout {
  using Matrix = PackedMatrix;
  int64_t width = kernels().width;
  int64_t row(int64_t channels) const { return channels; }
  Matrix unit(const StemUnit& unit, const float* scale) const {
    Matrix matrix = pack_forward(width, unit, scale);
    // With running statistics rounding is not amplified from layer to layer, so that even long chains of sums have a
    // smaller error than torch.
    matrix.chain = 256;
    return matrix;
  }
  Matrix mix(int64_t columns, int64_t steps, const float* weights) const {
    return pack_matrix(width, columns, steps, weights, steps, 1);
  }
};
struct Bf16Layout {
  using Matrix = Bf16Matrix;
  int64_t width = kTileColumns;
  int64_t row(int64_t channels) const { return round_up(channels, kPairWidth); }
  Matrix unit(const StemUnit& unit, const float* scale) const {
    return pack_bf16(unit.c_out, forward_runs(unit, row(unit.c_in)), ForwardWeights{unit, scale});
  }
  Matrix mix(int64_t columns, int64_t steps, const float* weights) const {
    return pack_matrix_bf16(columns, steps, weights, steps, 1);
  }
};

struct SplitLayout {  // without the cache line more that split_part has: activations of a sample lie together
  using Matrix = SplitMatrix;
  int64_t width = kTileColumns;
  int64_t part(int64_t channels) const { return round_up(channels, kPairWidth); }
  int64_t row(int64_t channels) const { return 3 * part(channels); }
  Matrix unit(const StemUnit& unit, const float* scale) const {
    return pack_bf16<SplitMatrix>(
        unit.c_out, forward_runs(unit, row(unit.c_in)), ForwardWeights{unit, scale}, 3, part(unit.c_in));
  }
  Matrix mix(int64_t columns, int64_t steps, const float* weights) const {
    return pack_bf16<SplitMatrix>(
        columns, {{0, steps}}, [=](int64_t, int64_t n) { return RunWeights{weights + n * steps, 1, 1.0f}; }, 3,
        part(steps));
  }
};

// Folds BatchNorm into the weights and packs them.
template <typename Layout>
FoldedStem<typename Layout::Matrix> fold(const Stem& stem, const Layout& layout) {
  FoldedStem<typename Layout::Matrix> folded;
  for (int u = 0; u < kUnits; ++u) {
    const StemUnit& unit = stem.units[u];
    Fold norm;
    for (int p = 0; p < unit.num_parts; ++p) norm.add(unit.parts[p]);
    const auto finish = [&](auto& to) {
      to.bias = padded(norm.shift, layout.width);
      to.stride = unit.stride;
      to.reach = unit.window / 2;
    };
    if (u == 0) {
      folded.first.matrix = Float32Layout{layout.width}.unit(unit, norm.scale.data());
      finish(folded.first);
    } else {
      folded.units[u].matrix = layout.unit(unit, norm.scale.data());
      finish(folded.units[u]);
    }
  }
  for (int m = 0; m < kMerges; ++m) {
    folded.lateral[m] = layout.mix(stem.fine(m), stem.fine(m), stem.lateral[m]);
    folded.reduce[m] = layout.mix(stem.fine(m), stem.coarse(m), stem.reduce[m]);
  }
  Fold skip;
  skip.add(stem.skip);
  for (int64_t s = 0; s < stem.channels; ++s) skip.scale[s] *= stem.skip.weight[s];
  folded.skip_scale = padded(skip.scale, layout.width);
  folded.skip_shift = padded(skip.shift, layout.width);
  for (int level = 0; level < 3; ++level) folded.widths[level] = layout.row(stem.widths[level]);
  folded.channels = stem.channels;
  return folded;
}

template <typename Matrix>
WeightsCache<FoldedStem<Matrix>>& cache() {
  static auto* const instance = new WeightsCache<FoldedStem<Matrix>>;  // never destroyed: threads may outlive main
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
  Tensor out = empty({B, L, weights.stem.channels});
  if (const SplitKernels* split = kernels().split) {
    const auto folded = cache<SplitMatrix>().get(bytes, [&] { return fold(weights.stem, SplitLayout{}); });
    split->stem_eval(*folded, data(x), B, L, mutable_data(out));
  } else {
    const auto folded = cache<PackedMatrix>().get(bytes, [&] { return fold(weights.stem, Float32Layout{}); });
    kernels().stem_eval(*folded, data(x), B, L, mutable_data(out));
  }
  return out;
}

// Returns features [B, L, S] in bfloat16. The stem's weights are float32 or bfloat16.
Tensor conv_stem_eval_bf16(const Tensor& x_, std::vector<Tensor> tensors) {
  const Tensor x = as_float("conv_stem", "x", x_);
  const int64_t B = x.size(0), L = x.size(2);
  std::vector<Bytes> bytes;
  std::vector<int64_t>
      shape;  // the weights are checked only when they are packed, so others of these bytes must not fit
  std::vector<Tensor> whole;
  for (const Tensor& w : tensors) {
    whole.push_back(w.is_contiguous() ? w : torch::stable::contiguous(w));
    add_bytes(bytes, whole.back());
    for (int64_t d = 0; d < w.dim(); ++d) shape.push_back(w.size(d));
    shape.push_back(w.scalar_type() == ScalarType::Float ? -1 : -2);
  }
  const auto build = [&] {
    const StemWeights weights = stem_weights(as_float("conv_stem", "a weight", tensors));
    return fold(weights.stem, Bf16Layout{});
  };
  const auto folded = cache<Bf16Matrix>().get(bytes, build, shape);
  Tensor out = empty_bf16({B, L, folded->channels});
  need_bf16_kernels("conv_stem").stem_eval(*folded, data(x), B, L, static_cast<Bf16*>(out.mutable_data_ptr()));
  return out;
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("conv_stem_eval", TORCH_BOX(&xmae_fast::conv_stem_eval));
  m.impl("conv_stem_eval_bf16", TORCH_BOX(&xmae_fast::conv_stem_eval_bf16));
}
