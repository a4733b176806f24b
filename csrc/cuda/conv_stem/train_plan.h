// The plan of the stem's training kernels: its units, which are convolutions with BatchNorm, and the 1x1 convolutions
// between levels; where their weights lie in the published order; and how they are packed for tensor cores.
//
// The three branches of an Inception block are one unit of seven taps. In everything that only these kernels read its
// channels have the order k7 | k5 | k3. `norms`, gradients and running statistics have the published order
// k3 | k5 | k7.
#pragma once

#include "cuda/conv_stem/stem_plan.h"

namespace xmae_fast::cuda {

constexpr int kUnits = 17;
constexpr int kStemChannels = 32;  // channels that the stem returns; Triton serves other numbers
// The place of a unit, or of a 1x1 convolution between levels, in kUnitTable. kE1, kE2 and kE3 end the encoder's
// levels.
enum UnitName : int {
  kFirst = 0,
  kE1 = 3,
  kDown1 = 4,
  kE2 = 8,
  kDown2 = 9,
  kE3 = 13,
  kSmooth2 = 14,
  kSmooth1 = 15,
  kHeadUnit = 16,
  kSkipUnit = 17,
  kLat2,
  kLat1,
  kRed3to2,
  kRed2to1,
  kProducts
};

struct Unit {
  int k, stride, c_in, c_out, level;  // k: taps; level: that of the output
};
// In the order of `layout` in xmae_fast/ops/conv_stem/triton/layout.py.
// clang-format off
constexpr Unit kUnitTable[kProducts] = {
    {7, 1, 1, 32, 0},    {1, 1, 32, 32, 0},   {7, 1, 32, 32, 0},    {1, 1, 32, 32, 0},
    {3, 2, 32, 64, 1},   {7, 1, 64, 64, 1},   {1, 1, 64, 64, 1},    {7, 1, 64, 64, 1},   {1, 1, 64, 64, 1},
    {3, 2, 64, 128, 2},  {7, 1, 128, 128, 2}, {1, 1, 128, 128, 2},  {7, 1, 128, 128, 2}, {1, 1, 128, 128, 2},
    {3, 1, 64, 64, 1},   {3, 1, 32, 32, 0},   {3, 1, 32, kStemChannels, 0},              {1, 1, 1, kStemChannels, 0},
    {1, 1, 64, 64, 1},   {1, 1, 32, 32, 0},   {1, 1, 128, 64, 2},   {1, 1, 64, 32, 1},
};
// clang-format on
constexpr bool merged(int unit) { return kUnitTable[unit].k == 7; }  // the unit is the three branches of a block

// How many weights a unit has, where they begin among all weights, and where its channels begin among all channels with
// BatchNorm.
constexpr int weight_count(const Unit& unit) {
  const int n7 = seventh(unit.c_out), n = third(unit.c_out);
  return unit.c_in * (unit.k == 7 ? n * 3 + n * 5 + n7 * 7 : unit.c_out * unit.k);
}
constexpr int weights_before(int unit) {
  return unit == 0 ? 0 : weights_before(unit - 1) + weight_count(kUnitTable[unit - 1]);
}
constexpr int channels_before(int unit) {
  return unit == 0 ? 0 : channels_before(unit - 1) + kUnitTable[unit - 1].c_out;
}
constexpr int kTrainWeights = weights_before(kProducts), kTrainChannels = channels_before(kSkipUnit + 1);
constexpr int kSkipWeights = weights_before(kSkipUnit), kSkipChannel = channels_before(kSkipUnit),
              kSecondChannel = channels_before(1);
// `norms` [stems, kNormRows, kNormRow] holds BatchNorm's statistics of all channels; its last column is that of x.
constexpr int kNormRow = kTrainChannels + 1;
enum NormRow : int { kMean, kRstd, kUnbiased, kScale, kBeta, kNormRows };

// Returns the published place of channel c. branches: the channels have the order k7 | k5 | k3.
constexpr XMAE_HD int published(int channels, bool branches, int c) { return branches ? published(channels, c) : c; }

// The weights of one convolution as kernels describe them at run time.
struct Product {
  int k, c_in, c_out, flat;  // flat: where its weights begin among all
  bool from_branches;        // its input channels have the order k7 | k5 | k3
};
constexpr Product product_of(int unit) {
  const Unit u = kUnitTable[unit];
  const bool fuse = unit > 0 && unit < kUnits && merged(unit - 1);
  return {u.k, u.c_in, u.c_out, weights_before(unit), fuse};
}

constexpr XMAE_HD Product first_product() { return {7, 1, kFirstWidth, 0, false}; }  // of kFirst

// Returns the place of a weight in the published order, or -1 where the branch of c_out has no weight under the tap.
constexpr XMAE_HD int weight_at(const Product& p, int tap, int c_in, int c_out) {
  const int input = published(p.c_in, p.from_branches, c_in);
  if (p.k != 7) return p.flat + (c_out * p.c_in + input) * p.k + tap;
  const int far = seventh(p.c_out), middle = third(p.c_out);
  const int branch = c_out < far ? 7 : c_out < far + middle ? 5 : 3, margin = (7 - branch) / 2;
  if (tap < margin || tap >= margin + branch) return -1;
  const int first = p.flat + (branch == 7 ? 8 * middle * p.c_in : branch == 5 ? 3 * middle * p.c_in : 0);
  const int c = branch == 7 ? c_out : branch == 5 ? c_out - far : c_out - far - middle;
  return first + (c * p.c_in + input) * branch + tap - margin;
}

// Kernels take taps in the order tap_in_order(k, 0), tap_in_order(k, 1), ...: those that belong to more channels first.
// The other two return how many 8-channel tiles of outputs, and groups of 32 outputs, have weights under a tap.
constexpr XMAE_HD int tap_in_order(int k, int i) {
  return k == 7 ? (i < 3 ? i + 2 : i < 5 ? 4 * i - 11 : 6 * i - 30) : i;
}
constexpr XMAE_HD int tiles_under(int k, int c_out, int tap) { return k == 7 ? tiles_of_tap(c_out, tap) : c_out / 8; }
constexpr XMAE_HD int parts_under(int k, int c_out, int tap) { return (tiles_under(k, c_out, tap) + 3) / 4; }

// A pair is a tap and an 8-channel tile of outputs with weights under it. This is the number of pairs of a convolution.
constexpr XMAE_HD int pairs(int k, int c_out) {
  int count = 0;
  for (int tap = 0; tap < k; ++tap) count += tiles_under(k, c_out, tap);
  return count;
}
struct Pair {
  int tap, tile;
};
// Returns a pair by its number. Its tap is a place in the order of tap_in_order, and k after the last pair.
XMAE_HD Pair pair_in_order(int k, int c_out, int number) {
  int i = 0;
  for (; i < k; ++i) {
    const int tiles = tiles_under(k, c_out, tap_in_order(k, i));
    if (number < tiles) break;
    number -= tiles;
  }
  return {i, number};
}

// Packed weights. For the forward: for each tap and group of 32 inputs, tiles of 8 outputs. For the gradient of the
// input: for each group of 32 inputs, tap and group of 32 outputs, four tiles of 8 inputs. No piece of streamed weights
// crosses the end of a chunk.
constexpr bool streamed(const Unit& unit) { return unit.k == 7 && unit.c_out == 128; }
constexpr int forward_bytes(const Unit& unit) {
  int end = 0;
  for (int i = 0; i < unit.k; ++i) {
    const int piece = tiles_under(unit.k, unit.c_out, tap_in_order(unit.k, i)) * kTileBytes;
    for (int part = 0; part < unit.c_in / 32; ++part) {
      if (streamed(unit) && end % kChunk + piece > kChunk) end = (end / kChunk + 1) * kChunk;
      end += piece;
    }
  }
  return streamed(unit) ? (end + kChunk - 1) / kChunk * kChunk : end;
}
constexpr int backward_bytes_of_part(const Unit& unit) {
  int bytes = 0;
  for (int tap = 0; tap < unit.k; ++tap) bytes += parts_under(unit.k, unit.c_out, tap) * 4 * kTileBytes;
  return bytes;
}
constexpr int backward_bytes(const Unit& unit) { return unit.c_in / 32 * backward_bytes_of_part(unit); }
constexpr bool has_product(int unit) { return unit != kFirst && unit != kSkipUnit; }
// The order of the packed weights. A reduction comes right after the lateral convolution that is computed in the same
// kernel.
constexpr int kForwardOrder[] = {1,  2,  3,  4,  5,  6,  7,     8,        9,     10,
                                 11, 12, 13, 14, 15, 16, kLat2, kRed3to2, kLat1, kRed2to1};
constexpr int kMatrices = sizeof kForwardOrder / sizeof *kForwardOrder;
constexpr int forward_at(int unit) {
  int at = 0;
  for (const int other : kForwardOrder) {
    if (other == unit) return at;
    at += forward_bytes(kUnitTable[other]);
  }
  return -1;
}
constexpr int kForwardBytes = forward_at(kRed2to1) + forward_bytes(kUnitTable[kRed2to1]);
constexpr int backward_at(int unit) {
  int at = kForwardBytes;
  for (const int other : kForwardOrder) {
    if (other == unit) return at;
    at += backward_bytes(kUnitTable[other]);
  }
  return -1;
}
constexpr int kPackedBytes = backward_at(kRed2to1) + backward_bytes(kUnitTable[kRed2to1]);

// Lag products of x: the means and the co-moments of the seven samples under a window, and how many windows there are.
constexpr int kWindow = 7, kLags = 28, kMoments = kWindow + kLags + 1;

}  // namespace xmae_fast::cuda
