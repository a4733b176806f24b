// The two sublayers of a block as their kernels see them: sizes, weights, saved activations, gradients. Tensors are
// dense; letters as in CONTRIBUTING.md.
#pragma once

#include "cpu/base/pack.h"

namespace xmae_fast {

constexpr int64_t kDropoutColumns = 64;  // of the mask, made at a time: 16 draws of four words

// Counter-based dropout: whether an element is kept depends on (seed, offset, row, column) alone.
struct Dropout {
  uint64_t seed = 0, offset = 0;
  uint32_t threshold = 0;  // an element is kept where its word is at least this; 0: no dropout
  float scale = 1.0f;
  bool active() const { return threshold > 0; }
};

struct Norm {
  const float *weight, *bias;  // [D]
};
struct NormGradient {
  float *weight, *bias;  // [D], or null
};

// Distance of rows in scratch memory: whole cache lines, and no power of two (rows 4 kB apart share few cache sets).
inline int64_t row_stride(int64_t columns) { return (columns + 15) / 16 * 16 + 16; }

struct FeedForward {
  int64_t rows, D, F;
  const float* x;  // [rows, D]
  Norm norm;
  const float* up_bias;    // [F]
  const float* down_bias;  // [D]
  Dropout dropout;
};

// What training keeps; null in evaluation.
struct FeedForwardSaved {
  float* hidden;  // [rows, F], before GELU
  float* stats;   // [rows, 2]: mean, 1 / standard deviation
};

struct FeedForwardBackward {
  const float* grad;              // [rows, D]
  const PackedMatrix *up, *down;  // weights of the inputs' gradients
  // Results; null where not asked for.
  float* x;  // [rows, D]
  NormGradient norm;
  float *up_weight, *up_bias, *down_weight, *down_bias;
  // Work space.
  float* normed;      // [rows, D]
  float* branch;      // [rows, D]: gradient behind the dropout; null without dropout
  float* activation;  // [rows, row_stride(F)]
  float* hidden;      // [rows, row_stride(F)]: gradient before GELU
  float* partials;    // [ceil(rows / kSumRows), F + 3 D]

  bool needs_input() const { return x != nullptr || norm.weight != nullptr || norm.bias != nullptr; }
};

struct Attention {
  int64_t B, Nq, Nk, D, H;
  bool cross;
  const float* x;          // [B, Nq, D]
  const float* key_value;  // [B, Nk, D]; x for self-attention
  Norm norm_q, norm_kv;
  const float* in_bias;   // [3 D]
  const float* out_bias;  // [D]
  const float* table;     // [H, columns] or null
  int64_t columns;        // 2 N - 1
  const int64_t *query_pos, *key_pos;          // [B or 1, Nq], [B or 1, Nk]
  int64_t query_pos_stride, key_pos_stride;    // 0: the same for all samples
  Dropout dropout;
};

// What training keeps; null in evaluation.
struct AttentionSaved {
  float* q;         // [B Nq, D]
  float* kv;        // [B Nk, 2 D]
  float* context;   // [B Nq, D]
  float* stats_q;   // [B Nq, 2]: mean, 1 / standard deviation
  float* stats_kv;  // [B Nk, 2]; stats_q for self-attention
};

struct AttentionWeights {
  PackedMatrix q, kv, out;  // forward: [D, D], [D, 2 D], [D, D]; or of the inputs' gradients
};
inline int64_t packed_count(const AttentionWeights& packed) {
  return packed.q.count + packed.kv.count + packed.out.count;
}

struct AttentionBackward {
  const float* grad;  // [B, Nq, D]
  const AttentionWeights* weights;
  // Results; null where not asked for.
  float *x, *key_value;
  NormGradient norm_q, norm_kv;
  float *in_weight, *in_bias, *out_weight, *out_bias, *table;
  // Work space.
  float* dq;         // [B Nq, row_stride(D)]
  float* dkv;        // [B Nk, row_stride(2 D)]
  float* normed_q;   // [B Nq, D]
  float* normed_kv;  // [B Nk, D]; normed_q for self-attention
  float* partials;   // [B, attention_partials(...)]

  bool needs_x() const { return x != nullptr || norm_q.weight != nullptr || norm_q.bias != nullptr; }
  bool needs_key_value() const {
    return key_value != nullptr || norm_kv.weight != nullptr || norm_kv.bias != nullptr;
  }
};

// Floats of one sample's partial sums: both norms' weight and bias, in_bias, out_bias, table.
inline int64_t attention_partials(const Attention& a) { return 8 * a.D + (a.table != nullptr ? a.H * a.columns : 0); }

}  // namespace xmae_fast
