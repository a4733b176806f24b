// The stem in evaluation. One CTA computes one sample at a time, and the outputs of a whole layer are in its registers.
// xmae_fast/ops/conv_stem/cuda/README.md draws the flow of data.
//
// LEVEL is 0, 1 or 2: the finest, the middle and the coarsest time resolution. e1, e2, e3 name the outputs of the
// encoder's three levels; t2 and t1 those of the smoothing convolutions on the way back to the finest level.
#pragma once

#include "cuda/conv_stem/eval_arguments.h"
#include "cuda/conv_stem/tile.h"
#include "cuda/conv_stem/weight_stream.h"

namespace xmae_fast::cuda {

template <typename Lane, int R>
class StemEval {
  using Number = typename Lane::Number;
  using Layout = Room<Lane::kThreads / 32, R>;
  template <int LEVEL>
  using LevelSums = Sums<Layout::tiles(LEVEL), width(LEVEL) / 8>;
  template <int LEVEL>
  using LevelOutputs = Outputs<Layout::tiles(LEVEL), width(LEVEL) / 8>;

 public:
  XMAE_HD StemEval(Lane& lane, const EvalArguments& run)
      : lane_(lane), run_(run), weights_(lane, Layout::kSlots, run.stream, run.chunks) {}

  // Computes all samples of this CTA: it takes every blocks()-th.
  XMAE_HD void all() {
    XMAE_NO_UNROLL
    for (int b = lane_.block(); b < run_.B; b += lane_.blocks()) sample(b);
    lane_.wait_for_copies();
  }

 private:
  XMAE_HD void sample(int b) {
    lane_.forget_addresses();
    lane_.hide(b);
    weights_.rewind();
    load_input(b);
    lane_.barrier();
    lane_.forget_addresses();
    publish<0>(first_block());
    publish<0>(keep<0>(block<0>()));  // e1
    publish<1>(convolve<0, 1, 2>());
    XMAE_NO_UNROLL
    for (int last = 0; last < 2; ++last) {
      const LevelOutputs<1> out = block<1>();
      if (last) keep<1>(out);  // e2
      publish<1>(out);
    }
    publish<2>(convolve<1, 2, 2>());
    XMAE_NO_UNROLL
    for (int last = 0; last < 2; ++last) {
      const LevelOutputs<2> out = block<2>();
      last ? reduce<2>(out) : publish<2>(out);  // e3
    }
    publish<1>(merge<1>());
    reduce<1>(convolve<1, 1, 1>());  // t2
    publish<0>(merge<0>());
    publish<0>(convolve<0, 0, 1>());  // t1
    lane_.hide(b);
    for (int columns = 0; columns < run_.S; columns += kColumns) head(b, columns);
  }

  template <int LEVEL>
  XMAE_HD int first_row() const {
    return lane_.warp() * Layout::tiles(LEVEL) * kTileRows;
  }
  XMAE_HD int length(int level) const { return length_at(run_.L, level); }

  // Writes x to shared memory in 16 bits with zeros around it. It lies where e2 is kept later.
  XMAE_HD void load_input(int b) {
    lane_.barrier();  // until here threads may read the features of the previous sample from there
    for (int i = lane_.thread(); i < Layout::rows(0) + 8; i += Lane::kThreads) {
      const int l = i - kPadRows;
      const float value = l >= 0 && l < run_.L ? input<Number>(run_, b, l) : 0.0f;
      lane_.store(Layout::kKeep2 + 2 * i, static_cast<uint16_t>(Number::one(value)));
    }
  }

  // Writes the outputs of all warps to shared memory, over the activation that they were computed from.
  template <int LEVEL>
  XMAE_HD void publish(const LevelOutputs<LEVEL>& out) {
    lane_.barrier();
    store_rows(lane_, out, Layout::kActivation, kPadRows, first_row<LEVEL>(), length(LEVEL));
    store_padding<width(LEVEL)>(lane_, Layout::kActivation, length(LEVEL));
    lane_.barrier();
    lane_.forget_addresses();
  }

  // Computes the first Inception block. It reads one channel, so its seven taps are the input numbers of one product.
  XMAE_HD LevelOutputs<0> first_block() {
    LevelSums<0> sums;
    begin_with(lane_, sums, weights_.next(kTileBytes));
    const uint32_t weights = weights_.template tiles<4>();
    if (first_row<0>() < run_.L) {
      const uint32_t mine = Layout::kKeep2 + 2 * (first_row<0>() + lane_.lane() / 4 + 2 * (lane_.lane() % 4));
      multiply<4>(lane_, sums, weights, [&](int i, int h, uint32_t (&a)[4]) {
        a[0] = a[1] = a[2] = a[3] = 0;
        if (h == 1) return;
        for (int below = 0; below < 2; ++below) {
          const uint32_t at = mine + 2 * (i * kTileRows + 8 * below);
          a[below] = lane_.template load<uint16_t>(at) | lane_.template load<uint16_t>(at + 2) << 16;
        }
      });
    }
    return fuse<0>(sums);
  }

  // Computes an Inception block: its three branches as one convolution of seven taps, then the 1x1 convolution that
  // fuses them, which reads only outputs of its own lane. `fuse` takes its first weights before it applies SiLU,
  // because ptxas spills registers that hold results across the wait for weights.
  template <int LEVEL>
  XMAE_HD LevelOutputs<LEVEL> block() {
    constexpr int C = width(LEVEL);
    LevelSums<LEVEL> sums;
    begin_with(lane_, sums, weights_.next(kTileBytes));
    taps<LEVEL, LEVEL, 1, 7, tiles_of_tap(C, 2)>(sums, 2, 1, 3);
    taps<LEVEL, LEVEL, 1, 7, tiles_of_tap(C, 1)>(sums, 1, 4, 2);
    taps<LEVEL, LEVEL, 1, 7, tiles_of_tap(C, 0)>(sums, 0, 6, 2);
    return fuse<LEVEL>(sums);
  }

  // Applies SiLU to the sums of the branches and fuses them, in two halves of the output channels.
  template <int LEVEL>
  XMAE_HD LevelOutputs<LEVEL> fuse(const LevelSums<LEVEL>& branch_sums) {
    constexpr int TILES = Layout::tiles(LEVEL), N = width(LEVEL) / 8;
    uint32_t shifts = weights_.next(kTileBytes), weights = weights_.template tiles<N / 2>();
    const LevelOutputs<LEVEL> branches = activated(lane_, branch_sums);
    LevelOutputs<LEVEL> out;
    XMAE_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (half == 1) {
        shifts = weights_.next(kTileBytes);
        weights = weights_.template tiles<N / 2>();
      }
      Sums<TILES, N / 2> sums;
      begin_with(lane_, sums, shifts);
      multiply_outputs(sums, branches, weights);
      const Outputs<TILES, N / 2> columns = activated(lane_, sums);
      XMAE_UNROLL
      for (int i = 0; i < TILES; ++i) {
        XMAE_UNROLL
        for (int j = 0; j < N / 4; ++j) {
          XMAE_UNROLL
          for (int k = 0; k < 4; ++k) out.v[i][half * N / 4 + j][k] = columns.v[i][j][k];
        }
      }
    }
    return out;
  }

  // sums += inputs B: a 1x1 convolution of outputs that this lane has just computed. weights: those of the first 32
  // input channels; the function takes the others from the stream.
  template <int TILES, int N_IN, int N>
  XMAE_HD void multiply_outputs(Sums<TILES, N>& sums, const Outputs<TILES, N_IN>& inputs, uint32_t weights) {
    XMAE_UNROLL
    for (int part = 0; part < N_IN / 4; ++part) {
      if (part > 0) weights = weights_.template tiles<N>();
      multiply<N>(lane_, sums, weights, [&](int i, int h, uint32_t (&a)[4]) {
        XMAE_UNROLL
        for (int k = 0; k < 4; ++k) a[k] = inputs.v[i][2 * part + h][k];
      });
    }
  }

  // Computes a convolution of three taps, from level FROM to LEVEL.
  template <int FROM, int LEVEL, int STRIDE>
  XMAE_HD LevelOutputs<LEVEL> convolve() {
    LevelSums<LEVEL> sums;
    begin_with(lane_, sums, weights_.next(kTileBytes));
    taps<FROM, LEVEL, STRIDE, 3, width(LEVEL) / 8>(sums, 0, 1, 3);
    return activated(lane_, sums);
  }

  // Adds taps first, first + step, ... of a window, `count` of them. Each has weights for the first TILES tiles of
  // outputs.
  template <int FROM, int LEVEL, int STRIDE, int WINDOW, int TILES>
  XMAE_HD void taps(LevelSums<LEVEL>& sums, int first, int step, int count) {
    XMAE_NO_UNROLL
    for (int i = 0; i < count; ++i) {
      const int row = STRIDE * first_row<LEVEL>() + first + i * step + kPadRows - WINDOW / 2;
      XMAE_NO_UNROLL
      for (int part = 0; part < width(FROM) / 32; ++part) {
        const uint32_t weights = weights_.template tiles<TILES>();
        if (first_row<LEVEL>() < length(LEVEL)) {  // a warp without rows only takes part in copies and barriers
          convolve_step<TILES, width(FROM), STRIDE>(lane_, sums, weights, Layout::kActivation, row, part);
        }
      }
    }
  }

  // The output of an encoder level is read again, by `merge`, but only by the lane that computed it. So it is kept as
  // the lane has it in registers: 16 bytes for each tile of 16 columns. These two say where.
  template <int LEVEL>
  XMAE_HD char* kept() {
    char* base = LEVEL == 1   ? lane_.shared() + Layout::kKeep2
                 : run_.keep1 ? run_.keep1 + static_cast<int64_t>(lane_.block()) * Layout::kKeep1Bytes
                              : lane_.shared() + Layout::kKeep1;
    return base + 16 * (lane_.warp() * Layout::tiles(LEVEL) * (width(LEVEL) / 16) * 32 + lane_.lane());
  }
  template <int LEVEL>
  static constexpr XMAE_HD int kept_at(int tile, int columns) {
    return 16 * 32 * (tile * (width(LEVEL) / 16) + columns);
  }
  template <int LEVEL>
  XMAE_HD LevelOutputs<LEVEL> keep(const LevelOutputs<LEVEL>& out) {
    char* const to = kept<LEVEL>();
    XMAE_UNROLL
    for (int i = 0; i < Layout::tiles(LEVEL); ++i) {
      XMAE_UNROLL
      for (int j = 0; j < width(LEVEL) / 16; ++j) {
        lane_.store_own(
            to + kept_at<LEVEL>(i, j), Words4{{out.v[i][j][0], out.v[i][j][1], out.v[i][j][2], out.v[i][j][3]}});
      }
    }
    return out;
  }

  // Reduces the output of a level, by a 1x1 convolution, to the channels of the next finer level, and leaves the result
  // in shared memory.
  template <int LEVEL>
  XMAE_HD void reduce(const LevelOutputs<LEVEL>& out) {
    constexpr int N = width(LEVEL - 1) / 8;
    Sums<Layout::tiles(LEVEL), N> sums;
    clear(sums);
    multiply_outputs(sums, out, weights_.template tiles<N>());
    lane_.barrier();
    store_rows(lane_, rounded(lane_, sums), Layout::kActivation, 0, first_row<LEVEL>(), length(LEVEL));
    lane_.barrier();
    lane_.forget_addresses();
  }

  // Returns the 1x1 convolution of the level's kept output plus the result of `reduce` for the coarser level,
  // interpolated.
  template <int LEVEL>
  XMAE_HD LevelOutputs<LEVEL> merge() {
    constexpr int N = width(LEVEL) / 8;
    LevelSums<LEVEL> sums;
    clear(sums);
    const char* const from = kept<LEVEL>();
    XMAE_UNROLL
    for (int part = 0; part < N / 4; ++part) {
      multiply<N>(lane_, sums, weights_.template tiles<N>(), [&](int i, int h, uint32_t (&a)[4]) {
        const Words4 values = lane_.load_own(from + kept_at<LEVEL>(i, 2 * part + h));
        XMAE_UNROLL
        for (int k = 0; k < 4; ++k) a[k] = values.v[k];
      });
    }
    add_upsampled(lane_, sums, Layout::kActivation, first_row<LEVEL>(), length(LEVEL), length(LEVEL + 1));
    return rounded(lane_, sums);
  }

  // Computes kColumns channels of the features: those of the head plus those of the skip path.
  XMAE_HD void head(int b, int columns) {
    const int t = lane_.lane() % 4, row = first_row<0>() + lane_.lane() / 4;
    float x[Layout::tiles(0)][2];  // the waveform at this lane's rows, read before the sums need the registers
    XMAE_UNROLL
    for (int i = 0; i < 2 * Layout::tiles(0); ++i) {
      x[i / 2][i % 2] = row + 8 * i < run_.L ? input<Number>(run_, b, row + 8 * i) : 0.0f;
    }
    LevelSums<0> sums;
    begin_with(lane_, sums, weights_.next(kTileBytes));
    taps<0, 0, 1, 3, kColumns / 8>(sums, 0, 1, 3);
    const uint32_t skip = weights_.next(kTileBytes);
    lane_.barrier();
    XMAE_UNROLL
    for (int i = 0; i < Layout::tiles(0); ++i) {
      XMAE_UNROLL
      for (int below = 0; below < 2; ++below) {
        const int down = i * kTileRows + 8 * below;
        if (row + down >= run_.L) continue;
        XMAE_UNROLL
        for (int j = 0; j < kColumns / 8; ++j) {
          const Float2 scale = lane_.template load<Float2>(skip + 4 * (8 * j + 2 * t));
          const Float2 shift = lane_.template load<Float2>(skip + 4 * (kColumns + 8 * j + 2 * t));
          const float h0 = sums.v[i][j][2 * below], h1 = sums.v[i][j][2 * below + 1];
          const float y0 = fmaf(h0, lane_.tanh(h0), h0) + fmaf(x[i][below], scale.x, shift.x);
          const float y1 = fmaf(h1, lane_.tanh(h1), h1) + fmaf(x[i][below], scale.y, shift.y);
          const uint32_t to = Layout::kKeep2 + Rows<kColumns>::at(row, j) + 4 * t + down * Rows<kColumns>::kBytes;
          lane_.store(to, Number::two(y0, y1));
        }
      }
    }
    lane_.barrier();
    write_features(b, columns);
  }

  // Copies these channels from shared memory to the features in global memory.
  XMAE_HD void write_features(int b, int columns) {
    uint16_t* out = static_cast<uint16_t*>(run_.features) + static_cast<int64_t>(b) * run_.L * run_.S;
    const bool whole = run_.S % 8 == 0;  // then pieces of 16 bytes are aligned and none passes the end of the row
    for (int i = lane_.thread(); i < run_.L * kColumns / 8; i += Lane::kThreads) {
      const int row = i / (kColumns / 8), piece = i % (kColumns / 8), column = columns + 8 * piece;
      if (column >= run_.S) continue;
      const Words4 values = lane_.template load<Words4>(Layout::kKeep2 + Rows<kColumns>::at(row, piece));
      uint16_t* to = out + static_cast<int64_t>(row) * run_.S + column;
      if (whole) {
        *reinterpret_cast<Words4*>(to) = values;
      } else {
        XMAE_UNROLL
        for (int k = 0; k < 8; ++k) {
          if (column + k < run_.S) to[k] = static_cast<uint16_t>(values.v[k / 2] >> 16 * (k % 2));
        }
      }
    }
  }

  Lane& lane_;
  const EvalArguments& run_;
  WeightStream<Lane> weights_;
};

}  // namespace xmae_fast::cuda
