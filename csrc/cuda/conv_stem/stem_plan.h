// The stem's inference kernel as a plan: layers, the order in which their weights stream through shared memory, and where
// in shared memory everything lies. One CTA computes one sample; the outputs of a whole layer are in its registers, so a
// layer is written over its own input and the activations need room only once.
#pragma once

#include "cuda/number.h"

namespace xmae_fast::cuda {

constexpr int kTileRows = 16;       // of mma.m16n8k16
constexpr int kPadRows = 3;         // zeros around an activation: the widest window's reach
constexpr int kLevels = 3;
constexpr int kFirstWidth = 32;     // channels of the finest level; twice as many on each coarser one
constexpr int kConvs = 30, kMixes = 4;  // in the order of xmae_fast/ops/conv_stem/schema.py
constexpr int kSkip = 29;
constexpr int kChunk = 16384;       // bytes of weights copied at a time; two chunks are in shared memory
constexpr int kTileBytes = 512;     // weights of 32 input numbers for 8 output channels
constexpr int kColumns = 32;        // of the head that are computed at once
constexpr int kMaxChannels = 128;   // that the stem may return
constexpr float kNormEps = 1e-5f;

constexpr XMAE_HD int width(int level) { return kFirstWidth << level; }
constexpr XMAE_HD int length_at(int length, int level) { return level == 0 ? length : length_at((length + 1) / 2, level - 1); }

// Channels of the branches of an Inception block, in the kernels' order k7 | k5 | k3: what reaches farthest comes first.
constexpr XMAE_HD int third(int channels) { return channels / 3; }
constexpr XMAE_HD int seventh(int channels) { return channels - 2 * third(channels); }

// Published place of channel c of the branches: they are published as k3 | k5 | k7.
constexpr XMAE_HD int published(int channels, int c) {
  const int far = seventh(channels), middle = third(channels);
  return c < far ? 2 * middle + c : c < far + middle ? c - far + middle : c - far - middle;
}

// 8-column tiles of a 7-tap window that have weights under tap t: taps 2, 3, 4 reach all, 1 and 5 the first two branches.
constexpr XMAE_HD int tiles_of_tap(int channels, int tap) {
  const int columns = tap == 0 || tap == 6 ? seventh(channels) : tap == 1 || tap == 5 ? seventh(channels) + third(channels) : channels;
  return (columns + 7) / 8;
}
constexpr int kTapOrder[7] = {2, 3, 4, 1, 5, 0, 6};  // taps of equal reach follow each other

enum class Kind : uint8_t { kFirst, kBranches, kFuse, kConv, kMix, kHead };

struct Layer {
  Kind kind;
  int c_in, columns, conv;  // conv: place among the convolutions (of three branches the first), or among the mixes
  int first;                // column of the convolution that is column 0 here

  constexpr XMAE_HD int taps() const { return kind == Kind::kBranches ? 7 : kind == Kind::kConv || kind == Kind::kHead ? 3 : 1; }
  constexpr XMAE_HD int parts() const { return kind == Kind::kFirst ? 1 : c_in / 32; }
  constexpr int tap(int i) const { return kind == Kind::kBranches ? kTapOrder[i] : i; }
  constexpr XMAE_HD int tiles(int tap) const { return kind == Kind::kBranches ? tiles_of_tap(columns, tap) : columns / 8; }
  constexpr XMAE_HD bool normalised() const { return kind != Kind::kMix; }
};

// The fusing convolutions run in two halves of their columns, because their inputs occupy registers too.
enum MixName : int { kLateral2 = 0, kLateral1, kReduce3to2, kReduce2to1 };
constexpr int kHeadLayer = 26;  // and the following ones: column blocks of the head
constexpr Layer kLayers[kHeadLayer + 1] = {
    {Kind::kFirst, 1, 32, 0, 0},        {Kind::kFuse, 32, 16, 3, 0},    {Kind::kFuse, 32, 16, 3, 16},
    {Kind::kBranches, 32, 32, 4, 0},    {Kind::kFuse, 32, 16, 7, 0},    {Kind::kFuse, 32, 16, 7, 16},
    {Kind::kConv, 32, 64, 8, 0},
    {Kind::kBranches, 64, 64, 9, 0},    {Kind::kFuse, 64, 32, 12, 0},   {Kind::kFuse, 64, 32, 12, 32},
    {Kind::kBranches, 64, 64, 13, 0},   {Kind::kFuse, 64, 32, 16, 0},   {Kind::kFuse, 64, 32, 16, 32},
    {Kind::kConv, 64, 128, 17, 0},
    {Kind::kBranches, 128, 128, 18, 0}, {Kind::kFuse, 128, 64, 21, 0},  {Kind::kFuse, 128, 64, 21, 64},
    {Kind::kBranches, 128, 128, 22, 0}, {Kind::kFuse, 128, 64, 25, 0},  {Kind::kFuse, 128, 64, 25, 64},
    {Kind::kMix, 128, 64, kReduce3to2, 0}, {Kind::kMix, 64, 64, kLateral2, 0}, {Kind::kConv, 64, 64, 26, 0},
    {Kind::kMix, 64, 32, kReduce2to1, 0},  {Kind::kMix, 32, 32, kLateral1, 0}, {Kind::kConv, 32, 32, 27, 0},
    {Kind::kHead, 32, kColumns, 28, 0},
};

// One piece of the stream: the weights of 32 input numbers under one tap, or numbers of float32 for each column.
enum class Piece : uint8_t { kWeights, kShift, kSkip };
struct Record {
  uint8_t layer, tap, part;
  Piece piece;
  uint32_t offset;  // bytes
};

// All pieces in the order in which the kernel takes them; none crosses the end of a chunk.
struct Stream {
  static constexpr int kMost = 208, kMostLayers = kHeadLayer + kMaxChannels / kColumns;
  Layer layers[kMostLayers];
  Record records[kMost];
  int count = 0, chunks = 0;
  uint32_t end = 0;

  static constexpr int bytes(const Layer& layer, const Record& record) {
    return record.piece == Piece::kWeights ? layer.tiles(record.tap) * kTileBytes : kTileBytes;
  }
  constexpr void add(Record record) {
    const uint32_t size = bytes(layers[record.layer], record);
    if (end % kChunk + size > kChunk) end = (end / kChunk + 1) * kChunk;
    record.offset = end;
    records[count++] = record;
    end += size;
    chunks = static_cast<int>((end + kChunk - 1) / kChunk);
  }
};

constexpr int head_blocks(int channels) { return (channels + kColumns - 1) / kColumns; }

constexpr Stream make_stream(int channels) {
  Stream stream{};
  for (int i = 0; i < kHeadLayer + head_blocks(channels); ++i) {
    Layer& layer = stream.layers[i] = kLayers[i < kHeadLayer ? i : kHeadLayer];
    if (i > kHeadLayer) layer.first = (i - kHeadLayer) * kColumns;
    const uint8_t index = static_cast<uint8_t>(i);
    if (layer.normalised()) stream.add({index, 0, 0, Piece::kShift, 0});
    for (int t = 0; t < layer.taps(); ++t) {
      for (int part = 0; part < layer.parts(); ++part) {
        stream.add({index, static_cast<uint8_t>(layer.tap(t)), static_cast<uint8_t>(part), Piece::kWeights, 0});
      }
    }
    if (layer.kind == Kind::kHead) stream.add({index, 0, 0, Piece::kSkip, 0});
  }
  stream.chunks += stream.chunks % 2;  // the two slots take turns from sample to sample
  return stream;
}
static_assert(make_stream(kMaxChannels).count <= Stream::kMost, "make room for more records");

// Where things lie in shared memory when each of WARPS warps has R 16-row tiles on the finest level. Every level holds as many
// numbers as any other, so a thread has 16 R outputs of each layer.
template <int WARPS, int R>
struct Room {
  static_assert(R >= 4, "a tile for each warp on the coarsest level");
  static constexpr int kWarps = WARPS, kThreads = 32 * WARPS, kMostRows = WARPS * kTileRows * R;

  static constexpr XMAE_HD int tiles(int level) { return R >> level; }          // of a warp
  static constexpr XMAE_HD int rows(int level) { return kMostRows >> level; }   // that a level may have
  static constexpr XMAE_HD int level_bytes(int level) { return (rows(level) + 2 * kPadRows) * width(level) * 2; }

  static constexpr int kActivation = 0;
  static constexpr int kSlots = level_bytes(kLevels - 1);               // two chunks of weights
  static constexpr int kKeep2 = kSlots + 2 * kChunk;                    // level 2's end; before it x, at last the features
  static constexpr int kKeep1 = kKeep2 + rows(1) * width(1) * 2;        // level 1's end, unless it is in global memory
  static constexpr int kKeep1Bytes = rows(0) * width(0) * 2;
  static constexpr int kBytes = kKeep1 + kKeep1Bytes;
  static constexpr int kBytesWithoutKeep1 = kKeep1;
  static_assert(level_bytes(2) >= level_bytes(1) && level_bytes(1) >= level_bytes(0), "padding is widest on the last level");
};
static_assert(Room<8, 8>::kBytes == 230912 && Room<8, 8>::kBytesWithoutKeep1 == 165376, "as CUDA.md states");

}  // namespace xmae_fast::cuda
