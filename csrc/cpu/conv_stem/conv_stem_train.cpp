// The operators conv_stem_train and conv_stem_train_bf16: the stem's forward when gradients are wanted.

#include "cpu/conv_stem/stem_precision.h"

namespace xmae_fast {
namespace {

// Sets the skip path's factors. x_mean: the mean of the batch, or 0 with running statistics. It is subtracted from x
// before the weight is applied, because where x hardly varies x * scale and mean * scale would be large and almost
// equal. first: the skip path's first channel in `statistics`.
template <typename Run>
void set_skip(const StemWeights& weights, int64_t first, const Statistics& statistics, double x_mean, Run& run) {
  const ConvNorm& skip = weights.stem.skip;
  run.skip_mean = static_cast<float>(x_mean);
  run.skip_scale = zeros(skip.c_out);
  run.skip_shift = zeros(skip.c_out);
  for (int64_t s = 0; s < skip.c_out; ++s) {
    const double scale = skip.gamma[s] / std::sqrt(static_cast<double>(statistics.var[first + s]) + kNormEps);
    const double mean = static_cast<double>(statistics.mean[first + s]) + statistics.mean_rest[first + s];
    run.skip_scale[s] = static_cast<float>(skip.weight[s] * scale);
    run.skip_shift[s] =
        static_cast<float>(skip.beta[s] + (skip.weight[s] * static_cast<double>(run.skip_mean) - mean) * scale);
  }
}

using Training = std::tuple<Tensor, Tensor, std::vector<Tensor>>;

// Returns features [B, L, S]; the statistics that were used [4, channels]; and the activations that the backward needs,
// which are each unit's output before BatchNorm [B, length, c_out] and each merged level [B, length, channels]. In
// bfloat16, rows of these have whole panels of channels.
template <typename Precision>
Training train(
    const Tensor& x_,             // [B, 1, L], B >= 1
    std::vector<Tensor> tensors,  // the stem's weights; see stem_weights.h
    bool batch_statistics) {
  const StemWeights weights = stem_weights(tensors);
  const Stem& stem = weights.stem;
  const Tensor x = dense("conv_stem", "x", x_);
  STD_TORCH_CHECK(x.size(0) > 0 && x.size(2) > 0, "conv_stem: expected at least one sample");
  const Precision precision;
  using Run = typename Precision::Run;
  Run run = training_run<Run>(weights, x);
  const auto first = first_channels(weights);
  const Tensor statistics_tensor = empty({4, first.back()});
  const Statistics statistics = rows_of(statistics_tensor);
  for (int conv = 0; conv < kConvs; ++conv) {
    const float *mean = data(weights.statistic(2, conv)), *var = data(weights.statistic(3, conv));
    for (int64_t c = 0; c < first[conv + 1] - first[conv]; ++c) statistics.set(first[conv] + c, {mean[c], var[c]}, 0);
  }
  for (int m = 0; m < kMerges; ++m) {
    const int64_t fine = stem.fine(m), coarse = stem.coarse(m);
    run.lateral[m] = precision.pack_mix(fine, fine, stem.lateral[m], fine, 1);
    run.reduce[m] = precision.pack_mix(fine, coarse, stem.reduce[m], coarse, 1);
  }
  std::vector<Tensor> kept;
  const auto keep = [&](int64_t rows, int64_t channels) {
    kept.push_back(Precision::pooled({run.B, rows, Run::row(channels)}));
    run.kept[kept.size() - 1] = Precision::numbers(kept.back());
  };
  for (int u = 0; u < kUnits; ++u) keep(run.length(u), stem.units[u].c_out);
  for (int m = 0; m < kMerges; ++m) keep(run.length(kMergePlan[m].fine), stem.fine(m));
  parallel(kUnits, 1, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) precision.pack_forward(stem.units[u], static_cast<int>(u), run);
  });
  for (int u = 0; u < kUnits; ++u) {
    const StemUnit& unit = stem.units[u];
    const int64_t row = Run::row(unit.c_out);
    std::vector<float> partial(run.B * 3 * row);
    precision.table.stem_forward_unit(run, u, partial.data());
    for (int64_t c = 0; batch_statistics && c < unit.c_out; ++c) {
      const auto [part, channel] = part_of(unit, c);
      statistics.set(
          first[part->conv] + channel, merge(partial.data(), run.B, row, run.length(u), c), run.B * run.length(u));
    }
    set_norm(weights, first, statistics, u, run.norms[u]);
  }
  Moments input;
  if (batch_statistics) {
    input = input_moments(precision.table, run);
    for (int64_t s = 0; s < stem.channels; ++s) {
      const double w = stem.skip.weight[s];
      statistics.set(first[kConvs - 1] + s, {w * input.mean, w * w * input.var}, run.B * run.L);
    }
  }
  set_skip(weights, first[kConvs - 1], statistics, input.mean, run);
  Tensor features = Precision::pooled({run.B, run.L, stem.channels});
  precision.table.stem_features(run, Precision::numbers(features));
  return {features, statistics_tensor, kept};
}

Training conv_stem_train(const Tensor& x, std::vector<Tensor> weights, bool batch_statistics) {
  return train<Float32Stem>(x, weights, batch_statistics);
}
Training conv_stem_train_bf16(const Tensor& x, std::vector<Tensor> weights, bool batch_statistics) {
  return train<Bf16Stem>(x, weights, batch_statistics);
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("conv_stem_train", TORCH_BOX(&xmae_fast::conv_stem_train));
  m.impl("conv_stem_train_bf16", TORCH_BOX(&xmae_fast::conv_stem_train_bf16));
}
