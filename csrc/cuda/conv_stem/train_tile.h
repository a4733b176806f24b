// What the stem's training kernels share: rows of samples with zeros between them, numbers on their way through registers,
// BatchNorm's statistics from those that CTAs left.
//
// Kernels go over rows in which every sample is followed by as many zeros as a window reaches: no tap asks where a sample
// ends. Two stems are served in one launch, the rows of the second behind those of the first in every array.
#pragma once

#include "cuda/conv_stem/tile.h"
#include "cuda/conv_stem/train_plan.h"

namespace xmae_fast::cuda {

struct alignas(16) Float4 {
  float v[4];
};

// What one stem has of a launch.
struct Part {
  int B, L_in, L_out;            // samples; rows of each in the input and in the output
  int spacing;                   // rows of output that a sample takes with the zeros behind it
  int blocks;                    // CTAs
  int source_first, of_source;   // CTAs that left sums of the source's channels
  int64_t in_before, out_before; // rows of the stems before it
  int L_other;                   // of a third array: the coarse level of a mix, the fine one of its adjoint
  int64_t other_before;
};

// What the launches of a step share.
struct Step {
  const float* flat;    // weights, gammas, betas (, running means and variances) of each stem
  int64_t flat_stride;
  float* norms;         // [stems, kNormRows, kNormRow]
  float* sums;          // [stems, 2, kTrainChannels]: gradients of betas and gammas
  float* moments;       // [stems, kMoments]
  bool batch;           // statistics are the batch's

  XMAE_HD const float* weights(int stem) const { return flat + stem * flat_stride; }
  XMAE_HD float* norm(int stem, int row) const { return norms + (stem * kNormRows + row) * kNormRow; }
};

// A stem's share of CTAs: the first `parts[0].blocks` are the first stem's.
struct Mine {
  int stem, cta;
  const Part& part;
};
XMAE_HD Mine mine_of(const Part (&parts)[2], int cta) {
  const int stem = cta >= parts[0].blocks;
  return {stem, stem ? cta - parts[0].blocks : cta, parts[stem]};
}

// Row of an array for row `row` of the tiles, -1 for zeros; spacing, L and rows before: of that array.
XMAE_HD int64_t row_of(int row, int spacing, int B, int L, int64_t before) {
  if (row < 0) return -1;
  const int sample = row / spacing, at = row - sample * spacing;
  return sample < B && at < L ? before + static_cast<int64_t>(sample) * L + at : -1;
}

template <typename Number>
XMAE_HD void unpack(const Words4& words, float (&v)[8]) {
  XMAE_UNROLL
  for (int k = 0; k < 8; ++k) v[k] = Number::value(words.v[k / 2] >> 16 * (k % 2) & 0xffffu);
}
template <typename Number>
XMAE_HD Words4 pack(const float (&v)[8]) {
  Words4 words;
  XMAE_UNROLL
  for (int k = 0; k < 4; ++k) words.v[k] = Number::two(v[2 * k], v[2 * k + 1]);
  return words;
}
constexpr XMAE_HD Words4 zeros() { return {{0, 0, 0, 0}}; }

// Eight numbers of a table of float32 in shared memory.
template <typename Lane>
XMAE_HD void load_eight(Lane& lane, uint32_t at, float (&v)[8]) {
  const Float4 low = lane.template load<Float4>(at), high = lane.template load<Float4>(at + 16);
  XMAE_UNROLL
  for (int k = 0; k < 4; ++k) {
    v[k] = low.v[k];
    v[4 + k] = high.v[k];
  }
}

// silu(2 h), and its derivative.
template <typename Lane>
XMAE_HD float silu_of_half(Lane& lane, float h) {
  return fmaf(h, lane.tanh(h), h);
}
template <typename Lane>
XMAE_HD float silu_slope_of_half(Lane& lane, float h) {
  const float t = lane.tanh(h);
  return (0.5f + 0.5f * t) * (1.0f + h * (1.0f - t));
}

// Tables of C channels in shared memory: half the scale and shift of BatchNorm, mean and 1 / standard deviation.
template <int C>
struct NormTable {
  static constexpr int kBytes = 4 * 4 * C;
  static XMAE_HD uint32_t scale(uint32_t at, int c) { return at + 4 * c; }
  static XMAE_HD uint32_t shift(uint32_t at, int c) { return at + 4 * (C + c); }
  static XMAE_HD uint32_t mean(uint32_t at, int c) { return at + 4 * (2 * C + c); }
  static XMAE_HD uint32_t rstd(uint32_t at, int c) { return at + 4 * (3 * C + c); }
};

// Half of BatchNorm of eight channels in succession, kept in registers.
struct HalfNorm {
  float scale[8], shift[8];

  template <int C, typename Lane>
  static XMAE_HD HalfNorm of(Lane& lane, uint32_t table, int c) {
    HalfNorm norm;
    load_eight(lane, NormTable<C>::scale(table, c), norm.scale);
    load_eight(lane, NormTable<C>::shift(table, c), norm.shift);
    return norm;
  }
  // Of the channels of a thread's pieces, as `stage_rows` asks for it.
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

// A thread goes over rows of `count` rows of C numbers: visit(row, piece) with always the same piece of eight channels.
// UNROLL of them are under way at a time.
template <int C, int UNROLL = 4, typename Lane, typename Visit>
XMAE_HD void each_piece(Lane& lane, int count, const Visit& visit) {
  constexpr int kPieces = C / 8, kStep = Lane::kThreads / kPieces;
  const int piece = lane.thread() % kPieces;
#if defined(__CUDA_ARCH__)
#pragma unroll UNROLL
#endif
  for (int row = lane.thread() / kPieces; row < count; row += kStep) visit(row, piece);
}

// Rows of C numbers into shared memory, without a register for what is under way: where(row) is the row in global memory, or null
// for zeros. If `changes`, what begin() returns then replaces what a thread has copied itself: change(words, row, piece).
template <int C, typename Lane, typename Where, typename Begin>
XMAE_HD void stage_rows(Lane& lane, uint32_t to, int count, bool changes, const Where& where, const Begin& begin) {
  each_piece<C>(lane, count, [&](int row, int piece) {
    const uint32_t at = to + Rows<C>::at(row, piece);
    if (const uint16_t* const from = where(row)) {
      lane.copy_async(at, reinterpret_cast<const char*>(from + 8 * piece));
    } else {
      lane.store(at, zeros());
    }
  });
  if (!changes) return;
  lane.wait_for_copies();
  lane.forget_addresses();
  const auto change = begin();
  each_piece<C, 1>(lane, count, [&](int row, int piece) {
    if (!where(row)) return;
    const uint32_t at = to + Rows<C>::at(row, piece);
    lane.store(at, change(lane.template load<Words4>(at), row, piece));
  });
}

// A warp's outputs into rows of C numbers; tile: the first of its 8-column tiles.
template <int C, int R, int N, typename Lane>
XMAE_HD void store_columns(Lane& lane, const Outputs<R, N>& out, uint32_t rows_at, int row, int tile, int stride = 1) {
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  XMAE_UNROLL
  for (int i = 0; i < R; ++i) {
    XMAE_UNROLL
    for (int j = 0; j < N; ++j) {
      XMAE_UNROLL
      for (int below = 0; below < 2; ++below) {
        const int at = row + stride * (i * kTileRows + 8 * below + g);
        lane.store(rows_at + Rows<C>::at(at, tile + j) + 4 * t, out.v[i][j / 2][j % 2 * 2 + below]);
      }
    }
  }
}

// totals[c] (float32 in shared memory) = sum over `count` CTAs of load(cta, quad), four channels in succession.
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
    for (int slice = 0; slice < kSlices; ++slice) total += lane.template load<float>(scratch + 4 * (slice * C + lane.thread()));
    lane.store(totals + 4 * lane.thread(), total);
  }
  lane.barrier();
}
// Regions of shared memory begin at multiples of 128 bytes.
constexpr int padded(int bytes) { return (bytes + 127) / 128 * 128; }
constexpr int most(int a, int b) { return a > b ? a : b; }
constexpr int kScratchBytes = 16 * 1024;  // for what CTAs left, and for what one leaves

// What a convolution's CTAs leave of its channels: means, sums of squared distances from them, number of rows.
constexpr XMAE_HD int moments_stride(int channels) { return 2 * channels + 4; }

// Where the BatchNorm of a source comes from.
struct NormSource {
  const float* partial;  // of the kernel that computed it; null: `norms` is complete
  int channel;           // of `norms`
  bool branches;
};

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

template <int C, typename Lane>
XMAE_HD void store_half_norm(Lane& lane, uint32_t table, int c, float mean, float rstd, float scale, float beta) {
  lane.store(NormTable<C>::scale(table, c), 0.5f * scale);
  lane.store(NormTable<C>::shift(table, c), 0.5f * (beta - mean * scale));
  lane.store(NormTable<C>::mean(table, c), mean);
  lane.store(NormTable<C>::rstd(table, c), rstd);
}

// Channels [first, first + C) of a source of ALL channels into a table. Where CTAs left moments these are merged (Chan), and a
// stem's first CTA writes `norms`; rows: of the source. Ends with a barrier.
template <int C, int ALL, typename Lane>
XMAE_HD void make_norm_table(
    Lane& lane, const Step& step, const NormSource& source, const Mine& mine, int first, int64_t rows, uint32_t scratch, uint32_t table) {
  const int c = lane.thread(), channel = source.channel + published(ALL, source.branches, first + (c < C ? c : 0));
  if (!source.partial) {
    if (c < C) {
      const float mean = step.norm(mine.stem, kMean)[channel], rstd = step.norm(mine.stem, kRstd)[channel];
      store_half_norm<C>(lane, table, c, mean, rstd, step.norm(mine.stem, kScale)[channel], step.norm(mine.stem, kBeta)[channel]);
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
  const auto counted = [&](int cta) { return lane.template fetch<float>(partial + static_cast<int64_t>(cta) * kStride + 2 * ALL); };
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
