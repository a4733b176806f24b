// The kernels that exist once per instruction set, as a table of functions.
#pragma once

#include "cpu/base/blocks.h"
#include "cpu/conv_stem/stem_training.h"

namespace xmae_fast {

// A unit in evaluation: BatchNorm folded into weights and bias.
struct FoldedUnit {
  PackedMatrix matrix;
  AlignedFloats bias;  // [c_out, rounded up to a panel]
  int64_t stride, reach;
};

struct FoldedStem {
  FoldedUnit units[kUnits];
  PackedMatrix lateral[kMerges], reduce[kMerges];
  AlignedFloats skip_scale, skip_shift;  // [S, rounded up to a panel]: skip path = x * scale + shift
  int64_t widths[3], channels;
};
inline int64_t packed_count(const FoldedStem& stem) {
  int64_t count = 0;
  for (const FoldedUnit& unit : stem.units) count += unit.matrix.count;
  for (int m = 0; m < kMerges; ++m) count += stem.lateral[m].count + stem.reduce[m].count;
  return count;
}

// Floats in one activation buffer of a sample: the largest level, and behind level 3 its reduction to level 2's channels.
inline int64_t stem_eval_buffer(const FoldedStem& stem, int64_t L) {
  const int64_t L2 = (L + 1) / 2, L3 = (L2 + 1) / 2, pad = 2 * kPad;
  const int64_t third = (L3 + pad) * stem.widths[2] + L3 * stem.widths[1];
  const int64_t most = std::max({(L + pad) * stem.widths[0], (L2 + pad) * stem.widths[1], third, L2 * stem.widths[0]});
  return (most + 15) / 16 * 16 + 16;
}

// What a waveform's squared errors are taken of, patches of P samples.
struct ErrorTerms {
  const float* target;  // [rows, P]
  const float* mask;    // [rows, P]
  float* gradient;      // [rows, P], or null: factor * mask * (prediction - target)
  float factor;
  int64_t P;
};

struct Kernels {
  const char* name;
  int64_t width;  // floats in a vector

  uint64_t (*fingerprint)(const float* data, int64_t count);  // XXH3 of the bytes; see fingerprint.h

  // x [B, L] -> out [B, L, S]
  void (*stem_eval)(const FoldedStem& stem, const float* x, int64_t B, int64_t L, float* out);

  // Training; see stem_train.h and stem_backward.h.
  void (*input_statistics)(const float* x, int64_t B, int64_t L, float* statistics);
  void (*stem_forward_unit)(const StemTraining& run, int u, float* statistics);
  void (*stem_features)(const StemTraining& run, float* features);
  void (*stem_head_gradient)(const StemBackward& back, const float* grad, float x_mean, float* sums, float* skip_sums);
  void (*stem_backward_unit)(const StemBackward& back, int u, int64_t groups, float* weights, float* sums);

  // Products of patches and sums over them; see patches.h.
  void (*patch_linear)(
      const float* a, int64_t rows, int64_t steps, const PackedMatrix& matrix, const float* bias, const float* added,
      int64_t period, float* out);
  void (*patch_outer)(const float* a, int64_t M, const float* b, int64_t N, int64_t rows, float* out);
  void (*column_sums)(const float* x, int64_t rows, int64_t columns, float* out);

  // Waveforms; see waveform.h.
  void (*patch_sums)(const float* x, int64_t rows, int64_t P, double* sums, uint8_t* used);
  void (*squared_errors)(const float* prediction, const ErrorTerms& terms, int64_t rows, double* sums);
  void (*waveform_errors)(
      const float* tokens, int64_t D, const PackedMatrix& decoder, float bias, const ErrorTerms& terms,
      const uint8_t* used, int64_t rows, double* sums);
  void (*waveform_token_gradient)(
      const float* gradient, int64_t P, const PackedMatrix& encoder, float scale, const uint8_t* used, int64_t rows,
      float* out);
  void (*waveform_weight_gradient)(
      const float* gradient, const float* tokens, const uint8_t* used, int64_t rows, int64_t P, int64_t D, float* out);

  // blocks.h has the shapes
  void (*feed_forward)(
      const FeedForward& f, const PackedMatrix& up, const PackedMatrix& down, const FeedForwardSaved& saved, float* out);
  void (*feed_forward_backward)(const FeedForward& f, const FeedForwardSaved& saved, const FeedForwardBackward& back);
  void (*attention)(const Attention& a, const AttentionWeights& weights, const AttentionSaved& saved, float* out);
  void (*attention_backward)(const Attention& a, const AttentionSaved& saved, const AttentionBackward& back);

  // 0 or scale, for row `row` of a mask: out [columns, rounded up to kDropoutColumns]
  void (*dropout_row)(const Dropout& dropout, int64_t row, int64_t columns, float* out);
};

// The table in use: the best that this processor has, or the one that `use_kernels` chose.
const Kernels& kernels();

}  // namespace xmae_fast
