// Folds BatchNorm into the stem's weights and lays them out in the order in which the inference kernel streams them.
//
// A tile holds the weights of 32 input numbers for 8 output channels. Its 512 bytes are the B operands of two
// mma.m16n8k16 instructions: lane l of the warp reads 16 bytes, which are the input numbers
// 16 h + 8 r + 2 (l % 4) + {0, 1}, h and r in {0, 1}, of output channel l / 4.
//
// Weights and shifts of a layer with SiLU are multiplied by 1/2, which is exact: silu(y) = h + h tanh(h), h = y / 2.
#pragma once

#include <cmath>

#include "cuda/conv_stem/stem_plan.h"

namespace xmae_fast::cuda {

// The addresses of the stem's weights, float32 and contiguous, in the order of `flatten` in
// xmae_fast/ops/conv_stem/schema.py.
struct Weights {
  const float* convs[kConvs];  // [c_out, c_in, k]
  const float* mixes[kMixes];  // [c_out, c_in]
  const float* gamma[kConvs];  // [c_out]
  const float* beta[kConvs];   // [c_out]
  const float* mean[kConvs];   // [c_out]
  const float* var[kConvs];    // [c_out]
};

struct Packing {
  Weights weights;
  Stream stream;
  int channels;  // S
};

// Which convolution computes a column of a layer, which of its output channels that is, and how many taps it has. A
// channel below 0 means that the column is padding.
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

// Returns the place of an input channel in the published weights, which differs for a convolution that fuses branches.
XMAE_HD int published_input(const Layer& layer, int channel) {
  return layer.kind == Kind::kFuse ? published(layer.c_in, channel) : channel;
}

// BatchNorm with running statistics as one multiplication and one addition.
struct Fold {
  float scale, shift;
};
XMAE_HD Fold fold(const Weights& weights, int conv, int channel) {
  const float scale = weights.gamma[conv][channel] / sqrtf(weights.var[conv][channel] + kNormEps);
  return {scale, weights.beta[conv][channel] - weights.mean[conv][channel] * scale};
}

// Returns number `element` of a piece of weights.
XMAE_HD float packed_weight(const Packing& packing, const Record& record, int element) {
  const Layer layer = packing.stream.layers[record.layer];
  const int lane = element / 8 % 32, place = element % 8;
  const int input = 16 * (place / 4) + 8 * (place / 2 % 2) + 2 * (lane % 4) + place % 2;
  const Column column = column_of(layer, element / 256 * 8 + lane / 4, packing.channels);
  if (column.channel < 0) return 0.0f;
  if (layer.kind == Kind::kMix) {
    return packing.weights.mixes[layer.conv][column.channel * layer.c_in + record.part * 32 + input];
  }
  // The input numbers of the first layer are the taps of its one channel.
  const bool first = layer.kind == Kind::kFirst;
  const int tap = (first ? input : record.tap) - ((first ? 7 : layer.taps()) - column.k) / 2;
  if (tap < 0 || tap >= column.k) return 0.0f;
  const int channel = first ? 0 : published_input(layer, record.part * 32 + input);
  const float weight = packing.weights.convs[column.conv][(column.channel * layer.c_in + channel) * column.k + tap];
  return 0.5f * fold(packing.weights, column.conv, column.channel).scale * weight;
}

// Returns number `element` of a piece of float32 numbers: the shift of each column, or for the skip path kColumns
// scales and then as many shifts.
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

// Packs this thread's share of record `index` into stream [chunks * kChunk] bytes.
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
