// The first unit is a convolution of seven taps over the waveform's one channel. Its outputs are never stored: its
// BatchNorm follows from the lag products of x, and every kernel that needs its outputs computes them again.
#pragma once

#include "cuda/conv_stem/train_norm.h"

namespace xmae_fast::cuda {

// The waveforms x [samples of all stems], in float32 or the 16-bit type. Kernels round them to 16 bits. `at` returns 0
// for a row below 0.
struct Waveform {
  const void* x;
  bool is_float;

  template <typename Number>
  XMAE_HD float at(int64_t row) const {
    if (row < 0) return 0.0f;
    return is_float ? Number::value(Number::one(static_cast<const float*>(x)[row]))
                    : Number::value(static_cast<const uint16_t*>(x)[row]);
  }
};

// Returns the place of the product of samples a <= b of a window among kLags.
constexpr XMAE_HD int lag_at(int a, int b) { return kWindow * a - a * (a - 1) / 2 + b - a; }

// Returns the two samples of a window whose product is number `lag` of kLags.
struct Lag {
  int a, b;
};
XMAE_HD Lag lag_of(int lag) {
  int a = 0;
  while (lag > lag_at(a, kWindow - 1)) ++a;
  return {a, a + lag - lag_at(a, a)};
}

// The kernel WaveMoments computes the lag products of the windows of each CTA.
struct WaveArguments {
  static constexpr int kRows = 1024;  // windows that a CTA takes at a time
  Part parts[2];
  Waveform wave;
  float* partial;  // [CTAs, kMoments]
};

template <typename Lane>
class WaveMoments {
  using Number = typename Lane::Number;

 public:
  using Arguments = WaveArguments;
  static constexpr int kBytes = kScratchBytes;

  static XMAE_HD void run(Lane& lane, const WaveArguments& run) {
    const Mine mine = mine_of(run.parts, lane.block());
    const Part& part = mine.part;
    const int end = part.B * part.spacing;
    // Sums are taken about the stem's first sample, so that an offset of the waveform costs no digits.
    const float about = run.wave.template at<Number>(part.in_before);
    float sums[kMoments];
    XMAE_UNROLL
    for (int i = 0; i < kMoments; ++i) sums[i] = 0.0f;
    for (int first = mine.cta * WaveArguments::kRows; first < end; first += part.blocks * WaveArguments::kRows) {
      for (int row = first + lane.thread(); row < first + WaveArguments::kRows; row += Lane::kThreads) {
        if (row_of(row, part.spacing, part.B, part.L_in, 0) < 0) continue;
        float x[kWindow];
        XMAE_UNROLL
        for (int t = 0; t < kWindow; ++t) {
          x[t] = run.wave.template at<Number>(row_of(row + t - 3, part.spacing, part.B, part.L_in, part.in_before)) -
                 about;
        }
        XMAE_UNROLL
        for (int a = 0; a < kWindow; ++a) {
          sums[a] += x[a];
          XMAE_UNROLL
          for (int b = a; b < kWindow; ++b) {
            sums[kWindow + lag_at(a, b)] = fmaf(x[a], x[b], sums[kWindow + lag_at(a, b)]);
          }
        }
        sums[kMoments - 1] += 1.0f;
      }
    }
    leave(lane, sums, about, run.partial + static_cast<int64_t>(lane.block()) * kMoments);
  }

 private:
  // Adds up the threads' sums and writes the means, co-moments and number of windows to out [kMoments].
  static XMAE_HD void leave(Lane& lane, float (&sums)[kMoments], float about, float* out) {
    constexpr int kWarps = Lane::kThreads / 32;
    XMAE_UNROLL
    for (int i = 0; i < kMoments; ++i) {
      XMAE_UNROLL
      for (int mask = 16; mask > 0; mask /= 2) sums[i] += lane.shuffle_xor(sums[i], mask);
      if (lane.lane() == 0) lane.store(4 * (lane.warp() * kMoments + i), sums[i]);
    }
    lane.barrier();
    const int i = lane.thread();
    if (i >= kMoments) return;
    const auto total = [&](int which) {
      float sum = 0.0f;
      for (int warp = 0; warp < kWarps; ++warp) sum += lane.template load<float>(4 * (warp * kMoments + which));
      return sum;
    };
    const float n = total(kMoments - 1), share = n > 0.0f ? 1.0f / n : 0.0f;
    if (i < kWindow) {
      out[i] = about + total(i) * share;
    } else if (i == kMoments - 1) {
      out[i] = n;
    } else {
      const Lag lag = lag_of(i - kWindow);
      out[i] = total(i) - total(lag.a) * total(lag.b) * share;
    }
  }
};

// Offsets in shared memory of what the first unit needs: a table of 32 channels, weights [7, 32], a window of samples.
template <int ROWS>
struct WaveRoom {
  static constexpr int kTable = 0, kWeights = kTable + NormTable<32>::kBytes, kWindowAt = kWeights + 4 * kWindow * 32;
  static constexpr int kBytes = padded(kWindowAt + 4 * (ROWS + kWindow));
};

// Fills the table and the weights. partial: the lag products that CTAs left, or null where `norms` is complete. They
// are merged here, and the stem's first CTA writes `norms` of the first unit, the skip path and x, and `moments`. Ends
// with a barrier.
template <typename Lane>
XMAE_HD void make_wave_tables(
    Lane& lane, const Step& step, const Mine& mine, const float* partial, uint32_t scratch, uint32_t table,
    uint32_t weights) {
  using Number = typename Lane::Number;
  const Product product = first_product();
  const int i = lane.thread();
  for (int at = i; at < kWindow * 32; at += Lane::kThreads) {
    const int weight = weight_at(product, at / 32, 0, at % 32);
    const float value = weight < 0 ? 0.0f : step.weights(mine.stem)[weight];
    lane.store(weights + 4 * at, Number::value(Number::one(value)));
  }
  const int channel = published(32, i < 32 ? i : 0);
  if (!partial) {
    if (i < 32) {
      store_half_norm<32>(
          lane, table, i, step.norm(mine.stem, kMean)[channel], step.norm(mine.stem, kRstd)[channel],
          step.norm(mine.stem, kScale)[channel], step.norm(mine.stem, kBeta)[channel]);
    }
    lane.barrier();
    return;
  }
  // kMoments threads add up a slice of the CTAs. The first pass gives the means, the second the co-moments, to which
  // the distances of the CTAs' own means contribute.
  constexpr int kSlices = Lane::kThreads / kMoments;
  const int which = i % kMoments, slice = i / kMoments;
  const uint32_t totals = scratch + 4 * kSlices * kMoments;
  const float* const from = partial + static_cast<int64_t>(mine.part.source_first) * kMoments;
  const Lag lag = which >= kWindow && which < kMoments - 1 ? lag_of(which - kWindow) : Lag{0, 0};
  for (int pass = 0; pass < 2; ++pass) {
    if (slice < kSlices) {
      float sum = 0.0f;
      for (int cta = slice; cta < mine.part.of_source; cta += kSlices) {
        const float* const row = from + static_cast<int64_t>(cta) * kMoments;
        const float n = lane.template fetch<float>(row + kMoments - 1), value = lane.template fetch<float>(row + which);
        if (which == kMoments - 1) {
          sum += value;
        } else if (which < kWindow) {
          sum = fmaf(n, value, sum);
        } else if (pass == 1) {
          const float away_a = lane.template fetch<float>(row + lag.a) - lane.template load<float>(totals + 4 * lag.a);
          const float away_b = lane.template fetch<float>(row + lag.b) - lane.template load<float>(totals + 4 * lag.b);
          sum += value + n * away_a * away_b;
        }
      }
      lane.store(scratch + 4 * (slice * kMoments + which), sum);
    }
    lane.barrier();
    if (i < kMoments) {
      float total = 0.0f, n = 0.0f;
      for (int s = 0; s < kSlices; ++s) {
        total += lane.template load<float>(scratch + 4 * (s * kMoments + i));
        n += lane.template load<float>(scratch + 4 * (s * kMoments + kMoments - 1));
      }
      lane.store(totals + 4 * i, i < kWindow ? total / n : total);
    }
    lane.barrier();
  }
  const auto moment = [&](int at) { return lane.template load<float>(totals + 4 * at); };
  const float n = moment(kMoments - 1), fewer = fmaxf(n - 1.0f, 1.0f);
  const float* const flat = step.weights(mine.stem);
  if (i < 32) {
    float mean = 0.0f, square = 0.0f;
    for (int t = 0; t < kWindow; ++t) {
      const float weight = lane.template load<float>(weights + 4 * (32 * t + i));
      mean = fmaf(weight, moment(t), mean);
      for (int u = t; u < kWindow; ++u) {
        const float twice = u > t ? 2.0f : 1.0f;
        square = fmaf(
            twice * weight * lane.template load<float>(weights + 4 * (32 * u + i)), moment(kWindow + lag_at(t, u)),
            square);
      }
    }
    square = fmaxf(square, 0.0f);
    const float rstd = 1.0f / sqrtf(square / n + kNormEps), scale = flat[kTrainWeights + channel] * rstd;
    store_half_norm<32>(lane, table, i, mean, rstd, scale, flat[kTrainWeights + kTrainChannels + channel]);
    if (mine.cta == 0) {
      store_norm<Lane>(step, mine.stem, channel, mean, square / n, square / fewer);
      // The skip path multiplies x by a weight, which multiplies the mean and the standard deviation too.
      const float skip = Number::value(Number::one(flat[kSkipWeights + i])),
                  x_square = skip * skip * moment(kWindow + lag_at(3, 3));
      store_norm<Lane>(step, mine.stem, kSkipChannel + i, skip * moment(3), x_square / n, x_square / fewer);
    }
  }
  if (mine.cta == 0) {
    if (i < kMoments) step.moments[mine.stem * kMoments + i] = moment(i);
    if (i == 0) {
      const float var = moment(kWindow + lag_at(3, 3)) / n, rstd = 1.0f / sqrtf(var + kNormEps);
      step.norm(mine.stem, kMean)[kTrainChannels] = moment(3);
      step.norm(mine.stem, kRstd)[kTrainChannels] = rstd;
      step.norm(mine.stem, kUnbiased)[kTrainChannels] = moment(kWindow + lag_at(3, 3)) / fewer;
      step.norm(mine.stem, kScale)[kTrainChannels] = rstd;
      step.norm(mine.stem, kBeta)[kTrainChannels] = 0.0f;
    }
  }
  lane.barrier();
}

// Copies the samples under the windows of rows [first, first + rows), and one more, to shared memory as float32.
template <typename Lane>
XMAE_HD void load_window(Lane& lane, const Waveform& wave, const Part& part, int first, int rows, uint32_t window) {
  for (int i = lane.thread(); i < rows + kWindow; i += Lane::kThreads) {
    const int64_t at = row_of(first + i - kWindow / 2, part.spacing, part.B, part.L_out, part.out_before);
    lane.store(window + 4 * i, wave.template at<typename Lane::Number>(at));
  }
}

// Returns outputs of the first unit before its BatchNorm, for 16 R rows from row `row` of the window on. The samples
// under a row's window are the input numbers of one product.
template <int R, typename Lane>
XMAE_HD Sums<R, 4> convolve_wave(Lane& lane, uint32_t window, uint32_t weights, int row) {
  using Number = typename Lane::Number;
  const int g = lane.lane() / 4, tap = 2 * (lane.lane() % 4);
  uint32_t b[4];
  XMAE_UNROLL
  for (int j = 0; j < 4; ++j) {
    const uint32_t at = weights + 4 * (32 * tap + 8 * j + g);
    b[j] =
        Number::two(lane.template load<float>(at), tap + 1 < kWindow ? lane.template load<float>(at + 4 * 32) : 0.0f);
  }
  Sums<R, 4> sums;
  clear(sums);
  XMAE_UNROLL
  for (int i = 0; i < R; ++i) {
    uint32_t a[4] = {0, 0, 0, 0};
    XMAE_UNROLL
    for (int below = 0; below < 2; ++below) {
      const uint32_t at = window + 4 * (row + 16 * i + 8 * below + g + tap);
      a[below] = Number::two(lane.template load<float>(at), lane.template load<float>(at + 4));
    }
    XMAE_UNROLL
    for (int j = 0; j < 4; ++j) lane.mma(sums.v[i][j], a, b[j], 0u);
  }
  return sums;
}

// Applies BatchNorm and SiLU to outputs, with a table of their 32 channels.
template <int R, typename Lane>
XMAE_HD void activate_columns(Lane& lane, Sums<R, 4>& sums, uint32_t table) {
  XMAE_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int c = 8 * j + 2 * (lane.lane() % 4);
    const Float2 scale = lane.template load<Float2>(NormTable<32>::scale(table, c));
    const Float2 shift = lane.template load<Float2>(NormTable<32>::shift(table, c));
    XMAE_UNROLL
    for (int i = 0; i < R; ++i) {
      XMAE_UNROLL
      for (int k = 0; k < 4; ++k) {
        float& v = sums.v[i][j][k];
        v = silu_of_half(lane, fmaf(v, k % 2 ? scale.y : scale.x, k % 2 ? shift.y : shift.x));
      }
    }
  }
}

}  // namespace xmae_fast::cuda
