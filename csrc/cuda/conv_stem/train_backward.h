// The backward of one convolution of the stem, as one kernel. It takes the gradient of the convolution's output back
// through BatchNorm while it copies rows to shared memory. Multiplied by the weights, that gives the gradient of the
// input; multiplied by the input, the gradient of the weights.
//
// A CTA has 32 of the input's channels. Its share of the weights' gradient stays in registers over all rows of the CTA.
// The convolution's input is called its source: the output of an earlier convolution before BatchNorm and SiLU.
#pragma once

#include "cuda/conv_stem/train_forward.h"
#include "cuda/conv_stem/train_gradient.h"

namespace xmae_fast::cuda {

// A pair is a tap and eight output channels. Each of a CTA's eight warps has the weights' gradients of so many pairs.
constexpr XMAE_HD int pairs_of_warp(int k, int c_out) { return (pairs(k, c_out) + 7) / 8; }
// Returns how many float32 numbers a CTA leaves in the arena: its sums of all pairs, rounded up to whole warps.
constexpr XMAE_HD int arena_of_cta(int k, int c_out) { return 8 * pairs_of_warp(k, c_out) * 2 * 32 * 4; }

template <typename Lane, typename S>
class ConvBackward {
  using Number = typename Lane::Number;
  static constexpr int kWarps = Lane::kThreads / 32, kPairs = pairs_of_warp(S::K, S::C_OUT),
                       kArena = arena_of_cta(S::K, S::C_OUT);
  static_assert(kWarps == 8 && (S::STRIDE == 1 || S::K == 3));

 public:
  using Arguments = BackwardArguments;
  static constexpr int kParts = S::C_IN / 32;            // CTAs that take the same rows, with 32 input channels each
  static constexpr int kRows = 32 * kWarps / S::STRIDE;  // rows of output that a CTA takes at a time
  static constexpr int kInputs = S::STRIDE * kRows;      // rows of input whose gradients these give

 private:
  // Offsets in bytes in shared memory: rows of the output's gradient (and scratch), rows of the source, weights,
  // tables.
  static constexpr int kSourceRows = S::STRIDE * (kRows - 1) + S::K;
  static constexpr int kD = 0, kSource = padded(most(GradientRows<Lane, S, kRows, 0, 0>::kRowBytes, kScratchBytes));
  static constexpr int kWeightsAt = kSource + padded(most(kSourceRows, kInputs) * Rows<32>::kBytes);
  static constexpr int kWeightBytes = backward_bytes_of_part({S::K, S::STRIDE, S::C_IN, S::C_OUT, 0});
  static constexpr int kTable = kWeightsAt + kWeightBytes;  // the source's BatchNorm
  static constexpr int kThrough = kTable + (S::WAVE ? WaveRoom<kSourceRows>::kBytes : NormTable<32>::kBytes);
  using Gradient = GradientRows<Lane, S, kRows, kD, kThrough>;
  static constexpr int kParked = kThrough + Gradient::kTableBytes;
  static constexpr int kSums = S::WAVE ? 2 + kWindow : 2;

 public:
  static constexpr int kPre = kParked + 4 * 8 * kSums * Lane::kThreads;  // with WAVE: rows of the source itself
  static constexpr int kBytes = kPre + (S::WAVE ? kRows * Rows<32>::kBytes : 0);

  // Computes one CTA's share of the launch.
  static XMAE_HD void run(Lane& lane, const BackwardArguments& run) { ConvBackward(lane, run).all(); }

 private:
  XMAE_HD ConvBackward(Lane& lane, const BackwardArguments& run)
      : lane_(lane),
        run_(run),
        mine_(mine_of(run.parts, lane.block() / kParts)),
        part_(lane.block() % kParts),
        first_(pair_in_order(S::K, S::C_OUT, lane.warp() * kPairs)),
        weights_(lane, kWeightsAt, run.weights + mine_.stem * run.weights_stride + part_ * kWeightBytes, kWeightBytes) {
  }

  XMAE_HD void all() {
    const Part& part = mine_.part;
    if constexpr (S::WAVE) {
      make_wave_tables(lane_, run_.step, mine_, nullptr, kD, kTable, kTable + WaveRoom<kSourceRows>::kWeights);
    } else if (!run_.raw) {
      make_norm_table<32, S::C_IN>(lane_, run_.step, run_.norm, mine_, 32 * part_, 0, kD, kTable);
    }
    Gradient gradient(lane_, run_, mine_);
    if (run_.normed) gradient.make_table(part_ == 0);
    const int end = part.B * part.spacing;
    float weight_sums[kPairs][2][4];
    XMAE_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      XMAE_UNROLL
      for (int k = 0; k < 8; ++k) weight_sums[i][k / 4][k % 4] = 0.0f;
    }
    float sums[kSums][8];
    XMAE_UNROLL
    for (int i = 0; i < kSums; ++i) {
      XMAE_UNROLL
      for (int k = 0; k < 8; ++k) sums[i][k] = 0.0f;
      park(lane_, kParked, sums[i], 8 * i);
    }
    XMAE_NO_UNROLL
    for (int first = mine_.cta * kRows; first < end; first += part.blocks * kRows) {
      lane_.forget_addresses();
      lane_.barrier();
      gradient.stage(first);
      lane_.forget_addresses();
      stage_source(first);
      lane_.wait_for_copies();
      lane_.barrier();
      lane_.forget_addresses();
      XMAE_NO_UNROLL
      for (int row = 0; row < kRows && first + row < end; row += 32) add_weight_sums(weight_sums, row);
      lane_.forget_addresses();
      input_gradient(first, end);
      lane_.barrier();
      lane_.forget_addresses();
      lane_.hide(first);
      leave(first);
    }
    lane_.wait_for_copies();
    leave_weight_sums(weight_sums);
    if (run_.sums) {
      XMAE_UNROLL
      for (int i = 0; i < kSums; ++i) unpark(lane_, kParked, sums[i], 8 * i);
      if (!run_.raw) {
        float rstd[8];
        load_eight(lane_, NormTable<32>::rstd(kTable, 8 * (lane_.thread() % 4)), rstd);
        XMAE_UNROLL
        for (int k = 0; k < 8; ++k) sums[1][k] *= rstd[k];
      }
      float* const to = run_.sums + static_cast<int64_t>(lane_.block() / kParts) * kSums * S::C_IN + 32 * part_;
      leave_sums<kSums>(lane_, sums, kD, to, S::C_IN);
    }
  }

  // Writes the activated source rows that the outputs from row `first` on read to shared memory.
  XMAE_HD void stage_source(int first) {
    if constexpr (S::WAVE) {
      const Part& part = mine_.part;
      const uint32_t window = kTable + WaveRoom<kSourceRows>::kWindowAt;
      load_window(lane_, run_.wave, part, first, kRows, window);
      lane_.barrier();
      const int row = lane_.warp() * kRows / kWarps;
      Sums<2, 4> outputs = convolve_wave<2>(lane_, window, kTable + WaveRoom<kSourceRows>::kWeights, row);
      store_columns<32>(lane_, rounded(lane_, outputs), kPre, row, 0);
      activate_columns(lane_, outputs, kTable);
      // Rows between samples need no zeros here, because the gradient has zeros there.
      store_columns<32>(lane_, rounded(lane_, outputs), kSource, row, 0);
    } else {
      stage_rows<32>(
          lane_, kSource, kSourceRows, !run_.raw,
          [&](int row) {
            const int64_t from = input_row(S::STRIDE * first - S::K / 2 + row);
            return from < 0 ? nullptr : run_.source + from * S::C_IN + 32 * part_;
          },
          [&] { return HalfNorm::activation<32>(lane_, kTable); });
    }
  }
  // Returns the row of the source array for row `row` of the padded samples, or -1 for a row of zeros.
  XMAE_HD int64_t input_row(int row) const {
    const Part& part = mine_.part;
    return row_of(row, S::STRIDE * part.spacing, part.B, part.L_in, part.in_before);
  }

  // sums += source^T d over 32 rows of output. ldmatrix transposes the operands.
  XMAE_HD void add_weight_sums(float (&sums)[kPairs][2][4], int row) {
    const int lane = lane_.lane();
    uint32_t a[2][2][4];  // [16 rows][16 inputs]
    Pair pair = first_;   // pair.tap counts taps in the order of tap_in_order
    XMAE_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      if (pair.tap >= S::K) break;
      const int tap = tap_in_order(S::K, pair.tap);
      if (i == 0 || pair.tile == 0) {
        XMAE_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int at = S::STRIDE * (row + 16 * half + (lane & 7) + 8 * (lane >> 4)) + tap;
          XMAE_UNROLL
          for (int inputs = 0; inputs < 2; ++inputs) {
            lane_.load_matrix_transposed(a[half][inputs], kSource + Rows<32>::at(at, 2 * inputs + (lane >> 3 & 1)));
          }
        }
      }
      uint32_t b[4];
      lane_.load_matrix_transposed(b, kD + Rows<S::C_OUT>::at(row + (S::STRIDE == 1 ? S::K / 2 : 0) + lane, pair.tile));
      XMAE_UNROLL
      for (int half = 0; half < 2; ++half) {
        XMAE_UNROLL
        for (int inputs = 0; inputs < 2; ++inputs) {
          lane_.mma(sums[i][inputs], a[half][inputs], b[2 * half], b[2 * half + 1]);
        }
      }
      if (++pair.tile == tiles_under(S::K, S::C_OUT, tap)) pair = {pair.tap + 1, 0};
    }
  }

  // Computes the gradient of the input rows and writes it over the source in shared memory.
  XMAE_HD void input_gradient(int first, int end) {
    const int row = lane_.warp() * kRows / kWarps;
    const bool works = first + row < end;
    weights_.rewind();
    if constexpr (S::STRIDE == 1) {
      Sums<2, 4> sums;
      clear(sums);
      XMAE_NO_UNROLL
      for (int i = 0; i < S::K; ++i) {
        const int tap = tap_in_order(S::K, i), parts = parts_under(S::K, S::C_OUT, tap);
        XMAE_NO_UNROLL
        for (int part = 0; part < parts; ++part) {
          const uint32_t weights = weights_.template tiles<4>();
          if (works) convolve_step<4, S::C_OUT, 1>(lane_, sums, weights, kD, row + S::K - 1 - tap, part);
        }
      }
      lane_.barrier();  // now no thread reads the source any more
      store_columns<32>(lane_, rounded(lane_, sums), kSource, row, 0);
    } else {
      // Tap t of output l has read input 2 l - 1 + t. So input 2 l was read by tap 1 of output l, and input 2 l + 1 by
      // tap 2 of output l and tap 0 of output l + 1.
      Sums<1, 4> even, odd;
      clear(even);
      clear(odd);
      XMAE_NO_UNROLL
      for (int part = 0; part < S::C_OUT / 32; ++part) step(odd, works, row + 1, part);
      XMAE_NO_UNROLL
      for (int part = 0; part < S::C_OUT / 32; ++part) step(even, works, row, part);
      XMAE_NO_UNROLL
      for (int part = 0; part < S::C_OUT / 32; ++part) step(odd, works, row, part);
      lane_.barrier();
      store_columns<32>(lane_, rounded(lane_, even), kSource, 2 * row, 0, 2);
      store_columns<32>(lane_, rounded(lane_, odd), kSource, 2 * row + 1, 0, 2);
    }
  }
  XMAE_HD void step(Sums<1, 4>& sums, bool works, int row, int part) {
    const uint32_t weights = weights_.template tiles<4>();
    if (works) convolve_step<4, S::C_OUT, 1>(lane_, sums, weights, kD, row, part);
  }

  // Writes the gradients of the input rows to global memory. If the source has BatchNorm and SiLU, it multiplies them
  // by the derivative of SiLU before and adds up what the gradients of BatchNorm need.
  XMAE_HD void leave(int first) {
    if (run_.plain_out || run_.raw) {
      each_piece<32, 2>(lane_, kInputs, [&](int row, int piece) {
        const int64_t at = input_row(S::STRIDE * first + row);
        if (at >= 0) {
          lane_.put(run_.out + place(at, piece), lane_.template load<Words4>(kSource + Rows<32>::at(row, piece)));
        }
      });
      return;
    }
    const int channel = 8 * (lane_.thread() % 4);
    const HalfNorm norm = HalfNorm::of<32>(lane_, kTable, channel);
    float mean[8], sums[kSums][8];
    load_eight(lane_, NormTable<32>::mean(kTable, channel), mean);
    XMAE_UNROLL
    for (int i = 0; i < kSums; ++i) unpark(lane_, kParked, sums[i], 8 * i);
    each_piece<32, 1>(lane_, kInputs, [&](int row, int piece) {
      const int64_t at = input_row(S::STRIDE * first + row);
      if (at < 0) return;
      float d[8], pre[8];
      unpack<Number>(lane_.template load<Words4>(kSource + Rows<32>::at(row, piece)), d);
      if (run_.add) {
        unpack<Number>(lane_.template fetch<Words4>(run_.add + place(at, piece)), pre);
        XMAE_UNROLL
        for (int k = 0; k < 8; ++k) d[k] += pre[k];
      }
      if constexpr (S::WAVE) {
        unpack<Number>(lane_.template load<Words4>(kPre + Rows<32>::at(row, piece)), pre);
      } else {
        unpack<Number>(lane_.template fetch<Words4>(run_.source + place(at, piece)), pre);
      }
      XMAE_UNROLL
      for (int k = 0; k < 8; ++k) d[k] *= silu_slope_of_half(lane_, fmaf(pre[k], norm.scale[k], norm.shift[k]));
      if constexpr (!S::WAVE) {
        const Words4 words = pack<Number>(d);
        lane_.put(run_.out + place(at, piece), words);
        unpack<Number>(words, d);  // the sums are those of the rounded numbers, as the next launch reads them
      }
      XMAE_UNROLL
      for (int k = 0; k < 8; ++k) {
        sums[0][k] += d[k];
        sums[1][k] = fmaf(d[k], pre[k] - mean[k], sums[1][k]);
      }
      if constexpr (S::WAVE) {
        XMAE_UNROLL
        for (int t = 0; t < kWindow; ++t) {
          const float x = lane_.template load<float>(kTable + WaveRoom<kSourceRows>::kWindowAt + 4 * (row + t));
          XMAE_UNROLL
          for (int k = 0; k < 8; ++k) sums[2 + t][k] = fmaf(d[k], x, sums[2 + t][k]);
        }
      }
    });
    XMAE_UNROLL
    for (int i = 0; i < kSums; ++i) park(lane_, kParked, sums[i], 8 * i);
  }
  // Returns the place of eight channels of a row in an array [rows, C_IN].
  XMAE_HD int64_t place(int64_t row, int piece) const { return row * S::C_IN + 32 * part_ + 8 * piece; }

  // Writes this warp's gradients of weights to the arena. The last launch of the step adds up those of all CTAs.
  XMAE_HD void leave_weight_sums(const float (&sums)[kPairs][2][4]) {
    const int ctas = run_.parts[0].blocks + run_.parts[1].blocks, cta = lane_.block() / kParts;
    float* const to = run_.arena + (static_cast<int64_t>(part_) * ctas + cta) * kArena;
    XMAE_UNROLL
    for (int i = 0; i < kPairs; ++i) {
      XMAE_UNROLL
      for (int inputs = 0; inputs < 2; ++inputs) {
        float* const place = to + (((lane_.warp() * kPairs + i) * 2 + inputs) * 32 + lane_.lane()) * 4;
        const float (&v)[4] = sums[i][inputs];
        lane_.put(place, Words4{{bits_of(v[0]), bits_of(v[1]), bits_of(v[2]), bits_of(v[3])}});
      }
    }
  }

  Lane& lane_;
  const BackwardArguments& run_;
  const Mine mine_;
  const int part_;
  const Pair first_;  // the warp's first pair; its tap counts in the order of tap_in_order
  ResidentWeights<Lane> weights_;
};

}  // namespace xmae_fast::cuda
