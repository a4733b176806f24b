// The stem's weights, folded with BatchNorm and laid out as the kernel streams them.
//
// A tile is 32 input numbers x 8 output channels. Its 512 bytes are what the 32 lanes of a warp need as the B operands of
// two mma.m16n8k16: lane l has 16 bytes, for input numbers 16 h + 8 r + 2 (l % 4) + {0, 1}, h and r in {0, 1}, and output
// channel l / 4. Before SiLU everything is multiplied by 1/2, exactly: silu(y) = h + h tanh(h), h = y / 2.
#pragma once

#include <cmath>

#include "cuda/conv_stem/stem_plan.h"

namespace xmae_fast::cuda {

// float32 and contiguous, in the order of `flatten` in xmae_fast/ops/conv_stem/schema.py.
struct Weights {
  const float* convs[kConvs];     // [c_out, c_in, k]
  const float* mixes[kMixes];     // [c_out, c_in]
  const float* gamma[kConvs];     // [c_out], as the following
  const float* beta[kConvs];
  const float* mean[kConvs];
  const float* var[kConvs];
};

struct Packing {
  Weights weights;
  Stream stream;
  int channels;  // S
};

// A column of a layer: which convolution computes it, and which of its output channels that is; channel < 0: padding.
struct Column {
  int conv, channel, k;
};
XMAE_HD Column column_of(const Layer& layer, int column, int channels) {
  const int n7 = seventh(layer.columns), n = third(layer.columns);
  if (layer.kind == Kind::kFirst || layer.kind == Kind::kBranches) {
    if (column < n7) return {layer.conv + 2, column, 7};
    if (column < n7 + n) return {layer.conv + 1, column - n7, 5};
    return {layer.conv, column - n7 - n, 3};
  }
  const int channel = layer.first + column;
  return {layer.conv, layer.kind == Kind::kHead && channel >= channels ? -1 : channel, layer.taps()};
}

// Published place of an input channel: those of a fusing convolution are branches.
XMAE_HD int published_input(const Layer& layer, int channel) {
  return layer.kind == Kind::kFuse ? published(layer.c_in, channel) : channel;
}

struct Fold {
  float scale, shift;
};
XMAE_HD Fold fold(const Weights& weights, int conv, int channel) {
  const float scale = weights.gamma[conv][channel] / sqrtf(weights.var[conv][channel] + kNormEps);
  return {scale, weights.beta[conv][channel] - weights.mean[conv][channel] * scale};
}

// Number `element` of a piece of weights.
XMAE_HD float packed_weight(const Packing& packing, const Record& record, int element) {
  const Layer layer = packing.stream.layers[record.layer];
  const int lane = element / 8 % 32, place = element % 8;
  const int input = 16 * (place / 4) + 8 * (place / 2 % 2) + 2 * (lane % 4) + place % 2;
  const Column column = column_of(layer, element / 256 * 8 + lane / 4, packing.channels);
  if (column.channel < 0) return 0.0f;
  if (layer.kind == Kind::kMix) {
    return packing.weights.mixes[layer.conv][column.channel * layer.c_in + record.part * 32 + input];
  }
  // The first layer's input numbers are the taps of its one channel.
  const bool first = layer.kind == Kind::kFirst;
  const int tap = (first ? input : record.tap) - ((first ? 7 : layer.taps()) - column.k) / 2;
  if (tap < 0 || tap >= column.k) return 0.0f;
  const int channel = first ? 0 : published_input(layer, record.part * 32 + input);
  const float weight = packing.weights.convs[column.conv][(column.channel * layer.c_in + channel) * column.k + tap];
  return 0.5f * fold(packing.weights, column.conv, column.channel).scale * weight;
}

// Number `element` of a piece of float32: shifts by column; of the skip path kColumns scales, then as many shifts.
XMAE_HD float packed_number(const Packing& packing, const Record& record, int element) {
  const Layer layer = packing.stream.layers[record.layer];
  const bool skip = record.piece == Piece::kSkip;
  if (element >= (skip ? 2 * kColumns : layer.columns)) return 0.0f;
  const Column column = column_of(layer, skip ? element % kColumns : element, packing.channels);
  if (column.channel < 0) return 0.0f;
  if (!skip) return 0.5f * fold(packing.weights, column.conv, column.channel).shift;
  const Fold folded = fold(packing.weights, kSkip, column.channel);
  return element < kColumns ? folded.scale * packing.weights.convs[kSkip][column.channel] : folded.shift;
}

// One thread's share of packing record `index` into stream [chunks * kChunk bytes].
template <typename Number>
XMAE_HD void pack_record(const Packing& packing, int index, int thread, int threads, char* stream) {
  const Record record = packing.stream.records[index];
  if (record.piece != Piece::kWeights) {
    float* out = reinterpret_cast<float*>(stream + record.offset);
    for (int i = thread; i < kTileBytes / 4; i += threads) out[i] = packed_number(packing, record, i);
    return;
  }
  const int pairs = packing.stream.layers[record.layer].tiles(record.tap) * kTileBytes / 4;
  uint32_t* out = reinterpret_cast<uint32_t*>(stream + record.offset);
  for (int i = thread; i < pairs; i += threads) {
    out[i] = Number::two(packed_weight(packing, record, 2 * i), packed_weight(packing, record, 2 * i + 1));
  }
}

}  // namespace xmae_fast::cuda
