// The forward of a training step, of one stem or two, as a sequence of launches. RUN launches kernels: on a GPU, or in
// tests on a host.
#pragma once

#include <algorithm>

#include "cuda/conv_stem/train_pack.h"

namespace xmae_fast::cuda {

// CTAs are dealt as for an H200, whatever the GPU is, so that all GPUs sum in the same order.
constexpr int kMultiprocessors = 132;
constexpr int kMostCtas = 2 * kMultiprocessors;

// The arrays and sizes of an operator's call. In every array the rows of the second stem follow those of the first.
struct TrainBuffers {
  int stems;
  int B[2], L[2];
  bool batch;                              // BatchNorm uses the batch's statistics, else running ones
  int multiprocessors = kMultiprocessors;  // CTAs are dealt to so many; at most kMultiprocessors
  Waveform wave;
  const float* flat;  // [stems, flat_stride]: weights, gammas, betas and perhaps running means and variances
  int64_t flat_stride;
  uint16_t* kept;            // [kept_numbers]: activations for the backward and packed weights
  float* norms;              // [stems, kNormRows, kNormRow]
  float* moments;            // [stems, kMoments]
  char* work;                // [forward_work] or [backward_work] bytes
  uint16_t* features;        // forward: [rows, kStemChannels]
  const uint16_t* grads[2];  // backward: [rows of the stem, kStemChannels]: gradients of the features of each stem
  float* gradients;          // backward: [stems, kTrainWeights + 2 kTrainChannels]
};

// Sizes of the arrays, and where in them everything lies.
class TrainSizes {
 public:
  explicit TrainSizes(const TrainBuffers& buffers) : buffers_(buffers) {}

  int length(int stem, int level) const { return length_at(buffers_.L[stem], level); }
  int64_t rows_before(int stem, int level) const {
    return stem == 0 ? 0 : static_cast<int64_t>(buffers_.B[0]) * length(0, level);
  }
  int64_t rows(int level) const {
    int64_t count = 0;
    for (int stem = 0; stem < buffers_.stems; ++stem) {
      count += static_cast<int64_t>(buffers_.B[stem]) * length(stem, level);
    }
    return count;
  }
  // Numbers of an activation of a level; `most` is that of the largest level.
  int64_t numbers(int level) const { return rows(level) * width(level); }
  int64_t most() const { return std::max(numbers(0), std::max(numbers(1), numbers(2))); }

  // Where in `kept` a unit's outputs before BatchNorm, the mixes and the packed weights begin.
  int64_t kept(int unit) const {
    int64_t at = 0;
    for (int u = 1; u < unit; ++u) at += numbers(kUnitTable[u].level);
    return at;
  }
  int64_t kept_mix(int level) const { return kept(kUnits) + (level == 1 ? 0 : numbers(1)); }
  int64_t kept_packed() const { return kept(kUnits) + numbers(1) + numbers(0); }
  int64_t kept_numbers() const { return kept_packed() + static_cast<int64_t>(buffers_.stems) * (kPackedBytes / 2); }

  static constexpr int kPartial = kMostCtas * 32 * (2 + kWindow);  // the most sums, in floats, that a launch leaves
  static_assert(moments_stride(128) <= 32 * (2 + kWindow));
  static constexpr int64_t forward_work() { return 4 * static_cast<int64_t>(kUnits) * kPartial; }
  static int64_t arena(int unit) {
    const Unit& u = kUnitTable[unit];
    return static_cast<int64_t>(kMostCtas) * arena_of_cta(u.k, u.c_out);
  }
  static int64_t arenas() {
    int64_t count = 0;
    for (const int unit : kForwardOrder) count += arena(unit);
    return count;
  }
  static constexpr int kGradients = 5;  // gradients of activations that are needed at the same time
  int64_t backward_work() const {
    return 2 * kGradients * most() + 4 * (arenas() + static_cast<int64_t>(kUnits) * kPartial + 2 * 2 * kTrainChannels);
  }

 private:
  const TrainBuffers& buffers_;
};

// Names a kernel's class and shape without its lane, which RUN chooses.
template <template <typename...> class KERNEL, int TOGETHER, typename... SHAPE>
struct Launch {
  template <typename Lane>
  using Kernel = KERNEL<Lane, SHAPE...>;
  static constexpr int kTogether = TOGETHER;  // CTAs that share a multiprocessor
};
template <typename S>
using ForwardLaunch = Launch<ConvForward, S::kTogether, S>;
template <typename S>
using BackwardLaunch = Launch<ConvBackward, S::kTogether, S>;

// How many CTAs of a launch each stem has.
struct Dealt {
  int blocks[2] = {0, 0};
  int first(int stem) const { return stem ? blocks[0] : 0; }
  int all() const { return blocks[0] + blocks[1]; }
};

// Deals the CTAs of a launch to the stems.
class Dealer {
 public:
  explicit Dealer(const TrainBuffers& buffers) : buffers_(buffers), sizes_(buffers) {}

  // Fills the parts of a launch of at most `most` CTAs, each of which takes `rows_of_cta` rows of output at a time.
  // gap: rows of zeros after each sample. source: how the launch was dealt that computed the source.
  Dealt deal(
      Part (&parts)[2], int level_in, int level_out, int gap, int rows_of_cta, int most,
      const Dealt& source = {}) const {
    int64_t tiles[2] = {0, 0};
    for (int s = 0; s < 2; ++s) {
      parts[s] = Part{};
      if (s >= buffers_.stems) continue;
      const int L_out = sizes_.length(s, level_out), spacing = L_out + gap;
      parts[s] = {
          .B = buffers_.B[s],
          .L_in = sizes_.length(s, level_in),
          .L_out = L_out,
          .spacing = spacing,
          .blocks = 0,
          .source_first = source.first(s),
          .of_source = source.blocks[s],
          .in_before = sizes_.rows_before(s, level_in),
          .out_before = sizes_.rows_before(s, level_out),
          .L_other = 0,
          .other_before = 0,
      };
      tiles[s] = (static_cast<int64_t>(buffers_.B[s]) * spacing + rows_of_cta - 1) / rows_of_cta;
    }
    Dealt dealt;
    const int64_t all = tiles[0] + tiles[1], ctas = std::min<int64_t>(std::max(most, buffers_.stems), all);
    if (buffers_.stems == 1) {
      dealt.blocks[0] = static_cast<int>(ctas);
    } else {
      const int64_t share = std::max<int64_t>(1, std::min(ctas - 1, (ctas * tiles[0] + all / 2) / all));
      dealt.blocks[0] = static_cast<int>(std::min(share, tiles[0]));
      dealt.blocks[1] = static_cast<int>(std::min<int64_t>(ctas - dealt.blocks[0], tiles[1]));
    }
    for (int s = 0; s < 2; ++s) parts[s].blocks = dealt.blocks[s];
    return dealt;
  }
  // Adds the third array that a mix and the transpose of a mix read: rows of another level.
  void other(Part (&parts)[2], int level) const {
    for (int s = 0; s < 2 && s < buffers_.stems; ++s) {
      parts[s].L_other = sizes_.length(s, level);
      parts[s].other_before = sizes_.rows_before(s, level);
    }
  }

 protected:
  const TrainBuffers& buffers_;
  const TrainSizes sizes_;
};

template <typename RUN>
class TrainForward : Dealer {
 public:
  TrainForward(RUN& run, const TrainBuffers& buffers) : Dealer(buffers), run_(run), step_(step_of(buffers, nullptr)) {}

  static Step step_of(const TrainBuffers& b, float* sums) {
    return {
        .flat = b.flat,
        .flat_stride = b.flat_stride,
        .norms = b.norms,
        .sums = sums,
        .moments = b.moments,
        .batch = b.batch,
    };
  }

  // Launches all kernels of the forward. ForwardShape (train_forward.h) describes the template arguments.
  void all() {
    pack();
    if (buffers_.batch) wave_moments();
    unit<ForwardShape<32, 32, 1, 1, 4, 2, 1, true>>(1);
    unit<ForwardShape<32, 32, 7, 1, 4, 2>>(2);
    unit<ForwardShape<32, 32, 1, 1, 4, 2>>(3);
    unit<ForwardShape<32, 64, 3, 2, 2, 2>>(kDown1);
    for (int u = 5; u <= 7; u += 2) {
      unit<ForwardShape<64, 64, 7, 1, 2, 2>>(u);
      unit<ForwardShape<64, 64, 1, 1, 2, 2>>(u + 1);
    }
    unit<ForwardShape<64, 128, 3, 2, 2, 2, 2>>(kDown2);
    for (int u = 10; u <= 12; u += 2) {
      unit<ForwardShape<128, 128, 7, 1, 2, 1>>(u);
      unit<ForwardShape<128, 128, 1, 1, 2, 2, 2>>(u + 1);
    }
    mix<ForwardShape<64, 64, 1, 1, 2, 2, 2, false, 128>>(1, kLat2, kE2, kE3);
    unit<ForwardShape<64, 64, 3, 1, 2, 2>>(kSmooth2);
    mix<ForwardShape<32, 32, 1, 1, 2, 2, 1, false, 64>>(0, kLat1, kE1, kSmooth2);
    unit<ForwardShape<32, 32, 3, 1, 4, 2>>(kSmooth1);
    unit<ForwardShape<32, 32, 3, 1, 4, 2>>(kHeadUnit);
    end();
  }

 private:
  // Where the CTAs of a unit leave the moments of its outputs; null with running statistics.
  float* partial(int unit) const {
    return buffers_.batch ? reinterpret_cast<float*>(buffers_.work) + static_cast<int64_t>(unit) * TrainSizes::kPartial
                          : nullptr;
  }
  // merge: the kernel merges the CTAs' moments; else it reads `norms`.
  NormSource norm(int unit, bool merge) const {
    return {
        .partial = merge ? partial(unit) : nullptr,
        .channel = channels_before(unit),
        .branches = merged(unit),
    };
  }
  uint16_t* kept(int unit) const { return buffers_.kept + sizes_.kept(unit); }

  void pack() {
    PackArguments args{};
    args.step = step_;
    args.packed = reinterpret_cast<char*>(buffers_.kept + sizes_.kept_packed());
    for (int i = 0; i < kMatrices; ++i) {
      const int unit = kForwardOrder[i];
      args.products[i] = product_of(unit);
      args.forward[i] = forward_at(unit);
      args.backward[i] = backward_at(unit);
      args.streamed[i] = streamed(kUnitTable[unit]);
    }
    run_.template launch<Launch<Pack, 2>>(buffers_.stems * (kMatrices * PackArguments::kShares + 1), args);
  }
  void wave_moments() {
    WaveArguments args{};
    dealt_[0] = deal(args.parts, 0, 0, 3, WaveArguments::kRows, buffers_.multiprocessors);
    args.wave = buffers_.wave;
    args.partial = partial(0);
    run_.template launch<Launch<WaveMoments, 2>>(dealt_[0].all(), args);
  }
  template <typename S>
  ForwardArguments arguments(int matrix) const {
    ForwardArguments args{};
    args.step = step_;
    args.wave = buffers_.wave;
    args.weights = reinterpret_cast<const char*>(buffers_.kept + sizes_.kept_packed()) + forward_at(matrix);
    args.weights_stride = kPackedBytes;
    return args;
  }
  template <typename S>
  void unit(int u) {
    const Unit& shape = kUnitTable[u];
    ForwardArguments args = arguments<S>(u);
    const int source = u - 1;
    const int gap = S::WAVE ? kWindow / 2 : S::K / 2, most = S::kTogether * buffers_.multiprocessors;
    dealt_[u] = deal(args.parts, shape.level - (shape.stride == 2), shape.level, gap, S::kRows, most, dealt_[source]);
    args.raw = u == kSmooth2 || u == kSmooth1;
    args.source = args.raw ? buffers_.kept + sizes_.kept_mix(shape.level) : u == 1 ? nullptr : kept(source);
    args.norm = norm(source, true);
    args.wave_partial = partial(0);
    args.out = kept(u);
    args.partial = partial(u);
    run_.template launch<ForwardLaunch<S>>(dealt_[u].all(), args);
  }
  // Launches lateral(fine) + up(reduce(coarse)). The unit after `fine` has merged the statistics of `fine` already.
  template <typename S>
  void mix(int level, int lateral, int fine, int coarse) {
    ForwardArguments args = arguments<S>(lateral);
    const Dealt dealt =
        deal(args.parts, level, level, 0, S::kRows, S::kTogether * buffers_.multiprocessors, dealt_[coarse]);
    other(args.parts, level + 1);
    args.source = kept(fine);
    args.norm = norm(fine, false);
    args.coarse = kept(coarse);
    args.coarse_norm = norm(coarse, true);
    args.out = buffers_.kept + sizes_.kept_mix(level);
    run_.template launch<ForwardLaunch<S>>(dealt.all(), args);
  }
  void end() {
    EndArguments args{};
    const Dealt dealt = deal(args.parts, 0, 0, 0, EndArguments::kRows, 2 * buffers_.multiprocessors, dealt_[kHeadUnit]);
    args.step = step_;
    args.head = kept(kHeadUnit);
    args.norm = norm(kHeadUnit, true);
    args.wave = buffers_.wave;
    args.out = buffers_.features;
    run_.template launch<Launch<EndForward, 2>>(dealt.all(), args);
  }

  RUN& run_;
  const Step step_;
  Dealt dealt_[kUnits];
};

}  // namespace xmae_fast::cuda
