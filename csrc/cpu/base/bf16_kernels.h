// The table of the bfloat16 kernels, which are compiled once per instruction set.
#pragma once

#include "cpu/base/bf16_blocks.h"
#include "cpu/base/kernels.h"

namespace xmae_fast {

struct Bf16Kernels {
  const char* name;  // of the instruction set that multiplies: "amx", "avx512_bf16" or "plain"

  // The stem in evaluation: x [B, L] -> out [B, L, S]; see stem_eval.h.
  void (*stem_eval)(const FoldedStem<Bf16Matrix>& stem, const float* x, int64_t B, int64_t L, Bf16* out);

  // The stem in training; stem_train_bf16.h and stem_backward_bf16.h describe the arguments.
  void (*input_statistics)(const float* x, int64_t B, int64_t L, float* statistics);
  void (*stem_forward_unit)(const Bf16StemTraining& run, int u, float* statistics);
  void (*stem_features)(const Bf16StemTraining& run, Bf16* features);
  void (*stem_head_gradient)(
      const Bf16StemBackward& back, const Bf16* grad, float x_mean, float* sums, float* skip_sums);
  void (*stem_backward_unit)(const Bf16StemBackward& back, int u, int64_t groups, float* weights, float* sums);

  // a [rows, steps] -> out [rows, columns]; see patches.h. `steps` must be whole tiles, and 16 rows must be readable.
  void (*patch_linear)(
      const Bf16* a, int64_t rows, int64_t steps, const Bf16Matrix& matrix, const float* bias, const float* added,
      int64_t period, float* out);

  // The sublayers of a block; blocks.h describes the arguments. out [rows, D] and [B, Nq, D].
  void (*feed_forward)(
      const FeedForward& f, const Bf16Matrix& up, const Bf16Matrix& down, const FeedForwardSaved<Bf16>& saved,
      float* out);
  void (*feed_forward_backward)(
      const FeedForward& f, const FeedForwardSaved<Bf16>& saved, const FeedForwardBackwardBf16& back);
  void (*attention)(
      const Attention& a, const Projections<Bf16Matrix>& weights, const AttentionSaved& saved, float* out);
  void (*attention_backward)(const Attention& a, const AttentionSaved& saved, const AttentionBackwardBf16& back);

  // The gradients of patch_embed; patches_bf16.h describes the arguments.
  void (*patch_backward)(const PatchBackward& back);

  // Packing for training: see bf16_rows.h.
  void (*fill_tiles)(
      const float* weights, int64_t row_stride, int64_t step_stride, int64_t columns, int64_t steps, Bf16* out);
  void (*round_rows)(const float* a, int64_t rows, int64_t columns, Bf16* out, int64_t stride);
};

// The kernels for inference in float32 by three bfloat16 parts. The arguments are those of the float32 kernels.
struct SplitKernels {
  void (*stem_eval)(const FoldedStem<SplitMatrix>& stem, const float* x, int64_t B, int64_t L, float* out);
  void (*patch_linear)(
      const float* a, int64_t rows, int64_t steps, const SplitMatrix& matrix, const float* bias, const float* added,
      int64_t period, float* out);
  void (*feed_forward)(
      const FeedForward& f, const SplitMatrix& up, const SplitMatrix& down, const FeedForwardSaved<float>& saved,
      float* out);
  void (*attention)(
      const Attention& a, const Projections<SplitMatrix>& weights, const AttentionSaved& saved, float* out);
};

// Returns the table in use, or null where bfloat16 kernels are not used: the fastest that this processor can run and
// that is faster than float32 there, unless `use_cpu_bf16_kernels` chose another.
const Bf16Kernels* bf16_kernels();

// Returns the table in use; raises an error for operator `op` where there is none.
const Bf16Kernels& need_bf16_kernels(const char* op);

}  // namespace xmae_fast
