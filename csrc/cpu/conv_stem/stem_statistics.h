// Statistics and normalisation shared by the stem's training operators.
#pragma once

#include <cmath>

#include "cpu/conv_stem/stem_weights.h"

namespace xmae_fast {

// Batch statistics of one channel, or running ones.
struct Moments {
  double mean = 0.0, var = 0.0;
};

inline AlignedFloats zeros(int64_t count) {
  AlignedFloats out = aligned_floats(round_up(count, kNormAlign));
  std::fill_n(out.get(), round_up(count, kNormAlign), 0.0f);
  return out;
}

// Equal counts: the mean of the samples' means, and squared distances about it. partial [B, 3, channels], in order of b: of a
// sample the mean as a float, and sums of distances and squared distances from that float. Its rounding is taken back here:
// where a channel hardly varies it would be many standard deviations.
inline Moments merge(const float* partial, int64_t B, int64_t channels, int64_t rows, int64_t c) {
  const double n = static_cast<double>(rows);
  const auto sample_mean = [&](const float* own) { return own[0] + own[channels] / n; };
  const float *first = partial + c, *end = first + B * 3 * channels;
  double mean = 0.0, squares = 0.0;
  for (const float* own = first; own < end; own += 3 * channels) mean += sample_mean(own);
  mean /= static_cast<double>(B);
  for (const float* own = first; own < end; own += 3 * channels) {
    const double rest = own[channels], distance = sample_mean(own) - mean;
    squares += std::max(own[2 * channels] - rest * rest / n, 0.0) + distance * distance * n;
  }
  return {mean, squares / static_cast<double>(B * rows)};
}

// Rows of the operator's `statistics` [4, channels], published order: mean, biased variance, unbiased variance, and what the
// mean lost when it was rounded.
struct Statistics {
  float *mean, *var, *unbiased, *mean_rest;

  void set(int64_t at, const Moments& moments, int64_t count) const {
    const double n = static_cast<double>(count);
    mean[at] = static_cast<float>(moments.mean);
    var[at] = static_cast<float>(moments.var);
    unbiased[at] = static_cast<float>(n > 1 ? moments.var * n / (n - 1) : moments.var);
    mean_rest[at] = static_cast<float>(moments.mean - mean[at]);
  }
};

// First published channel of every convolution in `statistics`.
inline std::vector<int64_t> first_channels(const StemWeights& weights) {
  std::vector<int64_t> first;
  int64_t count = 0;
  for (int conv = 0; conv < kConvs; ++conv) {
    first.push_back(count);
    count += weights.weight(conv).size(0);
  }
  first.push_back(count);
  return first;
}

// Normalisation of unit u from the statistics in published order.
inline void set_norm(const StemWeights& weights, const std::vector<int64_t>& first, const Statistics& statistics, int u, UnitNorm& norm) {
  const StemUnit& unit = weights.stem.units[u];
  norm = {zeros(unit.c_out), zeros(unit.c_out), zeros(unit.c_out), zeros(unit.c_out), zeros(unit.c_out)};
  for (int64_t c = 0; c < unit.c_out; ++c) {
    const auto [part, channel] = part_of(unit, c);
    const int64_t at = first[part->conv] + channel;
    const double invstd = 1.0 / std::sqrt(static_cast<double>(statistics.var[at]) + kNormEps);
    const double scale = part->gamma[channel] * invstd;
    norm.mean[c] = statistics.mean[at];
    norm.mean_rest[c] = statistics.mean_rest[at];
    norm.invstd[c] = static_cast<float>(invstd);
    norm.scale[c] = static_cast<float>(scale);
    norm.shift[c] = static_cast<float>(part->beta[channel] - statistics.mean_rest[at] * scale);
  }
}

inline StemTraining training_run(const StemWeights& weights, const Tensor& x) {
  StemTraining run{};
  run.stem = &weights.stem;
  run.B = x.size(0);
  run.L = x.size(2);
  run.x = data(x);
  return run;
}

// Of x over the whole batch.
inline Moments input_moments(const Kernels& table, const StemTraining& run) {
  std::vector<float> partial(run.B * 3);
  table.input_statistics(run.x, run.B, run.L, partial.data());
  return merge(partial.data(), run.B, 1, run.L, 0);
}

inline Statistics rows_of(const Tensor& statistics) {
  float* p = mutable_data(statistics);
  const int64_t channels = statistics.size(1);
  return {p, p + channels, p + 2 * channels, p + 3 * channels};
}

}  // namespace xmae_fast
