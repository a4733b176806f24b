// The last step of the stem's forward in training, which makes features of the head's output and the skip path, and the
// first step of its backward.
#pragma once

#include "cuda/conv_stem/train_wave.h"

namespace xmae_fast::cuda {

struct EndArguments {
  static constexpr int kRows = 256;  // rows that a CTA takes at a time
  Part parts[2];
  Step step;
  const uint16_t* head;  // [rows, kStemChannels]: the head's output before BatchNorm
  NormSource norm;
  Waveform wave;
  const uint16_t* grads[2];  // backward: [rows of the stem, kStemChannels]: gradients of the features of each stem
  uint16_t* out;             // [rows, kStemChannels]: features; backward: d, the gradient after the head's BatchNorm
  float* sums;               // backward: [CTAs, kSums, kStemChannels]
  // The sums: of d, of d times the normalised output, of the features' gradient g, and of g times (x - mean of x).
  static constexpr int kSums = 4;
};

template <typename Lane, bool BACKWARD>
class End {
  using Number = typename Lane::Number;
  static constexpr int C = kStemChannels;
  static constexpr int kTable = kScratchBytes;

 public:
  using Arguments = EndArguments;
  static constexpr int kBytes = kTable + NormTable<C>::kBytes;

  static XMAE_HD void run(Lane& lane, const EndArguments& run) {
    const Mine mine = mine_of(run.parts, lane.block());
    const Part& part = mine.part;
    const int piece = lane.thread() % (C / 8);
    make_norm_table<C, C>(lane, run.step, run.norm, mine, 0, static_cast<int64_t>(part.B) * part.L_out, 0, kTable);
    const HalfNorm norm = HalfNorm::of<C>(lane, kTable, 8 * piece);
    if constexpr (BACKWARD) {
      backward(lane, run, mine, norm, piece);
    } else {
      float scale[8], shift[8];  // the skip path is scale * x + shift
      XMAE_UNROLL
      for (int k = 0; k < 8; ++k) {
        const int channel = kSkipChannel + 8 * piece + k;
        const float weight = skip_weight(run.step, mine.stem, 8 * piece + k),
                    by = run.step.norm(mine.stem, kScale)[channel];
        scale[k] = weight * by;
        shift[k] = run.step.norm(mine.stem, kBeta)[channel] - run.step.norm(mine.stem, kMean)[channel] * by;
      }
      each_row(lane, mine, [&](int64_t row, int64_t place) {
        float v[8];
        unpack<Number>(lane.template fetch<Words4>(run.head + place), v);
        norm.activate(lane, v);
        const float x = run.wave.template at<Number>(row);
        XMAE_UNROLL
        for (int k = 0; k < 8; ++k) v[k] += fmaf(x, scale[k], shift[k]);
        lane.put(run.out + place, pack<Number>(v));
      });
    }
  }

 private:
  // Returns the skip path's weight, rounded as products take it.
  static XMAE_HD float skip_weight(const Step& step, int stem, int channel) {
    return Number::value(Number::one(step.weights(stem)[kSkipWeights + channel]));
  }

  static XMAE_HD void backward(Lane& lane, const EndArguments& run, const Mine& mine, const HalfNorm& norm, int piece) {
    float mean[8], rstd[8], sums[EndArguments::kSums][8];
    load_eight(lane, NormTable<C>::mean(kTable, 8 * piece), mean);
    load_eight(lane, NormTable<C>::rstd(kTable, 8 * piece), rstd);
    XMAE_UNROLL
    for (int i = 0; i < EndArguments::kSums; ++i) {
      XMAE_UNROLL
      for (int k = 0; k < 8; ++k) sums[i][k] = 0.0f;
    }
    const float x_mean = run.step.norm(mine.stem, kMean)[kTrainChannels];
    const uint16_t* const grad = run.grads[mine.stem] - mine.part.out_before * C;
    each_row(lane, mine, [&](int64_t row, int64_t place) {
      float pre[8], g[8], d[8];
      unpack<Number>(lane.template fetch<Words4>(run.head + place), pre);
      unpack<Number>(lane.template fetch<Words4>(grad + place), g);
      XMAE_UNROLL
      for (int k = 0; k < 8; ++k) d[k] = g[k] * silu_slope_of_half(lane, fmaf(pre[k], norm.scale[k], norm.shift[k]));
      const Words4 words = pack<Number>(d);
      lane.put(run.out + place, words);
      unpack<Number>(words, d);
      const float x = run.wave.template at<Number>(row) - x_mean;
      XMAE_UNROLL
      for (int k = 0; k < 8; ++k) {
        sums[0][k] += d[k];
        sums[1][k] = fmaf(d[k], (pre[k] - mean[k]) * rstd[k], sums[1][k]);
        sums[2][k] += g[k];
        sums[3][k] = fmaf(g[k], x, sums[3][k]);
      }
    });
    leave_sums<EndArguments::kSums>(
        lane, sums, 0, run.sums + static_cast<int64_t>(lane.block()) * EndArguments::kSums * C, C);
  }

  // Calls visit(row of x, place of eight channels of that row) for this thread's share of the CTA's rows.
  template <typename Visit>
  static XMAE_HD void each_row(Lane& lane, const Mine& mine, const Visit& visit) {
    const Part& part = mine.part;
    const int rows = part.B * part.L_out;
    for (int first = mine.cta * EndArguments::kRows; first < rows; first += part.blocks * EndArguments::kRows) {
      each_piece<C>(lane, EndArguments::kRows, [&](int row, int piece) {
        if (first + row >= rows) return;
        const int64_t at = part.out_before + first + row;
        visit(at, at * C + 8 * piece);
      });
    }
  }
};

template <typename Lane>
using EndForward = End<Lane, false>;
template <typename Lane>
using EndBackward = End<Lane, true>;

}  // namespace xmae_fast::cuda
