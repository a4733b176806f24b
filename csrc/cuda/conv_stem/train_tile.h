// How the stem's training kernels address rows, and how they bring them to shared memory.
//
// To a kernel each sample is followed by as many rows of zeros as a window reaches, so that no tap needs to know where
// a sample ends. A launch serves one stem or two; in every array the rows of the second stem follow those of the first.
#pragma once

#include "cuda/conv_stem/tile.h"
#include "cuda/conv_stem/train_plan.h"

namespace xmae_fast::cuda {

struct alignas(16) Float4 {
  float v[4];
};

// One stem's part of a launch.
struct Part {
  int B, L_in, L_out;             // samples; rows of a sample in the input and in the output
  int spacing;                    // rows of output that a sample takes together with the zeros after it
  int blocks;                     // CTAs
  int source_first, of_source;    // first CTA, and how many, that left sums of the source's channels
  int64_t in_before, out_before;  // rows of the stems before this one in the input and in the output
  int L_other;           // rows of a sample in a third array: of a mix the coarser level, of its backward the finer
  int64_t other_before;  // rows of the stems before this one in that array
};

// The arrays that all launches of a step share.
struct Step {
  const float* flat;  // [stems, flat_stride]: weights, gammas, betas and perhaps running means and variances
  int64_t flat_stride;
  float* norms;    // [stems, kNormRows, kNormRow]
  float* sums;     // [stems, 2, kTrainChannels]: gradients of betas and gammas
  float* moments;  // [stems, kMoments]
  bool batch;      // BatchNorm uses the batch's statistics, else running ones

  XMAE_HD const float* weights(int stem) const { return flat + stem * flat_stride; }
  XMAE_HD float* norm(int stem, int row) const { return norms + (stem * kNormRows + row) * kNormRow; }
};

// Which stem a CTA works for, and its number among that stem's CTAs. The first stem has the first parts[0].blocks CTAs.
struct Mine {
  int stem, cta;
  const Part& part;
};
XMAE_HD Mine mine_of(const Part (&parts)[2], int cta) {
  const int stem = cta >= parts[0].blocks;
  return {stem, stem ? cta - parts[0].blocks : cta, parts[stem]};
}

// Returns which row of an array is row `row` of the padded samples, or -1 for a row of zeros. spacing, L and before are
// those of the array.
XMAE_HD int64_t row_of(int row, int spacing, int B, int L, int64_t before) {
  if (row < 0) return -1;
  const int sample = row / spacing, at = row - sample * spacing;
  return sample < B && at < L ? before + static_cast<int64_t>(sample) * L + at : -1;
}

// Eight 16-bit numbers to float32, and back.
template <typename Number>
XMAE_HD void unpack(const Words4& words, float (&v)[8]) {
  XMAE_UNROLL
  for (int k = 0; k < 8; ++k) v[k] = Number::value(words.v[k / 2] >> 16 * (k % 2) & 0xffffu);
}
template <typename Number>
XMAE_HD Words4 pack(const float (&v)[8]) {
  Words4 words;
  XMAE_UNROLL
  for (int k = 0; k < 4; ++k) words.v[k] = Number::two(v[2 * k], v[2 * k + 1]);
  return words;
}
constexpr XMAE_HD Words4 zeros() { return {{0, 0, 0, 0}}; }

// Loads eight float32 numbers from shared memory.
template <typename Lane>
XMAE_HD void load_eight(Lane& lane, uint32_t at, float (&v)[8]) {
  const Float4 low = lane.template load<Float4>(at), high = lane.template load<Float4>(at + 16);
  XMAE_UNROLL
  for (int k = 0; k < 4; ++k) {
    v[k] = low.v[k];
    v[4 + k] = high.v[k];
  }
}

// Return silu(2 h), and the derivative of silu at 2 h.
template <typename Lane>
XMAE_HD float silu_of_half(Lane& lane, float h) {
  return fmaf(h, lane.tanh(h), h);
}
template <typename Lane>
XMAE_HD float silu_slope_of_half(Lane& lane, float h) {
  const float t = lane.tanh(h);
  return (0.5f + 0.5f * t) * (1.0f + h * (1.0f - t));
}

// Calls visit(row, piece) for this thread's share of an array [count, C], which is one piece of eight channels of some
// of the rows. UNROLL calls overlap.
template <int C, int UNROLL = 4, typename Lane, typename Visit>
XMAE_HD void each_piece(Lane& lane, int count, const Visit& visit) {
  constexpr int kPieces = C / 8, kStep = Lane::kThreads / kPieces;
  const int piece = lane.thread() % kPieces;
#if defined(__CUDA_ARCH__)
#pragma unroll UNROLL
#endif
  for (int row = lane.thread() / kPieces; row < count; row += kStep) visit(row, piece);
}

// Copies rows of C numbers to shared memory, without registers for numbers that are on the way. where(row) returns the
// row in global memory, or null for zeros. If `changes`, begin() returns a function change(words, row, piece), whose
// result replaces each piece that this thread has copied.
template <int C, typename Lane, typename Where, typename Begin>
XMAE_HD void stage_rows(Lane& lane, uint32_t to, int count, bool changes, const Where& where, const Begin& begin) {
  each_piece<C>(lane, count, [&](int row, int piece) {
    const uint32_t at = to + Rows<C>::at(row, piece);
    if (const uint16_t* const from = where(row)) {
      lane.copy_async(at, reinterpret_cast<const char*>(from + 8 * piece));
    } else {
      lane.store(at, zeros());
    }
  });
  if (!changes) return;
  lane.wait_for_copies();
  lane.forget_addresses();
  const auto change = begin();
  each_piece<C, 1>(lane, count, [&](int row, int piece) {
    if (!where(row)) return;
    const uint32_t at = to + Rows<C>::at(row, piece);
    lane.store(at, change(lane.template load<Words4>(at), row, piece));
  });
}

// Stores a warp's outputs to rows of C numbers in shared memory, from row `row` on and `stride` apart. tile: the first
// of its 8-column tiles.
template <int C, int R, int N, typename Lane>
XMAE_HD void store_columns(Lane& lane, const Outputs<R, N>& out, uint32_t rows_at, int row, int tile, int stride = 1) {
  const int g = lane.lane() / 4, t = lane.lane() % 4;
  XMAE_UNROLL
  for (int i = 0; i < R; ++i) {
    XMAE_UNROLL
    for (int j = 0; j < N; ++j) {
      XMAE_UNROLL
      for (int below = 0; below < 2; ++below) {
        const int at = row + stride * (i * kTileRows + 8 * below + g);
        lane.store(rows_at + Rows<C>::at(at, tile + j) + 4 * t, out.v[i][j / 2][j % 2 * 2 + below]);
      }
    }
  }
}

// Each region of shared memory begins at a multiple of 128 bytes.
constexpr int padded(int bytes) { return (bytes + 127) / 128 * 128; }
constexpr int most(int a, int b) { return a > b ? a : b; }
constexpr int kScratchBytes = 16 * 1024;  // memory in which the threads of a CTA add up their numbers

}  // namespace xmae_fast::cuda
