// Sums over the rows of a CTA, in an order that does not depend on timing.
#pragma once

#include "cuda/conv_stem/train_tile.h"

namespace xmae_fast::cuda {

// totals[c] = sum over `count` CTAs of load(cta, c / 4).v[c % 4], for C channels. scratch, totals: addresses in shared
// memory; totals [C] is float32.
template <int C, typename Lane, typename Load>
XMAE_HD void sum_over_ctas(Lane& lane, uint32_t scratch, uint32_t totals, int count, const Load& load) {
  constexpr int kQuads = C / 4, kSlices = Lane::kThreads / kQuads;
  const int quad = lane.thread() % kQuads;
  Float4 sum{};
#if defined(__CUDA_ARCH__)
#pragma unroll 4
#endif
  for (int cta = lane.thread() / kQuads; cta < count; cta += kSlices) {
    const Float4 value = load(cta, quad);
    XMAE_UNROLL
    for (int k = 0; k < 4; ++k) sum.v[k] += value.v[k];
  }
  lane.store(scratch + 16 * lane.thread(), sum);
  lane.barrier();
  if (lane.thread() < C) {
    float total = 0.0f;
    for (int slice = 0; slice < kSlices; ++slice) {
      total += lane.template load<float>(scratch + 4 * (slice * C + lane.thread()));
    }
    lane.store(totals + 4 * lane.thread(), total);
  }
  lane.barrier();
}

// A thread parks numbers in shared memory while it needs its registers for products. `parked` says where number i is.
template <typename Lane>
XMAE_HD uint32_t parked(Lane& lane, uint32_t at, int i) {
  return at + 4 * (i * Lane::kThreads + lane.thread());
}
template <int COUNT, typename Lane>
XMAE_HD void park(Lane& lane, uint32_t at, const float (&v)[COUNT], int first = 0) {
  XMAE_UNROLL
  for (int i = 0; i < COUNT; ++i) lane.store(parked(lane, at, first + i), v[i]);
}
template <int COUNT, typename Lane>
XMAE_HD void unpark(Lane& lane, uint32_t at, float (&v)[COUNT], int first = 0) {
  XMAE_UNROLL
  for (int i = 0; i < COUNT; ++i) v[i] = lane.template load<float>(parked(lane, at, first + i));
}

// Sums and squared distances of eight channels over rows, taken about the first row. The error of the squared distances
// is at most as many units in the last place as there are rows, because the first row is no further from the mean than
// all rows together.
struct Moments {
  static constexpr int kNumbers = 25;
  float about[8], sum[8], squares[8];  // the first row; sums of distances from it, and of their squares
  float rows = 0.0f;                   // how many rows were added

  XMAE_HD Moments() {
    XMAE_UNROLL
    for (int k = 0; k < 8; ++k) about[k] = sum[k] = squares[k] = 0.0f;
  }
  XMAE_HD void add(const float (&v)[8]) {
    XMAE_UNROLL
    for (int k = 0; k < 8; ++k) {
      if (rows == 0.0f) about[k] = v[k];
      const float away = v[k] - about[k];
      sum[k] += away;
      squares[k] = fmaf(away, away, squares[k]);
    }
    rows += 1.0f;
  }
  template <typename Lane>
  XMAE_HD void park_all(Lane& lane, uint32_t at) const {
    park(lane, at, about);
    park(lane, at, sum, 8);
    park(lane, at, squares, 16);
    lane.store(parked(lane, at, 24), rows);
  }
  template <typename Lane>
  XMAE_HD void unpark_all(Lane& lane, uint32_t at) {
    unpark(lane, at, about);
    unpark(lane, at, sum, 8);
    unpark(lane, at, squares, 16);
    rows = lane.template load<float>(parked(lane, at, 24));
  }
};

// The moments of one channel: number of rows, mean, sum of squared distances from it. They are merged as Chan, Golub
// and LeVeque do ("Updating formulae and a pairwise algorithm for computing sample variances", 1979).
struct Merged {
  float n, mean, square;

  XMAE_HD void add(const Merged& other) {
    const float all = n + other.n;
    if (all == 0.0f) return;
    const float share = other.n / all, away = other.mean - mean;
    mean = fmaf(away, share, mean);
    square += other.square + away * away * n * share;
    n = all;
  }
};

// The numbers that a CTA leaves of its output channels: means, sums of squared distances from them, number of rows.
constexpr XMAE_HD int moments_stride(int channels) { return 2 * channels + 4; }

// Merges the moments of a CTA's threads, of C channels, and writes them to out [moments_stride(C)]. Begins with a
// barrier, because other threads may still use the scratch memory.
template <int C, typename Lane>
XMAE_HD void leave_moments(Lane& lane, const Moments& mine, uint32_t scratch, float* out) {
  constexpr int kPieces = C / 8, kWarps = Lane::kThreads / 32, kRow = 4 * (2 * C + 4);
  static_assert(kWarps * kRow <= kScratchBytes);
  lane.barrier();
  Merged channels[8];
  XMAE_UNROLL
  for (int k = 0; k < 8; ++k) {
    const float part = mine.rows > 0.0f ? mine.sum[k] / mine.rows : 0.0f;
    channels[k] = {mine.rows, mine.about[k] + part, fmaxf(mine.squares[k] - mine.sum[k] * part, 0.0f)};
  }
  XMAE_UNROLL
  for (int mask = 16; mask >= kPieces; mask /= 2) {
    XMAE_UNROLL
    for (int k = 0; k < 8; ++k) {
      const Merged& own = channels[k];
      channels[k].add(
          {lane.shuffle_xor(own.n, mask), lane.shuffle_xor(own.mean, mask), lane.shuffle_xor(own.square, mask)});
    }
  }
  const uint32_t row = scratch + lane.warp() * kRow;
  if (lane.lane() < kPieces) {
    XMAE_UNROLL
    for (int k = 0; k < 8; ++k) {
      lane.store(row + 4 * (8 * lane.lane() + k), channels[k].mean);
      lane.store(row + 4 * (C + 8 * lane.lane() + k), channels[k].square);
    }
    if (lane.lane() == 0) lane.store(row + 4 * 2 * C, channels[0].n);
  }
  lane.barrier();
  if (lane.thread() < C) {
    Merged channel{0.0f, 0.0f, 0.0f};
    for (int warp = 0; warp < kWarps; ++warp) {
      const uint32_t from = scratch + warp * kRow;
      channel.add(
          {lane.template load<float>(from + 4 * 2 * C), lane.template load<float>(from + 4 * lane.thread()),
           lane.template load<float>(from + 4 * (C + lane.thread()))});
    }
    out[lane.thread()] = channel.mean;
    out[C + lane.thread()] = channel.square;
    if (lane.thread() == 0) out[2 * C] = channel.n;
  }
}

// Adds up COUNT sums of 32 channels over a CTA's threads, each of which has eight of the channels, and writes them to
// out [COUNT, 32], with `stride` numbers between rows.
template <int COUNT, typename Lane>
XMAE_HD void leave_sums(Lane& lane, float (&mine)[COUNT][8], uint32_t scratch, float* out, int stride) {
  constexpr int kPieces = 4, kWarps = Lane::kThreads / 32;
  static_assert(kWarps * COUNT * 32 * 4 <= kScratchBytes);
  lane.barrier();
  XMAE_UNROLL
  for (int i = 0; i < COUNT; ++i) {
    XMAE_UNROLL
    for (int k = 0; k < 8; ++k) {
      float sum = mine[i][k];
      XMAE_UNROLL
      for (int mask = 16; mask >= kPieces; mask /= 2) sum += lane.shuffle_xor(sum, mask);
      if (lane.lane() < kPieces) lane.store(scratch + 4 * ((lane.warp() * COUNT + i) * 32 + 8 * lane.lane() + k), sum);
    }
  }
  lane.barrier();
  for (int i = lane.thread(); i < COUNT * 32; i += Lane::kThreads) {
    float sum = 0.0f;
    for (int warp = 0; warp < kWarps; ++warp) sum += lane.template load<float>(scratch + 4 * (warp * COUNT * 32 + i));
    out[i / 32 * stride + i % 32] = sum;
  }
}

}  // namespace xmae_fast::cuda
