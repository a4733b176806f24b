// The plan of the stem's inference kernel: its layers, the order in which their weights stream through shared memory,
// and where in shared memory everything lies. One CTA computes one sample. The outputs of a whole layer are in its
// registers, so a layer is written over its own input and the activations need room only once.
#pragma once

#include "cuda/number.h"

namespace xmae_fast::cuda {

constexpr int kTileRows = 16;  // rows of one mma.m16n8k16
constexpr int kPadRows = 3;    // rows of zeros around an activation, as many as the widest window reaches
constexpr int kLevels = 3;
constexpr int kFirstWidth = 32;         // channels of the finest level; each coarser level has twice as many
constexpr int kConvs = 30, kMixes = 4;  // convolutions with BatchNorm, and 1x1 convolutions between levels, without
constexpr int kSkip = 29;               // the skip path's place among the convolutions
constexpr int kChunk = 16384;           // bytes of weights that are copied at a time; shared memory holds two chunks
constexpr int kTileBytes = 512;         // weights of 32 input numbers for 8 output channels
constexpr int kColumns = 32;            // channels of the head that are computed at a time
constexpr int kMaxChannels = 128;       // the most channels that the stem may return
constexpr float kNormEps = 1e-5f;       // BatchNorm's eps

constexpr XMAE_HD int width(int level) { return kFirstWidth << level; }
constexpr XMAE_HD int length_at(int length, int level) {
  return level == 0 ? length : length_at((length + 1) / 2, level - 1);
}

// An Inception block of `channels` channels has three branches, of 7, 5 and 3 taps. Kernels order its channels
// k7 | k5 | k3, so that the taps that reach farthest belong to the first channels. The branches have seventh(), third()
// and third() channels.
constexpr XMAE_HD int third(int channels) { return channels / 3; }
constexpr XMAE_HD int seventh(int channels) { return channels - 2 * third(channels); }

// Returns the published place of channel c of the branches. The published order is k3 | k5 | k7.
constexpr XMAE_HD int published(int channels, int c) {
  const int far = seventh(channels), middle = third(channels);
  return c < far ? 2 * middle + c : c < far + middle ? c - far + middle : c - far - middle;
}

// Returns how many 8-column tiles of a 7-tap window have weights under a tap: taps 2, 3 and 4 belong to all branches,
// taps 1 and 5 to the first two, taps 0 and 6 to the first.
constexpr XMAE_HD int tiles_of_tap(int channels, int tap) {
  const int far = seventh(channels), middle = third(channels);
  const int columns = tap == 0 || tap == 6 ? far : tap == 1 || tap == 5 ? far + middle : channels;
  return (columns + 7) / 8;
}
constexpr int kTapOrder[7] = {2, 3, 4, 1, 5, 0, 6};  // the order of computation: taps with equally many tiles together

enum class Kind : uint8_t { kFirst, kBranches, kFuse, kConv, kMix, kHead };

struct Layer {
  Kind kind;
  int c_in, columns;  // input channels; output channels that this layer computes
  int conv;           // its place among the convolutions (of three branches the first), or among the mixes
  int first;          // the convolution's output channel that is column 0 of this layer

  // Taps of the window; groups of 32 input numbers; the i-th tap in the order of computation; 8-column tiles under it.
  constexpr XMAE_HD int taps() const {
    return kind == Kind::kBranches ? 7 : kind == Kind::kConv || kind == Kind::kHead ? 3 : 1;
  }
  constexpr XMAE_HD int parts() const { return kind == Kind::kFirst ? 1 : c_in / 32; }
  constexpr int tap(int i) const { return kind == Kind::kBranches ? kTapOrder[i] : i; }
  constexpr XMAE_HD int tiles(int tap) const {
    return kind == Kind::kBranches ? tiles_of_tap(columns, tap) : columns / 8;
  }
  constexpr XMAE_HD bool normalised() const { return kind != Kind::kMix; }
};

// The mixes are the 1x1 convolutions between levels. `lateral` reads the finer level, `reduce` the coarser one.
enum MixName : int { kLateral2 = 0, kLateral1, kReduce3to2, kReduce2to1 };
constexpr int kHeadLayer = 26;  // this layer and those after it are blocks of kColumns channels of the head
// {kind, c_in, columns, conv, first}. A fusing convolution runs as two layers, each with half of the columns, because
// its inputs occupy registers too.
// clang-format off
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
// clang-format on

// One piece of the stream: the weights of 32 input numbers under one tap, or float32 numbers for each column.
enum class Piece : uint8_t { kWeights, kShift, kSkip };
struct Record {
  uint8_t layer, tap, part;
  Piece piece;
  uint32_t offset;  // bytes
};

// All pieces in the order in which the kernel takes them. No piece crosses the end of a chunk.
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

// The head is computed in blocks of kColumns channels.
constexpr int head_blocks(int channels) { return (channels + kColumns - 1) / kColumns; }

// Lists the layers of a stem with this many output channels and the pieces that they take.
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
  stream.chunks += stream.chunks % 2;  // an even number: each sample begins with the same one of the two slots
  return stream;
}
static_assert(make_stream(kMaxChannels).count <= Stream::kMost, "make room for more records");

// Where everything lies in shared memory when each of WARPS warps has R tiles of 16 rows on the finest level. All
// levels hold equally many numbers, so a thread has 16 R outputs of every layer.
template <int WARPS, int R>
struct Room {
  static_assert(R >= 4, "each warp needs a tile on the coarsest level");
  static constexpr int kWarps = WARPS, kThreads = 32 * WARPS, kMostRows = WARPS * kTileRows * R;

  static constexpr XMAE_HD int tiles(int level) { return R >> level; }         // 16-row tiles of a warp
  static constexpr XMAE_HD int rows(int level) { return kMostRows >> level; }  // the most rows of a level
  static constexpr XMAE_HD int level_bytes(int level) { return (rows(level) + 2 * kPadRows) * width(level) * 2; }

  // Offsets in bytes: the activation, two chunks of weights, the kept e2 (x is there before it, the features after it),
  // and the kept e1 unless that is in global memory.
  static constexpr int kActivation = 0;
  static constexpr int kSlots = level_bytes(kLevels - 1);
  static constexpr int kKeep2 = kSlots + 2 * kChunk;
  static constexpr int kKeep1 = kKeep2 + rows(1) * width(1) * 2;
  static constexpr int kKeep1Bytes = rows(0) * width(0) * 2;
  static constexpr int kBytes = kKeep1 + kKeep1Bytes;
  static constexpr int kBytesWithoutKeep1 = kKeep1;
  static_assert(
      level_bytes(2) >= level_bytes(1) && level_bytes(1) >= level_bytes(0), "padding is widest on the last level");
};
static_assert(Room<8, 8>::kBytes == 230912 && Room<8, 8>::kBytesWithoutKeep1 == 165376, "as cuda/README.md states");

}  // namespace xmae_fast::cuda
