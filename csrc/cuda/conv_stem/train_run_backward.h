// The backward of a training step as a sequence of launches. train_run.h has the forward and what both share.
#pragma once

#include "cuda/conv_stem/train_run.h"

namespace xmae_fast::cuda {

template <typename RUN>
class TrainBackward : Dealer {
 public:
  TrainBackward(RUN& run, const TrainBuffers& buffers)
      : Dealer(buffers),
        run_(run),
        partials_(reinterpret_cast<float*>(buffers.work + 2 * TrainSizes::kGradients * sizes_.most())),
        arenas_(partials_ + static_cast<int64_t>(kUnits) * TrainSizes::kPartial),
        sums_(arenas_ + TrainSizes::arenas()),
        step_(TrainForward<RUN>::step_of(buffers, sums_)) {}

  // Launches all kernels of the backward. gradient(i) is one of five buffers for gradients of activations.
  void all() {
    end();
    unit<BackwardShape<32, 32, 3, 1, 2>>(kHeadUnit, gradient(0), gradient(1));
    unit<BackwardShape<32, 32, 3, 1, 2>>(kSmooth1, gradient(1), gradient(2));
    lateral<BackwardShape<32, 32, 1, 1, 2>>(kLat1, kE1, gradient(2), gradient(3));
    reduction<BackwardShape<64, 32, 1, 1, 2, false, true>>(kRed2to1, kSmooth2, gradient(2), gradient(0));
    unit<BackwardShape<64, 64, 3, 1, 2>>(kSmooth2, gradient(0), gradient(2));
    lateral<BackwardShape<64, 64, 1, 1, 2>>(kLat2, kE2, gradient(2), gradient(4));
    reduction<BackwardShape<128, 64, 1, 1, 2, false, true>>(kRed3to2, kE3, gradient(2), gradient(0));
    for (int u = kE3; u > kDown2; u -= 2) {
      unit<BackwardShape<128, 128, 1, 1, 2>>(u, gradient(0), gradient(1));
      unit<BackwardShape<128, 128, 7, 1, 1>>(u - 1, gradient(1), gradient(0));
    }
    unit<BackwardShape<64, 128, 3, 2, 2>>(kDown2, gradient(0), gradient(1), gradient(4));
    for (int u = kE2; u > kDown1; u -= 2) {
      unit<BackwardShape<64, 64, 1, 1, 2>>(u, gradient(1), gradient(0));
      unit<BackwardShape<64, 64, 7, 1, 2>>(u - 1, gradient(0), gradient(1));
    }
    unit<BackwardShape<32, 64, 3, 2, 2>>(kDown1, gradient(1), gradient(0), gradient(3));
    unit<BackwardShape<32, 32, 1, 1, 2>>(kE1, gradient(0), gradient(1));
    unit<BackwardShape<32, 32, 7, 1, 2>>(kE1 - 1, gradient(1), gradient(0));
    unit<BackwardShape<32, 32, 1, 1, 1, true>>(1, gradient(0), nullptr);
    finish();
  }

 private:
  uint16_t* gradient(int which) const { return reinterpret_cast<uint16_t*>(buffers_.work) + which * sizes_.most(); }
  float* partial(int unit) const { return partials_ + static_cast<int64_t>(unit) * TrainSizes::kPartial; }
  const uint16_t* kept(int unit) const { return buffers_.kept + sizes_.kept(unit); }
  // Returns the place of a matrix in kForwardOrder.
  static int index(int matrix) {
    int i = 0;
    while (kForwardOrder[i] != matrix) ++i;
    return i;
  }

  void end() {
    EndArguments args{};
    end_ = dealt_[kHeadUnit] = deal(args.parts, 0, 0, 0, EndArguments::kRows, 2 * buffers_.multiprocessors);
    args.step = step_;
    args.head = kept(kHeadUnit);
    args.norm = {.partial = nullptr, .channel = channels_before(kHeadUnit), .branches = false};
    args.wave = buffers_.wave;
    for (int s = 0; s < 2; ++s) args.grads[s] = buffers_.grads[s];
    args.out = gradient(0);
    args.sums = partial(kHeadUnit);
    run_.template launch<Launch<EndBackward, 2>>(end_.all(), args);
  }

  // Fills the arguments that all launches of convolutions share. source: the unit whose activation the matrix reads, or
  // -1 where it reads a mix. of_d: how the launch was dealt that wrote d.
  template <typename S>
  BackwardArguments arguments(int matrix, int source, const uint16_t* d, uint16_t* out, const Dealt& of_d) {
    const Unit& shape = kUnitTable[matrix];
    BackwardArguments args{};
    constexpr int kParts = S::C_IN / 32, kRowsOfCta = 256 / S::STRIDE, kGap = S::WAVE ? kWindow / 2 : S::K / 2;
    const int most = S::kTogether * buffers_.multiprocessors / kParts;
    Dealt& dealt = matrices_[index(matrix)];
    dealt = deal(args.parts, shape.level - (shape.stride == 2), shape.level, kGap, kRowsOfCta, most, of_d);
    args.step = step_;
    args.d = d;
    args.wave = buffers_.wave;
    args.weights = reinterpret_cast<const char*>(buffers_.kept + sizes_.kept_packed()) + backward_at(matrix);
    args.weights_stride = kPackedBytes;
    args.out = out;
    args.arena = arenas_;
    for (const int other : kForwardOrder) {
      if (other == matrix) break;
      args.arena += TrainSizes::arena(other);
    }
    if (source >= 0) {
      args.source = source == kFirst ? nullptr : kept(source);
      args.norm = {.partial = nullptr, .channel = channels_before(source), .branches = merged(source)};
      args.sums = partial(source);
    }
    return args;
  }

  // Launches the backward of unit u. add: a further gradient of its source, or null.
  template <typename S>
  void unit(int u, const uint16_t* d, uint16_t* out, const uint16_t* add = nullptr) {
    const bool of_mix = u == kSmooth2 || u == kSmooth1;
    BackwardArguments args = arguments<S>(u, of_mix ? -1 : u - 1, d, out, dealt_[u]);
    args.normed = true;
    args.pre = kept(u);
    args.out_channel = channels_before(u);
    args.out_branches = merged(u);
    args.d_sums = partial(u);
    args.d_sums_stride = (u == kHeadUnit ? EndArguments::kSums : 2) * kUnitTable[u].c_out;
    args.add = add;
    if (of_mix) {
      args.raw = true;
      args.source = buffers_.kept + sizes_.kept_mix(kUnitTable[u].level);
    } else {
      dealt_[u - 1] = matrices_[index(u)];
    }
    run_.template launch<BackwardLaunch<S>>(matrices_[index(u)].all() * (S::C_IN / 32), args);
  }
  // Computes the gradient that reaches a mix's own level through the lateral convolution. The next level's is added
  // later.
  template <typename S>
  void lateral(int matrix, int source, const uint16_t* d, uint16_t* out) {
    BackwardArguments args = arguments<S>(matrix, source, d, out, {});
    args.plain_out = true;
    args.sums = nullptr;
    run_.template launch<BackwardLaunch<S>>(matrices_[index(matrix)].all() * (S::C_IN / 32), args);
  }
  // Computes the gradient that reaches the coarser level of a mix.
  template <typename S>
  void reduction(int matrix, int source, const uint16_t* d, uint16_t* out) {
    BackwardArguments args = arguments<S>(matrix, source, d, out, {});
    other(args.parts, kUnitTable[matrix].level - 1);
    dealt_[source] = matrices_[index(matrix)];
    run_.template launch<BackwardLaunch<S>>(matrices_[index(matrix)].all() * (S::C_IN / 32), args);
  }

  void finish() {
    FinishArguments args{};
    args.step = step_;
    const float* arena = arenas_;
    for (int i = 0; i < kMatrices; ++i) {
      const Unit& shape = kUnitTable[kForwardOrder[i]];
      args.products[i] = product_of(kForwardOrder[i]);
      args.arenas[i] = arena;
      arena += TrainSizes::arena(kForwardOrder[i]);
      for (int s = 0; s < 2; ++s) args.ctas[i][s] = matrices_[i].blocks[s];
      args.before[i + 1] = args.before[i] + shape.c_in / 32 * arena_of_cta(shape.k, shape.c_out) / 256;
    }
    args.wave_sums = partial(kFirst);
    args.end_sums = partial(kHeadUnit);
    for (int s = 0; s < 2; ++s) {
      args.wave_ctas[s] = dealt_[kFirst].blocks[s];
      args.end_ctas[s] = end_.blocks[s];
    }
    args.out = buffers_.gradients;
    run_.template launch<Launch<Finish, 2>>(buffers_.stems * (args.before[kMatrices] + 1), args);
  }

  RUN& run_;
  float *partials_, *arenas_, *sums_;
  const Step step_;
  Dealt dealt_[kUnits], end_, matrices_[kMatrices];
};

}  // namespace xmae_fast::cuda
