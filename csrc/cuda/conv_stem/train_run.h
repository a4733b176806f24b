// A training step of one stem or two as a sequence of launches. RUN launches kernels: on a GPU, or on a host for tests.
#pragma once

#include <algorithm>

#include "cuda/conv_stem/train_pack.h"

namespace xmae_fast::cuda {

constexpr int kMultiprocessors = 132;  // CTAs are dealt as to an H200 whatever the GPU: the order of sums is the same on all
constexpr int kMostCtas = 2 * kMultiprocessors;

// What an operator is called with; rows of the second stem behind those of the first everywhere.
struct TrainBuffers {
  int stems;
  int B[2], L[2];
  bool batch;               // statistics of the batch
  int multiprocessors = kMultiprocessors;  // that CTAs are dealt to; at most so many
  Waveform wave;
  const float* flat;        // [stems, flat_stride]
  int64_t flat_stride;
  uint16_t* kept;           // [kept_numbers]
  float *norms, *moments;
  char* work;               // [forward_work or backward_work bytes]
  uint16_t* features;       // [rows, kStemChannels], forward
  const uint16_t* grads[2]; // backward
  float* gradients;         // [stems, kTrainWeights + 2 kTrainChannels], backward
};

class TrainSizes {
 public:
  explicit TrainSizes(const TrainBuffers& buffers) : buffers_(buffers) {}

  int length(int stem, int level) const { return length_at(buffers_.L[stem], level); }
  int64_t rows_before(int stem, int level) const { return stem == 0 ? 0 : static_cast<int64_t>(buffers_.B[0]) * length(0, level); }
  int64_t rows(int level) const {
    int64_t count = 0;
    for (int stem = 0; stem < buffers_.stems; ++stem) count += static_cast<int64_t>(buffers_.B[stem]) * length(stem, level);
    return count;
  }
  // Numbers of a level's activations; every one has room in what the widest takes.
  int64_t numbers(int level) const { return rows(level) * width(level); }
  int64_t most() const { return std::max(numbers(0), std::max(numbers(1), numbers(2))); }

  // Where in `kept` a unit's outputs before BatchNorm are, and the mixes.
  int64_t kept(int unit) const {
    int64_t at = 0;
    for (int u = 1; u < unit; ++u) at += numbers(kUnitTable[u].level);
    return at;
  }
  int64_t kept_mix(int level) const { return kept(kUnits) + (level == 1 ? 0 : numbers(1)); }
  int64_t kept_packed() const { return kept(kUnits) + numbers(1) + numbers(0); }
  int64_t kept_numbers() const { return kept_packed() + static_cast<int64_t>(buffers_.stems) * (kPackedBytes / 2); }

  static constexpr int kPartial = kMostCtas * 32 * (2 + kWindow);  // floats of a launch's sums, the most that any leaves
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
  static constexpr int kGradients = 5;  // activations' gradients that live at a time
  int64_t backward_work() const {
    return 2 * kGradients * most() + 4 * (arenas() + static_cast<int64_t>(kUnits) * kPartial + 2 * 2 * kTrainChannels);
  }

 private:
  const TrainBuffers& buffers_;
};

// Names a kernel class before its lane is known.
template <template <typename...> class KERNEL, int TOGETHER, typename... SHAPE>
struct Launch {
  template <typename Lane>
  using Kernel = KERNEL<Lane, SHAPE...>;
  static constexpr int kTogether = TOGETHER;  // CTAs that a multiprocessor shall hold
};
template <typename S>
using ForwardLaunch = Launch<ConvForward, S::kTogether, S>;
template <typename S>
using BackwardLaunch = Launch<ConvBackward, S::kTogether, S>;

// CTAs of both stems in a launch.
struct Dealt {
  int blocks[2] = {0, 0};
  int first(int stem) const { return stem ? blocks[0] : 0; }
  int all() const { return blocks[0] + blocks[1]; }
};

// Parts of a launch that goes over `rows_of_cta` rows of output at a time with at most `most` CTAs; gap: zeros behind a sample.
class Dealer {
 public:
  explicit Dealer(const TrainBuffers& buffers) : buffers_(buffers), sizes_(buffers) {}

  Dealt deal(Part (&parts)[2], int level_in, int level_out, int gap, int rows_of_cta, int most, const Dealt& source = {}) const {
    int64_t tiles[2] = {0, 0};
    for (int s = 0; s < 2; ++s) {
      parts[s] = Part{};
      if (s >= buffers_.stems) continue;
      const int L_out = sizes_.length(s, level_out), spacing = L_out + gap;
      parts[s] = {buffers_.B[s], sizes_.length(s, level_in), L_out, spacing, 0, source.first(s), source.blocks[s],
                  sizes_.rows_before(s, level_in), sizes_.rows_before(s, level_out), 0, 0};
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
  // The third array of a mix and of its adjoint.
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

  static Step step_of(const TrainBuffers& b, float* sums) { return {b.flat, b.flat_stride, b.norms, sums, b.moments, b.batch}; }

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
  float* partial(int unit) const {
    return buffers_.batch ? reinterpret_cast<float*>(buffers_.work) + static_cast<int64_t>(unit) * TrainSizes::kPartial : nullptr;
  }
  NormSource norm(int unit, bool merge) const { return {merge ? partial(unit) : nullptr, channels_before(unit), merged(unit)}; }
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
  // lateral(fine) + up(reduce(coarse)); the statistics of `fine` were merged by the unit behind it.
  template <typename S>
  void mix(int level, int lateral, int fine, int coarse) {
    ForwardArguments args = arguments<S>(lateral);
    const Dealt dealt = deal(args.parts, level, level, 0, S::kRows, S::kTogether * buffers_.multiprocessors, dealt_[coarse]);
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
