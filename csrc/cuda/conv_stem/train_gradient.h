// Brings the gradient of a convolution's output to shared memory. On the way it is taken back through BatchNorm, or,
// for a convolution whose output was interpolated to a finer level, gathered from the rows of that level.
#pragma once

#include "cuda/conv_stem/train_wave.h"

namespace xmae_fast::cuda {

struct BackwardArguments {
  Part parts[2];
  Step step;
  const uint16_t* d;       // gradient [rows of the output, C_OUT]; with UP [rows of the finer level, C_OUT]
  bool normed;             // d is the gradient after BatchNorm, times SiLU's derivative; else that of the output itself
  const uint16_t* pre;     // if normed: [rows of the output, C_OUT]: the output before BatchNorm
  int out_channel;         // first channel of the output in `norms`
  bool out_branches;       // the output's channels are in the order k7 | k5 | k3
  const float* d_sums;     // [CTAs, 2, C_OUT]: sums of d and of d times the normalised output, as `leave` wrote them
  int d_sums_stride;       // numbers between the sums of two CTAs
  const uint16_t* source;  // [rows of the input, C_IN]
  bool raw;                // the source has no BatchNorm; then `out` is the gradient of the source itself
  NormSource norm;         // the source's BatchNorm
  Waveform wave;           // with WAVE, instead of a source
  const uint16_t* add;     // [rows of the input, C_IN], added to the input's gradient; or null
  const char* weights;     // packed weights of the first stem, for the backward
  int64_t weights_stride;  // bytes between the packed weights of two stems
  uint16_t* out;           // [rows of the input, C_IN]: gradient of the source after its BatchNorm; null with WAVE
  bool plain_out;          // `out` is the gradient of the activated source: no derivative of SiLU, no sums
  float* sums;   // [CTAs, 2, C_IN], with WAVE [CTAs, 2 + kWindow, 32]: sums of `out`, of `out` times the normalised
                 // source, and of `out` times x under each tap
  float* arena;  // [C_IN / 32, CTAs, arena_of_cta]: sums of the weights' gradients
};

// The shape of a convolution from C_IN to C_OUT channels, with K taps. TOGETHER: CTAs that share a multiprocessor.
// WAVE: the source is the first unit. UP: the output was interpolated to a finer level, and `d` has the rows of that
// level.
template <int C_IN_, int C_OUT_, int K_, int STRIDE_, int TOGETHER, bool WAVE_ = false, bool UP_ = false>
struct BackwardShape {
  static constexpr int C_IN = C_IN_, C_OUT = C_OUT_, K = K_, STRIDE = STRIDE_, kTogether = TOGETHER;
  static constexpr bool WAVE = WAVE_, UP = UP_;
};

// Rows of d at kRowsAt and a table at kTable in shared memory, for a CTA that takes ROWS rows of output at a time.
template <typename Lane, typename S, int ROWS, int ROWS_AT, int TABLE>
class GradientRows {
  using Number = typename Lane::Number;
  static constexpr int C = S::C_OUT, kRowsAt = ROWS_AT, kScratch = ROWS_AT, kTable = TABLE;

 public:
  static constexpr int kStaged = S::STRIDE == 1 ? ROWS + S::K - 1 : ROWS + 1;
  static constexpr int kRowBytes = kStaged * Rows<C>::kBytes, kTableBytes = 5 * 4 * C;

  XMAE_HD GradientRows(Lane& lane, const BackwardArguments& run, const Mine& mine)
      : lane_(lane), run_(run), mine_(mine) {}

  // Makes the table that takes d back through BatchNorm: per channel a, b and c of a d + b pre + c. first_part: this
  // CTA has the first channels of the input; the stem's first such CTA also writes the gradients of beta and gamma.
  XMAE_HD void make_table(bool first_part) {
    const Part& part = mine_.part;
    const int c = lane_.thread(), channel = run_.out_channel + published(C, run_.out_branches, c < C ? c : 0);
    const float* const from = run_.d_sums + static_cast<int64_t>(part.source_first) * run_.d_sums_stride;
    for (int which = 0; which < 2; ++which) {
      sum_over_ctas<C>(lane_, kScratch, kTable + 4 * (3 + which) * C, part.of_source, [&](int cta, int quad) {
        return lane_.template fetch<Float4>(
            from + static_cast<int64_t>(cta) * run_.d_sums_stride + which * C + 4 * quad);
      });
    }
    if (c < C) {
      const float d_beta = lane_.template load<float>(kTable + 4 * (3 * C + c));
      const float d_gamma = lane_.template load<float>(kTable + 4 * (4 * C + c));
      const float scale = run_.step.norm(mine_.stem, kScale)[channel],
                  mean = run_.step.norm(mine_.stem, kMean)[channel];
      const float share =
          run_.step.batch ? scale / (static_cast<float>(part.B) * static_cast<float>(part.L_out)) : 0.0f;
      const float slope = -share * d_gamma * run_.step.norm(mine_.stem, kRstd)[channel];
      lane_.store(kTable + 4 * c, scale);
      lane_.store(kTable + 4 * (C + c), slope);
      lane_.store(kTable + 4 * (2 * C + c), -share * d_beta - slope * mean);
      if (mine_.cta == 0 && first_part) {
        float* const sums = run_.step.sums + mine_.stem * 2 * kTrainChannels;
        sums[channel] = d_beta;
        sums[kTrainChannels + channel] = d_gamma;
      }
    }
    lane_.barrier();
  }

  // Writes the rows of d that the inputs of the outputs [first, first + ROWS) need, with zeros between samples.
  XMAE_HD void stage(int first) {
    if constexpr (S::UP) {
      stage_up_adjoint(first);
    } else {
      stage_rows_of_output(first);
    }
  }

 private:
  XMAE_HD void stage_rows_of_output(int first) {
    const Part& part = mine_.part;
    const int before = S::STRIDE == 1 ? first - S::K / 2 : first;
    const auto row_in = [&](const uint16_t* array, int row) {
      const int64_t from = row_of(before + row, part.spacing, part.B, part.L_out, part.out_before);
      return from < 0 ? nullptr : array + from * C;
    };
    stage_rows<C>(
        lane_, kRowsAt, kStaged, run_.normed, [&](int row) { return row_in(run_.d, row); },
        [&] {
          const uint32_t table = kTable + 4 * 8 * (lane_.thread() % (C / 8));
          Through through;
          load_eight(lane_, table, through.a);
          load_eight(lane_, table + 4 * C, through.b);
          load_eight(lane_, table + 4 * 2 * C, through.c);
          return [this, through, row_in](const Words4& words, int row, int piece) {
            float d[8], pre[8];
            unpack<Number>(words, d);
            unpack<Number>(lane_.template fetch<Words4>(row_in(run_.pre, row) + 8 * piece), pre);
            XMAE_UNROLL
            for (int k = 0; k < 8; ++k) d[k] = fmaf(through.a[k], d[k], fmaf(through.b[k], pre[k], through.c[k]));
            return pack<Number>(d);
          };
        });
  }

  // Applies the transpose of interpolation. At most five rows of the finer level can have read a row.
  XMAE_HD void stage_up_adjoint(int first) {
    const Part& part = mine_.part;
    const float ratio = static_cast<float>(part.L_out) / static_cast<float>(part.L_other);
    each_piece<C, 1>(lane_, kStaged, [&](int row, int piece) {
      const int sample = (first + row) / part.spacing, at = first + row - sample * part.spacing;
      float sum[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
      if (sample < part.B && at < part.L_out) {
        const int64_t fine = part.other_before + static_cast<int64_t>(sample) * part.L_other;
        XMAE_NO_UNROLL
        for (int i = 2 * at - 2; i <= 2 * at + 2; ++i) {
          if (i < 0 || i >= part.L_other) continue;
          const Between rows = between(i, ratio, part.L_out);
          const float share = (rows.low == at ? 1.0f - rows.weight : 0.0f) + (rows.high == at ? rows.weight : 0.0f);
          float d[8];
          unpack<Number>(lane_.template fetch<Words4>(run_.d + (fine + i) * C + 8 * piece), d);
          XMAE_UNROLL
          for (int k = 0; k < 8; ++k) sum[k] = fmaf(share, d[k], sum[k]);
        }
      }
      lane_.store(kRowsAt + Rows<C>::at(row, piece), pack<Number>(sum));
    });
  }

  struct Through {
    float a[8], b[8], c[8];
  };

  Lane& lane_;
  const BackwardArguments& run_;
  const Mine& mine_;
};

}  // namespace xmae_fast::cuda
