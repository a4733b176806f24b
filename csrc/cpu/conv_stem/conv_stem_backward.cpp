// The operators conv_stem_backward and conv_stem_backward_bf16: gradients of all of the stem's weights, and of x if wanted.

#include "cpu/conv_stem/stem_precision.h"

namespace xmae_fast {
namespace {

// The gradients as tensors, in the order of the weights: 30 convolutions, 4 mixes, 30 gammas, 30 betas. The gradient of
// x is added at the end; it is empty unless wanted.
struct Gradients {
  std::vector<Tensor> tensors;

  explicit Gradients(const StemWeights& weights) {
    for (int i = 0; i < kConvs + kMixes; ++i) {
      const Tensor& w = weights.tensors[i];
      tensors.push_back(empty({w.size(0), w.size(1), w.size(2)}));
    }
    for (int i = 0; i < 2 * kConvs; ++i) tensors.push_back(empty({weights.weight(i % kConvs).size(0)}));
  }
  float* weight(int conv) const { return mutable_data(tensors[conv]); }
  float* mix(int i) const { return mutable_data(tensors[kConvs + i]); }
  float* gamma(int conv) const { return mutable_data(tensors[kConvs + kMixes + conv]); }
  float* beta(int conv) const { return mutable_data(tensors[2 * kConvs + kMixes + conv]); }
};

// Writes the gradients of the weights of unit u, which are laid out as weight_floats() says, in the published layout.
void write_weights(const Float32Stem&, const StemWeights& weights, int u, const float* from, const Gradients& out) {
  const StemUnit& unit = weights.stem.units[u];
  for (int p = 0; p < unit.num_parts; ++p) {
    const ConvNorm& part = unit.parts[p];
    float* to = out.weight(part.conv);
    for (int64_t o = 0; o < part.c_out; ++o) {
      for (int64_t t = 0; t < part.k; ++t, from += unit.c_in) {
        for (int i = 0; i < unit.num_in; ++i) {
          float* row = to + (o * unit.c_in + unit.in_published[i]) * part.k + t;
          for (int64_t c = 0; c < unit.in_size[i]; ++c) row[c * part.k] = from[unit.in_start[i] + c];
        }
      }
    }
  }
  if (const int m = merge_of(u); m >= 0) {
    const int64_t fine = weights.stem.fine(m);
    std::copy_n(from, fine * fine, out.mix(m));
    std::copy_n(from + fine * fine, fine * weights.stem.coarse(m), out.mix(kMerges + m));
  }
}

// Writes the gradients of a unit's weights from blocks; see stem_blocks.h. outs: those of each part. Returns the end of
// the blocks.
const float* write_blocks(const StemUnit& unit, const float* blocks, float* const (&outs)[3]) {
  const auto published = [&](int64_t c) {
    int i = 0;
    while (c >= unit.in_start[i] + unit.in_size[i]) ++i;
    return unit.in_published[i] + c - unit.in_start[i];
  };
  const int64_t in_blocks = (unit.c_in + kPairWidth - 1) / kPairWidth;
  for (int64_t first = 0; first < unit.c_out; first += kPairWidth) {
    const Taps taps = taps_from(unit, first);
    const int64_t last = std::min(first + kPairWidth, unit.c_out);
    parallel(unit.c_in, 16, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const float* from = blocks + c / kPairWidth * taps.count * kBlockFloats + c % kPairWidth * kPairWidth;
        const int64_t to = published(c);
        for (int64_t column = first; column < last; ++column) {
          const auto [part, channel] = part_of(unit, column);
          float* out = outs[part - unit.parts] + (channel * unit.c_in + to) * part->k;
          const int64_t skipped = (unit.window - part->k) / 2 - taps.first;
          for (int64_t t = 0; t < part->k; ++t) out[t] = from[(skipped + t) * kBlockFloats + column - first];
        }
      }
    });
    blocks += in_blocks * taps.count * kBlockFloats;
  }
  return blocks;
}

void write_weights(const Bf16Stem&, const StemWeights& weights, int u, const float* from, const Gradients& out) {
  if (u == 0) return write_weights(Float32Stem{}, weights, u, from, out);
  const Stem& stem = weights.stem;
  const StemUnit& unit = stem.units[u];
  float* outs[3] = {};
  for (int p = 0; p < unit.num_parts; ++p) outs[p] = out.weight(unit.parts[p].conv);
  from = write_blocks(unit, from, outs);
  if (const int m = merge_of(u); m >= 0) {
    from = write_blocks(mix_unit(stem.fine(m), stem.fine(m)), from, {out.mix(m), nullptr, nullptr});
    write_blocks(mix_unit(stem.coarse(m), stem.fine(m)), from, {out.mix(kMerges + m), nullptr, nullptr});
  }
}

// Adds up the gradients of weights, sums [groups, count], of the groups of samples, in order, to those of the first.
void add_groups(int64_t groups, int64_t count, float* sums) {
  parallel(count, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t group = 1; group < groups; ++group) {
      const float* from = sums + group * count;
      for (int64_t i = begin; i < end; ++i) sums[i] += from[i];
    }
  });
}

// Adds up both sums of channel c, of sums [B, 2, channels], over the samples in order.
std::pair<double, double> over_samples(const std::vector<float>& sums, int64_t B, int64_t channels, int64_t c) {
  double first = 0.0, second = 0.0;
  for (int64_t b = 0; b < B; ++b) {
    first += sums[b * 2 * channels + c];
    second += sums[(b * 2 + 1) * channels + c];
  }
  return {first, second};
}

// Writes the gradients of gamma and beta of unit u, and fills back.units[u].
template <typename Back>
void use_sums(
    const StemWeights& weights, int u,
    const std::vector<float>& sums,  // [B, 2, row(c_out)]: sums of dz and of dz * (y - mean)
    bool batch_statistics, Back& back, const Gradients& out) {
  const StemUnit& unit = weights.stem.units[u];
  const UnitNorm& norm = back.run->norms[u];
  const int64_t B = back.run->B, channels = unit.c_out;
  const double n = static_cast<double>(B * back.run->length(u));
  back.units[u] = {zeros(channels), zeros(channels), zeros(channels)};
  for (int64_t c = 0; c < channels; ++c) {
    const auto [total, distances] = over_samples(sums, B, back.run->row(channels), c);
    const double product = distances - norm.mean_rest[c] * total;
    const auto [part, channel] = part_of(unit, c);
    const int conv = part->conv;
    const double invstd = norm.invstd[c], gain = part->gamma[channel] * invstd;
    out.gamma(conv)[channel] = static_cast<float>(product * invstd);
    out.beta(conv)[channel] = static_cast<float>(total);
    back.units[u].gain[c] = static_cast<float>(gain);
    if (!batch_statistics) continue;
    const double slope = -gain * invstd * invstd * product / n;
    back.units[u].offset[c] = static_cast<float>(gain * total / n + slope * norm.mean_rest[c]);
    back.units[u].slope[c] = static_cast<float>(slope);
  }
}

// Writes the gradients of the skip path. It is an affine function of x, so they follow from P = sum g and
// Q = sum g (x - x_mean). The sums are taken about x_mean rounded to float, which is corrected here.
template <typename Number, typename Run>
void skip_gradients(
    const StemWeights& weights,
    const std::vector<float>& sums,  // [B, 2, row(S)]
    const Statistics& statistics,
    int64_t first,  // the skip path's first channel in `statistics`
    double x_mean, bool batch_statistics,
    const Number* grad,  // [B, L, S]
    const Run& run, const Gradients& out,
    float* dx) {  // [B, L], added to; or null
  const ConvNorm& skip = weights.stem.skip;
  const int64_t S = skip.c_out, B = run.B, L = run.L;
  const double n = static_cast<double>(B * L);
  std::vector<float> gain(S), offset(S), slope(S);
  for (int64_t s = 0; s < S; ++s) {
    const auto [P, distances] = over_samples(sums, B, Run::row(S), s);
    const double Q = distances - (x_mean - static_cast<float>(x_mean)) * P;
    const double w = skip.weight[s],
                 invstd = 1.0 / std::sqrt(static_cast<double>(statistics.var[first + s]) + kNormEps);
    const double product =
        batch_statistics ? w * Q : w * Q + (w * x_mean - statistics.mean[first + s]) * P;  // sum g (y - mean)
    out.gamma(kConvs - 1)[s] = static_cast<float>(invstd * product);
    out.beta(kConvs - 1)[s] = static_cast<float>(P);
    // Normalisation by the batch undoes all of the weight's effect but the share of eps.
    const double batch = skip.gamma[s] * invstd * invstd * invstd * kNormEps * Q;
    out.weight(kConvs - 1)[s] =
        static_cast<float>(batch_statistics ? batch : skip.gamma[s] * invstd * (Q + x_mean * P));
    gain[s] = static_cast<float>(w * skip.gamma[s] * invstd);
    offset[s] = batch_statistics ? static_cast<float>(gain[s] * P / n) : 0.0f;
    slope[s] = batch_statistics ? static_cast<float>(-gain[s] * w * invstd * invstd * product / n) : 0.0f;
  }
  if (dx == nullptr) return;
  parallel(B * L, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double total = 0.0;
      const double distance = run.x[i] - x_mean;
      for (int64_t s = 0; s < S; ++s) total += gain[s] * to_float(grad[i * S + s]) - offset[s] + slope[s] * distance;
      dx[i] += static_cast<float>(total);
    }
  });
}

// Returns the gradients in the order of `Gradients`, in float32.
template <typename Precision>
std::vector<Tensor> backward(
    const Tensor& grad_,          // [B, L, S]: gradient of the features
    const Tensor& x_,             // [B, 1, L]
    std::vector<Tensor> tensors,  // the stem's weights, without running statistics; see stem_weights.h
    const Tensor& statistics_,    // [4, channels], as the forward returned them
    std::vector<Tensor> kept_,    // as the forward returned them
    bool batch_statistics, bool want_x) {
  const StemWeights weights = stem_weights(tensors);
  const Stem& stem = weights.stem;
  const Tensor x = dense("conv_stem", "x", x_), grad = Precision::whole("the features' gradient", grad_);
  const Tensor statistics_tensor = dense("conv_stem", "statistics", statistics_);
  STD_TORCH_CHECK(
      kept_.size() == kUnits + kMerges, "conv_stem: expected ", kUnits + kMerges, " kept activations, got ",
      kept_.size());
  std::vector<Tensor> kept;
  for (const Tensor& activation : kept_) kept.push_back(Precision::whole("an activation", activation));
  const Precision precision;
  using Run = typename Precision::Run;
  Run run = training_run<Run>(weights, x);
  const auto first = first_channels(weights);
  const Statistics statistics = rows_of(statistics_tensor);
  for (int i = 0; i < kUnits + kMerges; ++i) run.kept[i] = Precision::numbers(kept[i]);
  for (int u = 0; u < kUnits; ++u) set_norm(weights, first, statistics, u, run.norms[u]);

  const int64_t B = run.B, groups = std::min(kGroups, B);
  Gradients out(weights);
  Tensor dx = empty({want_x ? B : 0, 1, run.L});
  typename Precision::Back back{};
  back.run = &run;
  back.dz_stride = run.largest();
  const Tensor dz = Precision::pooled({B, back.dz_stride});
  back.dz = Precision::numbers(dz);
  back.dx = want_x ? mutable_data(dx) : nullptr;
  std::vector<Tensor> branches;
  for (int m = 0; m < kMerges; ++m) {
    const int64_t fine = stem.fine(m), coarse = stem.coarse(m);
    branches.push_back(Precision::pooled({B, run.size(kMergePlan[m].fine)}));
    back.branch[m] = Precision::numbers(branches[m]);
    back.lateral[m] = precision.pack_mix(fine, fine, stem.lateral[m], 1, fine);
    back.reduce[m] = precision.pack_mix(coarse, fine, stem.reduce[m], 1, coarse);
  }
  parallel(kUnits, 1, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) precision.pack_input(stem.units[u], static_cast<int>(u), back);
  });
  std::vector<float> sums(2 * B * Run::row(stem.channels)), skip_sums(2 * B * Run::row(stem.channels));
  const double x_mean = input_moments(precision.table, run).mean;
  precision.table.stem_head_gradient(
      back, Precision::numbers(grad), static_cast<float>(x_mean), sums.data(), skip_sums.data());
  for (int u = kUnits - 1; u >= 0; --u) {
    use_sums(weights, u, sums, batch_statistics, back, out);
    const int64_t count = Precision::weight_floats(stem, u);
    const Tensor gradients = pooled({groups, count});
    sums.assign(B * 2 * Run::row(source_channels(stem, u)), 0.0f);
    precision.table.stem_backward_unit(back, u, groups, mutable_data(gradients), sums.data());
    add_groups(groups, count, mutable_data(gradients));
    write_weights(precision, weights, u, data(gradients), out);
  }
  skip_gradients(
      weights, skip_sums, statistics, first[kConvs - 1], x_mean, batch_statistics, Precision::numbers(grad), run, out,
      back.dx);
  out.tensors.push_back(dx);
  return out.tensors;
}

std::vector<Tensor> conv_stem_backward(
    const Tensor& grad, const Tensor& x, std::vector<Tensor> weights, const Tensor& statistics,
    std::vector<Tensor> kept, bool batch_statistics, bool want_x) {
  return backward<Float32Stem>(grad, x, weights, statistics, kept, batch_statistics, want_x);
}
std::vector<Tensor> conv_stem_backward_bf16(
    const Tensor& grad, const Tensor& x, std::vector<Tensor> weights, const Tensor& statistics,
    std::vector<Tensor> kept, bool batch_statistics, bool want_x) {
  return backward<Bf16Stem>(grad, x, weights, statistics, kept, batch_statistics, want_x);
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("conv_stem_backward", TORCH_BOX(&xmae_fast::conv_stem_backward));
  m.impl("conv_stem_backward_bf16", TORCH_BOX(&xmae_fast::conv_stem_backward_bf16));
}
