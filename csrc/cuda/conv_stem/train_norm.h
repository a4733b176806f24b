// BatchNorm of a kernel's source in training: its statistics from the moments that CTAs left, and BatchNorm and SiLU of
// rows on their way through registers.
#pragma once

#include "cuda/conv_stem/train_sums.h"

namespace xmae_fast::cuda {

// A table of C channels in shared memory: half of BatchNorm's scale and shift, mean, and 1 / standard deviation.
template <int C>
struct NormTable {
  static constexpr int kBytes = 4 * 4 * C;
  static XMAE_HD uint32_t scale(uint32_t at, int c) { return at + 4 * c; }
  static XMAE_HD uint32_t shift(uint32_t at, int c) { return at + 4 * (C + c); }
  static XMAE_HD uint32_t mean(uint32_t at, int c) { return at + 4 * (2 * C + c); }
  static XMAE_HD uint32_t rstd(uint32_t at, int c) { return at + 4 * (3 * C + c); }
};

// Half of BatchNorm's scale and shift of eight successive channels, in registers: half, because silu(y) = h + h tanh(h)
// for h = y / 2.
struct HalfNorm {
  float scale[8], shift[8];

  template <int C, typename Lane>
  static XMAE_HD HalfNorm of(Lane& lane, uint32_t table, int c) {
    HalfNorm norm;
    load_eight(lane, NormTable<C>::scale(table, c), norm.scale);
    load_eight(lane, NormTable<C>::shift(table, c), norm.shift);
    return norm;
  }
  // Returns the function that `stage_rows` applies to this thread's pieces.
  template <int C, typename Lane>
  static XMAE_HD auto activation(Lane& lane, uint32_t table) {
    return [&lane, norm = of<C>(lane, table, 8 * (lane.thread() % (C / 8)))](const Words4& words, int, int) {
      return norm.activated(lane, words);
    };
  }
  template <typename Lane>
  XMAE_HD Words4 activated(Lane& lane, const Words4& words) const {
    float v[8];
    unpack<typename Lane::Number>(words, v);
    activate(lane, v);
    return pack<typename Lane::Number>(v);
  }
  template <typename Lane>
  XMAE_HD void activate(Lane& lane, float (&v)[8]) const {
    XMAE_UNROLL
    for (int k = 0; k < 8; ++k) v[k] = silu_of_half(lane, fmaf(v[k], scale[k], shift[k]));
  }
};

// Where a kernel finds the BatchNorm of its source.
struct NormSource {
  const float*
      partial;    // [CTAs, moments_stride]: moments that the source's kernel left, or null: `norms` has them already
  int channel;    // the source's first channel in `norms`
  bool branches;  // the source's channels have the order k7 | k5 | k3
};

// Writes one channel of `norms`.
template <typename Lane>
XMAE_HD void store_norm(const Step& step, int stem, int channel, float mean, float var, float unbiased) {
  const float* gammas = step.weights(stem) + kTrainWeights;
  const float rstd = 1.0f / sqrtf(var + kNormEps);
  step.norm(stem, kMean)[channel] = mean;
  step.norm(stem, kRstd)[channel] = rstd;
  step.norm(stem, kUnbiased)[channel] = unbiased;
  step.norm(stem, kScale)[channel] = gammas[channel] * rstd;
  step.norm(stem, kBeta)[channel] = gammas[kTrainChannels + channel];
}

// Writes one channel of a NormTable.
template <int C, typename Lane>
XMAE_HD void store_half_norm(Lane& lane, uint32_t table, int c, float mean, float rstd, float scale, float beta) {
  lane.store(NormTable<C>::scale(table, c), 0.5f * scale);
  lane.store(NormTable<C>::shift(table, c), 0.5f * (beta - mean * scale));
  lane.store(NormTable<C>::mean(table, c), mean);
  lane.store(NormTable<C>::rstd(table, c), rstd);
}

// Fills a table with channels [first, first + C) of a source of ALL channels and `rows` rows. Where CTAs left moments,
// they are merged as in struct Merged, and the stem's first CTA writes `norms`. Ends with a barrier.
template <int C, int ALL, typename Lane>
XMAE_HD void make_norm_table(
    Lane& lane, const Step& step, const NormSource& source, const Mine& mine, int first, int64_t rows, uint32_t scratch,
    uint32_t table) {
  const int c = lane.thread(), channel = source.channel + published(ALL, source.branches, first + (c < C ? c : 0));
  if (!source.partial) {
    if (c < C) {
      const float mean = step.norm(mine.stem, kMean)[channel], rstd = step.norm(mine.stem, kRstd)[channel];
      store_half_norm<C>(
          lane, table, c, mean, rstd, step.norm(mine.stem, kScale)[channel], step.norm(mine.stem, kBeta)[channel]);
    }
    lane.barrier();
    return;
  }
  constexpr int kStride = moments_stride(ALL);
  const float n = static_cast<float>(rows);
  const float* const partial = source.partial + static_cast<int64_t>(mine.part.source_first) * kStride;
  const int count = mine.part.of_source;
  const auto at = [&](int cta, int row, int quad) {
    return lane.template fetch<Float4>(partial + static_cast<int64_t>(cta) * kStride + row * ALL + first + 4 * quad);
  };
  const auto counted = [&](int cta) {
    return lane.template fetch<float>(partial + static_cast<int64_t>(cta) * kStride + 2 * ALL);
  };
  const uint32_t totals = NormTable<C>::mean(table, 0);
  sum_over_ctas<C>(lane, scratch, totals, count, [&](int cta, int quad) {
    Float4 mean = at(cta, 0, quad);
    const float rows_there = counted(cta);
    XMAE_UNROLL
    for (int k = 0; k < 4; ++k) mean.v[k] *= rows_there;
    return mean;
  });
  const float mean = c < C ? lane.template load<float>(totals + 4 * c) / n : 0.0f;
  lane.barrier();
  if (c < C) lane.store(totals + 4 * c, mean);
  lane.barrier();
  const uint32_t squares = NormTable<C>::rstd(table, 0);
  sum_over_ctas<C>(lane, scratch, squares, count, [&](int cta, int quad) {
    const Float4 there = at(cta, 0, quad), all = lane.template load<Float4>(totals + 16 * quad);
    Float4 sum = at(cta, 1, quad);
    const float rows_there = counted(cta);
    XMAE_UNROLL
    for (int k = 0; k < 4; ++k) sum.v[k] += rows_there * (there.v[k] - all.v[k]) * (there.v[k] - all.v[k]);
    return sum;
  });
  if (c < C) {
    const float square = lane.template load<float>(squares + 4 * c), var = square / n;
    const float* gammas = step.weights(mine.stem) + kTrainWeights;
    const float rstd = 1.0f / sqrtf(var + kNormEps);
    store_half_norm<C>(lane, table, c, mean, rstd, gammas[channel] * rstd, gammas[kTrainChannels + channel]);
    if (mine.cta == 0) store_norm<Lane>(step, mine.stem, channel, mean, var, square / fmaxf(n - 1.0f, 1.0f));
  }
  lane.barrier();
}

}  // namespace xmae_fast::cuda
