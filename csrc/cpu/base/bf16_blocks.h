// The arguments of the backward kernels that multiply in bfloat16. Work space for products over rows is laid out as
// bf16_outer.h says: "transposed" arrays have transposed_size numbers, "paired" ones paired_size.
#pragma once

#include "cpu/base/bf16_matrix.h"
#include "cpu/base/blocks.h"

namespace xmae_fast {

struct FeedForwardBackwardBf16 : FeedForwardGradients {
  const float* grad;            // [rows, D]
  const Bf16Matrix *up, *down;  // weights, packed for the gradients of the products' inputs
  // Work space.
  Bf16* branch;      // transposed [D, rows]: grad times the dropout's mask
  Bf16* activation;  // paired [rows, F]
  Bf16* hidden;      // transposed [F, rows]: gradient before GELU
  Bf16* normed;      // paired [rows, D]
  float* partials;   // [ceil(rows / kSumRows), F + 3 D]
};

struct AttentionBackwardBf16 : AttentionGradients {
  const float* grad;  // [B, Nq, D]
  const Projections<Bf16Matrix>* weights;
  // Work space.
  Bf16* dq;                      // [B Nq, bf16_stride(D)]
  Bf16* dkv;                     // [B Nk, bf16_stride(2 D)]
  Bf16 *dq_across, *dkv_across;  // transposed [D, B Nq] and [2 D, B Nk]
  Bf16 *normed_q, *normed_kv;    // paired [B Nq, D] and [B Nk, D]; self-attention: the same
  Bf16 *grad_across, *context;   // transposed [D, B Nq] and paired [B Nq, D]
  float* partials;               // [B, attention_partials(...)]
};

struct PatchBackward {
  int64_t rows, D, steps;    // tokens, their width, and numbers in a patch
  const float* grad;         // [rows, D]
  const void* features;      // [rows, steps], float or Bf16
  bool half;                 // whether features, and their gradient, are Bf16
  const Bf16Matrix* matrix;  // the weight, packed for the gradient of features
  // Results. Each is null if it is not wanted.
  void* features_grad;  // [rows, steps]
  float* weight_grad;   // [D, steps], in the order of the numbers of a patch
  // Work space.
  Bf16* rounded;  // [rows + 16, bf16_stride(D)]: grad; the last 16 rows are only read
  Bf16* across;   // transposed [D, rows]: grad
  Bf16* paired;   // paired [rows, steps]: features
};

}  // namespace xmae_fast
