// The forward of one convolution of the stem in training, as one kernel. Its source is the output of an earlier
// convolution before BatchNorm and SiLU. The kernel applies both while it copies rows to shared memory, multiplies
// them, and adds up the moments of its outputs for their own BatchNorm while it stores them.
#pragma once

#include <type_traits>

#include "cuda/conv_stem/train_wave.h"
#include "cuda/conv_stem/weight_stream.h"

namespace xmae_fast::cuda {

// Weights that stay in shared memory. They are taken in the order of their bytes.
template <typename Lane>
class ResidentWeights {
 public:
  XMAE_HD ResidentWeights(Lane& lane, uint32_t at, const char* source, int bytes) : at_(at), next_(at) {
    for (int i = 16 * lane.thread(); i < bytes; i += 16 * Lane::kThreads) lane.copy_async(at + i, source + i);
  }
  XMAE_HD void rewind() { next_ = at_; }
  template <int TILES>
  XMAE_HD uint32_t tiles() {
    const uint32_t at = next_;
    next_ += TILES * kTileBytes;
    return at;
  }

 private:
  uint32_t at_, next_;
};
// The same interface for weights that are too many for shared memory.
template <typename Lane>
class StreamedWeights : public WeightStream<Lane> {
 public:
  XMAE_HD StreamedWeights(Lane& lane, uint32_t at, const char* source, int bytes)
      : WeightStream<Lane>(lane, at, source, bytes / kChunk) {}
};

struct ForwardArguments {
  Part parts[2];
  Step step;
  const uint16_t* source;  // [rows, C_IN]
  NormSource norm;         // the source's BatchNorm
  bool raw;                // the source has no BatchNorm and no SiLU
  const uint16_t* coarse;  // of a mix: [rows of the coarser level, C_UP]
  NormSource coarse_norm;
  Waveform wave;              // with WAVE, instead of a source
  const float* wave_partial;  // with WAVE: [CTAs, kMoments]
  const char* weights;        // packed weights of the first stem
  int64_t weights_stride;     // bytes between the packed weights of two stems
  uint16_t* out;              // [rows, N]
  float* partial;             // [CTAs, moments_stride(N)]: moments of the outputs, or null
};

// The shape of a convolution from C_IN to N channels, with K taps, and how it is computed.
//   R         16-row tiles of a warp
//   TOGETHER  CTAs that share a multiprocessor
//   BESIDE    warps that have the same rows; each has N / BESIDE of the columns
//   WAVE      the source is the first unit, which is computed again from the waveform
//   C_UP      channels of a coarser level that is interpolated and multiplied too, which makes the convolution a mix
template <
    int C_IN_, int N_, int K_, int STRIDE_, int R_, int TOGETHER, int BESIDE_ = 1, bool WAVE_ = false, int C_UP_ = 0>
struct ForwardShape {
  static constexpr int C_IN = C_IN_, N = N_, K = K_, STRIDE = STRIDE_, R = R_, C_UP = C_UP_, BESIDE = BESIDE_,
                       kTogether = TOGETHER;
  static constexpr bool WAVE = WAVE_;
  static constexpr int kRows = 16 * R * 8 / BESIDE;  // rows of output that a CTA of eight warps takes at a time
  static_assert(BESIDE == 1 || K < 7);
};

template <typename Lane, typename S>
class ConvForward {
  using Number = typename Lane::Number;
  static constexpr Unit kUnit{S::K, S::STRIDE, S::C_IN, S::N, 0};
  static constexpr bool kStreamed = streamed(kUnit);
  static constexpr int kWeightBytes = forward_bytes(kUnit) + (S::C_UP ? forward_bytes({1, 1, S::C_UP, S::N, 0}) : 0);
  static_assert(!kStreamed || kWeightBytes / kChunk % 2 == 0, "WeightStream takes an even number of chunks");
  static constexpr int kTiles = S::N / 8 / S::BESIDE;  // 8-column tiles of a warp
  using WarpSums = Sums<S::R, kTiles>;
  using Weights = std::conditional_t<kStreamed, StreamedWeights<Lane>, ResidentWeights<Lane>>;

 public:
  using Arguments = ForwardArguments;
  static constexpr int kRows = S::kRows;
  static_assert(Lane::kThreads == 256);

 private:
  // Offsets in bytes in shared memory: rows of the source, later of the output; rows of the coarser level; weights;
  // tables.
  static constexpr int kStaged = S::STRIDE * (kRows - 1) + S::K;
  static constexpr int kSourceBytes = padded(kStaged * Rows<S::C_IN>::kBytes);
  static constexpr int kTile = 0, kUp = kSourceBytes;
  static constexpr int kWeightsAt = most(most(kSourceBytes + kRows * 2 * S::C_UP, kRows * 2 * S::N), kScratchBytes);
  static constexpr int kTable = kWeightsAt + (kStreamed ? 2 * kChunk : kWeightBytes);
  static constexpr int kUpTable = kTable + (S::WAVE ? WaveRoom<kRows>::kBytes : NormTable<S::C_IN>::kBytes);
  static constexpr int kUpChannels = S::C_UP ? S::C_UP : 32;  // without a coarser level no code uses it
  static constexpr int kParked = kUpTable + (S::C_UP ? NormTable<kUpChannels>::kBytes : 0);

 public:
  static constexpr int kBytes = kParked + 4 * Moments::kNumbers * Lane::kThreads;

  // Computes one CTA's share of the launch.
  static XMAE_HD void run(Lane& lane, const ForwardArguments& run) { ConvForward(lane, run).all(); }

 private:
  XMAE_HD ConvForward(Lane& lane, const ForwardArguments& run)
      : lane_(lane),
        run_(run),
        mine_(mine_of(run.parts, lane.block())),
        weights_(lane, kWeightsAt, run.weights + mine_.stem * run.weights_stride, kWeightBytes) {}

  XMAE_HD void all() {
    const Part& part = mine_.part;
    if constexpr (S::WAVE) {
      make_wave_tables(lane_, run_.step, mine_, run_.wave_partial, kTile, kTable, kTable + WaveRoom<kRows>::kWeights);
    } else if (!run_.raw) {
      const int64_t rows = static_cast<int64_t>(part.B) * part.L_in;
      make_norm_table<S::C_IN, S::C_IN>(lane_, run_.step, run_.norm, mine_, 0, rows, kTile, kTable);
    }
    if constexpr (S::C_UP > 0) {
      const int64_t rows = static_cast<int64_t>(part.B) * part.L_other;
      make_norm_table<S::C_UP, S::C_UP>(lane_, run_.step, run_.coarse_norm, mine_, 0, rows, kTile, kUpTable);
    }
    const int end = part.B * part.spacing;
    Moments{}.park_all(lane_, kParked);
    XMAE_NO_UNROLL
    for (int first = mine_.cta * kRows; first < end; first += part.blocks * kRows) {
      lane_.forget_addresses();
      lane_.barrier();  // now the previous rows of output have been stored
      stage(first);
      lane_.wait_for_copies();
      lane_.barrier();
      lane_.forget_addresses();
      lane_.hide(first);
      WarpSums sums;
      clear(sums);
      multiply_all(sums, first + warp_row() < end);
      lane_.barrier();
      store_columns<S::N>(lane_, rounded(lane_, sums), kTile, warp_row(), kTiles * (lane_.warp() % S::BESIDE));
      lane_.barrier();
      lane_.forget_addresses();
      lane_.hide(first);
      leave(first);
    }
    lane_.wait_for_copies();
    if (!run_.partial) return;
    Moments moments;
    moments.unpark_all(lane_, kParked);
    leave_moments<S::N>(
        lane_, moments, kTile, run_.partial + static_cast<int64_t>(lane_.block()) * moments_stride(S::N));
  }

  // The warp's first row among the CTA's rows, and where its columns begin in the weights of a step, in bytes.
  XMAE_HD int warp_row() const { return lane_.warp() / S::BESIDE * S::R * kTileRows; }
  XMAE_HD uint32_t columns_at() const { return kTiles * kTileBytes * (lane_.warp() % S::BESIDE); }

  // Writes the activated source rows that the outputs from row `first` on read to shared memory.
  XMAE_HD void stage(int first) {
    const Part& part = mine_.part;
    if constexpr (S::WAVE) {
      const uint32_t window = kTable + WaveRoom<kRows>::kWindowAt;
      load_window(lane_, run_.wave, part, first, kRows, window);
      lane_.barrier();
      Sums<S::R, 4> outputs = convolve_wave<S::R>(lane_, window, kTable + WaveRoom<kRows>::kWeights, warp_row());
      activate_columns(lane_, outputs, kTable);
      store_columns<32>(lane_, rounded(lane_, outputs), kTile, warp_row(), 0);
    } else {
      const int before = S::STRIDE * first - S::K / 2;
      stage_rows<S::C_IN>(
          lane_, kTile, kStaged, !run_.raw,
          [&](int row) {
            const int64_t from = row_of(before + row, S::STRIDE * part.spacing, part.B, part.L_in, part.in_before);
            return from < 0 ? nullptr : run_.source + from * S::C_IN;
          },
          [&] { return HalfNorm::activation<S::C_IN>(lane_, kTable); });
    }
    if constexpr (S::C_UP > 0) stage_up(first);
  }

  // Writes the activations of the coarser level, interpolated to these rows, to shared memory.
  XMAE_HD void stage_up(int first) {
    const Part& part = mine_.part;
    const float ratio = static_cast<float>(part.L_other) / static_cast<float>(part.L_out);
    const HalfNorm norm = HalfNorm::of<S::C_UP>(lane_, kUpTable, 8 * (lane_.thread() % (S::C_UP / 8)));
    each_piece<S::C_UP, 2>(lane_, kRows, [&](int row, int piece) {
      const int sample = (first + row) / part.spacing, at = first + row - sample * part.spacing;
      Words4 words = zeros();
      if (sample < part.B && at < part.L_out) {
        const Between rows = between(at, ratio, part.L_other);
        const uint16_t* const from =
            run_.coarse + (part.other_before + static_cast<int64_t>(sample) * part.L_other) * S::C_UP + 8 * piece;
        float low[8], high[8];
        unpack<Number>(lane_.template fetch<Words4>(from + rows.low * S::C_UP), low);
        unpack<Number>(lane_.template fetch<Words4>(from + rows.high * S::C_UP), high);
        norm.activate(lane_, low);
        norm.activate(lane_, high);
        XMAE_UNROLL
        for (int k = 0; k < 8; ++k) low[k] += rows.weight * (high[k] - low[k]);
        words = pack<Number>(low);
      }
      lane_.store(kUp + Rows<kUpChannels>::at(row, piece), words);
    });
  }

  // Adds all products to sums. works: whether the warp has rows; one without only takes part in copies and barriers.
  XMAE_HD void multiply_all(WarpSums& sums, bool works) {
    weights_.rewind();
    if constexpr (S::K == 7) {
      taps<tiles_of_tap(S::N, 2)>(sums, works, 0, 3);
      taps<tiles_of_tap(S::N, 1)>(sums, works, 3, 2);
      taps<tiles_of_tap(S::N, 0)>(sums, works, 5, 2);
    } else {
      taps<kTiles>(sums, works, 0, S::K);
    }
    if constexpr (S::C_UP > 0) {
      XMAE_NO_UNROLL
      for (int part = 0; part < S::C_UP / 32; ++part) {
        const uint32_t weights = weights_.template tiles<S::N / 8>() + columns_at();
        if (works) convolve_step<kTiles, S::C_UP, 1>(lane_, sums, weights, kUp, warp_row(), part);
      }
    }
  }
  // Adds the taps [first, first + count), in the order of tap_in_order. Each has weights for the first TILES tiles.
  template <int TILES>
  XMAE_HD void taps(WarpSums& sums, bool works, int first, int count) {
    XMAE_NO_UNROLL
    for (int i = first; i < first + count; ++i) {
      const int row = S::STRIDE * warp_row() + tap_in_order(S::K, i);
      XMAE_NO_UNROLL
      for (int part = 0; part < S::C_IN / 32; ++part) {
        const uint32_t weights = weights_.template tiles<TILES * S::BESIDE>() + columns_at();
        if (works) convolve_step<TILES, S::C_IN, S::STRIDE>(lane_, sums, weights, kTile, row, part);
      }
    }
  }

  // Stores the rows of output from `first` on and adds them to the moments.
  XMAE_HD void leave(int first) {
    const Part& part = mine_.part;
    Moments moments;
    if (run_.partial) moments.unpark_all(lane_, kParked);
    each_piece<S::N, 2>(lane_, kRows, [&](int row, int piece) {
      const int64_t to = row_of(first + row, part.spacing, part.B, part.L_out, part.out_before);
      if (to < 0) return;
      const Words4 words = lane_.template load<Words4>(kTile + Rows<S::N>::at(row, piece));
      lane_.put(run_.out + to * S::N + 8 * piece, words);
      if (!run_.partial) return;
      float v[8];
      unpack<Number>(words, v);
      moments.add(v);
    });
    if (run_.partial) moments.park_all(lane_, kParked);
  }

  Lane& lane_;
  const ForwardArguments& run_;
  const Mine mine_;
  Weights weights_;
};

}  // namespace xmae_fast::cuda
