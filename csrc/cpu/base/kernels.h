// The table of the kernels, which are compiled once per instruction set.
#pragma once

#include "cpu/base/blocks.h"
#include "cpu/conv_stem/stem_training.h"

namespace xmae_fast {

struct SplitKernels;  // see bf16_kernels.h

// A unit of the stem in evaluation, with BatchNorm folded into its weights and bias.
template <typename Matrix>
struct FoldedUnit {
  Matrix matrix;
  AlignedFloats bias;  // [c_out, rounded up to a panel]
  int64_t stride, reach;
};

// The stem in evaluation. Its first unit, which reads the signal, computes in float32 in both precisions.
template <typename Matrix>
struct FoldedStem {
  FoldedUnit<PackedMatrix> first;
  FoldedUnit<Matrix> units[kUnits];  // without the first
  Matrix lateral[kMerges], reduce[kMerges];
  AlignedFloats skip_scale, skip_shift;  // [S, rounded up to a panel]: skip path = x * scale + shift
  int64_t widths[3];                     // numbers in a row of the three levels' activations
  int64_t channels;
};

// Returns how many floats one activation buffer of a sample takes: as many as the largest level, where the coarsest
// level is counted together with its reduction to the channels of the middle level, which lies after it. Levels have
// `least` rows or more.
template <typename Matrix>
int64_t stem_eval_buffer(const FoldedStem<Matrix>& stem, int64_t L, int64_t least = 0) {
  const int64_t L2 = (L + 1) / 2, L3 = (L2 + 1) / 2, pad = 2 * kPad;
  const auto rows = [&](int64_t length) { return std::max(length, least) + pad; };
  const int64_t third = rows(L3) * stem.widths[2] + L3 * stem.widths[1];
  const int64_t most = std::max({rows(L) * stem.widths[0], rows(L2) * stem.widths[1], third, L2 * stem.widths[0]});
  return (most + 15) / 16 * 16 + 16;
}

// The arguments of a masked squared error between a predicted waveform and its target, in rows of P samples.
struct ErrorTerms {
  const float* target;  // [rows, P]
  const float* mask;    // [rows, P]
  float* gradient;      // [rows, P], or null: receives factor * mask * (prediction - target)
  float factor;
  int64_t P;
};

struct Kernels {
  const char* name;             // of the instruction set, and of what else sets this table apart
  const char* instruction_set;  // that its code is compiled for
  int64_t width;                // floats in a vector
  int64_t tile_rows;            // the most rows of a register tile
  const SplitKernels* split;    // for inference by three bfloat16 parts in place of the kernels below; or null

  // The digest of that many bytes at `data`; see fingerprint.h.
  uint64_t (*fingerprint)(const void* data, int64_t bytes);

  // The stem in evaluation: x [B, L] -> out [B, L, S]; see stem_eval.h.
  void (*stem_eval)(const FoldedStem<PackedMatrix>& stem, const float* x, int64_t B, int64_t L, float* out);

  // The stem in training; stem_train.h and stem_backward.h describe the arguments.
  void (*input_statistics)(const float* x, int64_t B, int64_t L, float* statistics);
  void (*stem_forward_unit)(const StemTraining& run, int u, float* statistics);
  void (*stem_features)(const StemTraining& run, float* features);
  void (*stem_head_gradient)(const StemBackward& back, const float* grad, float x_mean, float* sums, float* skip_sums);
  void (*stem_backward_unit)(const StemBackward& back, int u, int64_t groups, float* weights, float* sums);

  // Products of patches and sums over them; patches.h describes the arguments.
  void (*patch_linear)(
      const float* a, int64_t rows, int64_t steps, const PackedMatrix& matrix, const float* bias, const float* added,
      int64_t period, float* out);
  void (*patch_outer)(const float* a, int64_t M, const float* b, int64_t N, int64_t rows, float* out);
  void (*column_sums)(const float* x, int64_t rows, int64_t columns, float* out);

  // Errors of waveforms and their gradients; waveform.h describes the arguments.
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

  // The sublayers of a block; blocks.h describes the arguments. out [rows, D] and [B, Nq, D].
  void (*feed_forward)(
      const FeedForward& f, const PackedMatrix& up, const PackedMatrix& down, const FeedForwardSaved<float>& saved,
      float* out);
  void (*feed_forward_backward)(
      const FeedForward& f, const FeedForwardSaved<float>& saved, const FeedForwardBackward& back);
  void (*attention)(const Attention& a, const AttentionWeights& weights, const AttentionSaved& saved, float* out);
  void (*attention_backward)(const Attention& a, const AttentionSaved& saved, const AttentionBackward& back);

  // Writes row `row` of a mask, 0 or scale, to out [columns, rounded up to kDropoutColumns].
  void (*dropout_row)(const Dropout& dropout, int64_t row, int64_t columns, float* out);
};

// Returns the table in use: the fastest that this processor can run, unless `use_cpu_kernels` chose another.
const Kernels& kernels();

}  // namespace xmae_fast
