// Statistics and normalisation, for the operators of the stem's training.
#pragma once

#include <cmath>

#include "cpu/conv_stem/stem_weights.h"

namespace xmae_fast {

// The batch's statistics of one channel, or the running ones.
struct Moments {
  double mean = 0.0, var = 0.0;
};

// Returns `count` zeros, padded to whole vectors.
inline AlignedFloats zeros(int64_t count) {
  AlignedFloats out = aligned_floats(round_up(count, kNormAlign));
  std::fill_n(out.get(), round_up(count, kNormAlign), 0.0f);
  return out;
}

// Merges the statistics of B samples of equally many rows, of channel c. partial [B, 3, channels]: each sample's mean,
// rounded to float, and its sums of distances and of squared distances from that float. The rounding of the mean is
// corrected here, because where a channel hardly varies it would be many standard deviations.
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

// The rows of the operator's `statistics` [4, channels], with channels in the published order: mean, biased variance,
// unbiased variance, and what the mean lost when it was rounded to float.
struct Statistics {
  float *mean, *var, *unbiased, *mean_rest;

  // count: the numbers over which the moments were taken.
  void set(int64_t at, const Moments& moments, int64_t count) const {
    const double n = static_cast<double>(count);
    mean[at] = static_cast<float>(moments.mean);
    var[at] = static_cast<float>(moments.var);
    unbiased[at] = static_cast<float>(n > 1 ? moments.var * n / (n - 1) : moments.var);
    mean_rest[at] = static_cast<float>(moments.mean - mean[at]);
  }
};

// Returns the first channel of each convolution in `statistics`, and at the end the number of all channels.
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

// Sets the normalisation of unit u. first: as first_channels() returns it.
inline void set_norm(
    const StemWeights& weights, const std::vector<int64_t>& first, const Statistics& statistics, int u,
    UnitNorm& norm) {
  const StemUnit& unit = weights.stem.units[u];
  norm = {
      .scale = zeros(unit.c_out),
      .shift = zeros(unit.c_out),
      .mean = zeros(unit.c_out),
      .invstd = zeros(unit.c_out),
      .mean_rest = zeros(unit.c_out),
  };
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

// Returns the arguments of a training step for x [B, 1, L], as far as x and the weights give them.
template <typename Run>
Run training_run(const StemWeights& weights, const Tensor& x) {
  Run run{};
  run.stem = &weights.stem;
  run.B = x.size(0);
  run.L = x.size(2);
  run.x = data(x);
  return run;
}

// Returns the mean and variance of x over the whole batch.
template <typename Table, typename Run>
Moments input_moments(const Table& table, const Run& run) {
  std::vector<float> partial(run.B * 3);
  table.input_statistics(run.x, run.B, run.L, partial.data());
  return merge(partial.data(), run.B, 1, run.L, 0);
}

// Returns the rows of statistics [4, channels].
inline Statistics rows_of(const Tensor& statistics) {
  float* p = mutable_data(statistics);
  const int64_t channels = statistics.size(1);
  return {.mean = p, .var = p + channels, .unbiased = p + 2 * channels, .mean_rest = p + 3 * channels};
}

}  // namespace xmae_fast
