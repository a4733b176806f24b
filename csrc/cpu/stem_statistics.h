// Statistics and normalisation shared by the stem's training operators.
#pragma once

#include <cmath>

#include "stem_weights.h"

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

// Equal counts: the mean of the means, and squared distances about it. partial [B, 2, channels], in order of b.
inline Moments merge(const float* partial, int64_t B, int64_t channels, int64_t rows, int64_t c) {
  double mean = 0.0, squares = 0.0;
  for (int64_t b = 0; b < B; ++b) mean += partial[b * 2 * channels + c];
  mean /= static_cast<double>(B);
  for (int64_t b = 0; b < B; ++b) {
    const double distance = partial[b * 2 * channels + c] - mean;
    squares += partial[(b * 2 + 1) * channels + c] + distance * distance * static_cast<double>(rows);
  }
  return {mean, squares / static_cast<double>(B * rows)};
}

// Rows of the operator's `statistics` [3, channels]: mean, biased variance, unbiased variance; published order.
struct Statistics {
  float *mean, *var, *unbiased;

  void set(int64_t at, const Moments& moments, int64_t count) const {
    const double n = static_cast<double>(count);
    mean[at] = static_cast<float>(moments.mean);
    var[at] = static_cast<float>(moments.var);
    unbiased[at] = static_cast<float>(n > 1 ? moments.var * n / (n - 1) : moments.var);
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
  norm = {zeros(unit.c_out), zeros(unit.c_out), zeros(unit.c_out), zeros(unit.c_out)};
  for (int64_t c = 0; c < unit.c_out; ++c) {
    const auto [part, channel] = part_of(unit, c);
    const int64_t at = first[part->conv] + channel;
    const double invstd = 1.0 / std::sqrt(static_cast<double>(statistics.var[at]) + kNormEps);
    norm.mean[c] = statistics.mean[at];
    norm.invstd[c] = static_cast<float>(invstd);
    norm.scale[c] = static_cast<float>(part->gamma[channel] * invstd);
    norm.shift[c] = part->beta[channel];
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

inline Statistics rows_of(const Tensor& statistics) {
  float* p = mutable_data(statistics);
  const int64_t channels = statistics.size(1);
  return {p, p + channels, p + 2 * channels};
}

}  // namespace xmae_fast
