// The arguments of the kernels of a block's two sublayers, attention and feed-forward: sizes, weights, saved
// activations and gradients. Arrays are dense. Sizes have the letters of CONTRIBUTING.md.
#pragma once

#include "cpu/base/pack.h"

namespace xmae_fast {

constexpr int64_t kDropoutColumns = 64;  // columns of a mask that are drawn at a time: 16 draws of four words

// Dropout by counters: whether an element is kept depends on (seed, offset, row, column) alone.
struct Dropout {
  uint64_t seed = 0, offset = 0;
  uint32_t threshold = 0;  // an element is kept where its word is at least this; 0: no dropout
  float scale = 1.0f;
  bool active() const { return threshold > 0; }
};

// The weights of a LayerNorm.
struct Norm {
  const float *weight, *bias;  // [D]
};
struct NormGradient {
  float *weight, *bias;  // [D], or null
};

// Returns the distance of rows in scratch memory, in floats. It is whole cache lines and no power of two, because rows
// 4 kB apart would share few sets of the cache.
inline int64_t row_stride(int64_t columns) { return (columns + 15) / 16 * 16 + 16; }

struct FeedForward {
  int64_t rows, D, F;
  const float* x;  // [rows, D]
  Norm norm;
  const float* up_bias;    // [F]
  const float* down_bias;  // [D]
  Dropout dropout;
};

// Activations that training saves for the backward, in the precision of the products. Both are null in evaluation.
template <typename Number>
struct FeedForwardSaved {
  Number* hidden;  // [rows, F], before GELU
  float* stats;    // [rows, 2]: mean, 1 / standard deviation
};

// The results of the backward. Each is null if it is not wanted.
struct FeedForwardGradients {
  float* x;  // [rows, D]
  NormGradient norm;
  float *up_weight, *up_bias, *down_weight, *down_bias;  // [F, D], [F], [D, F], [D]

  bool needs_input() const { return x != nullptr || norm.weight != nullptr || norm.bias != nullptr; }
};

struct FeedForwardBackward : FeedForwardGradients {
  const float* grad;              // [rows, D]
  const PackedMatrix *up, *down;  // weights, packed for the gradients of the products' inputs
  // Work space.
  float* normed;      // [rows, D]
  float* branch;      // [rows, D]: grad times the dropout's mask; null without dropout
  float* activation;  // [rows, row_stride(F)]
  float* hidden;      // [rows, row_stride(F)]: gradient before GELU
  float* partials;    // [ceil(rows / kSumRows), F + 3 D]
};

struct Attention {
  int64_t B, Nq, Nk, D, H;
  bool cross;
  const float* x;          // [B, Nq, D]
  const float* key_value;  // [B, Nk, D]; self-attention: x
  Norm norm_q, norm_kv;
  const float* in_bias;                      // [3 D]
  const float* out_bias;                     // [D]
  const float* table;                        // [H, columns]: biases of the scores by lag; null without a bias
  int64_t columns;                           // 2 N - 1
  const int64_t* query_pos;                  // [B or 1, Nq]: patch indices
  const int64_t* key_pos;                    // [B or 1, Nk]
  int64_t query_pos_stride, key_pos_stride;  // numbers from sample to sample; 0: all samples have the same positions
  Dropout dropout;
};

// Activations that training saves for the backward. All are null in evaluation.
struct AttentionSaved {
  float* q;         // [B Nq, D]
  float* kv;        // [B Nk, 2 D]
  float* context;   // [B Nq, D]
  float* stats_q;   // [B Nq, 2]: mean, 1 / standard deviation
  float* stats_kv;  // [B Nk, 2]; self-attention: stats_q
};

template <typename Matrix>
struct Projections {
  Matrix q, kv, out;  // forward: [D, D], [D, 2 D], [D, D]; backward: packed for the gradients of the inputs
};
using AttentionWeights = Projections<PackedMatrix>;

// The results of the backward. Each is null if it is not wanted.
struct AttentionGradients {
  float *x, *key_value;  // [B, Nq, D], [B, Nk, D]
  NormGradient norm_q, norm_kv;
  float *in_weight, *in_bias, *out_weight, *out_bias, *table;  // [3 D, D], [3 D], [D, D], [D], [H, columns]

  bool needs_x() const { return x != nullptr || norm_q.weight != nullptr || norm_q.bias != nullptr; }
  bool needs_key_value() const { return key_value != nullptr || norm_kv.weight != nullptr || norm_kv.bias != nullptr; }
};

struct AttentionBackward : AttentionGradients {
  const float* grad;  // [B, Nq, D]
  const AttentionWeights* weights;
  // Work space.
  float* dq;         // [B Nq, row_stride(D)]
  float* dkv;        // [B Nk, row_stride(2 D)]
  float* normed_q;   // [B Nq, D]
  float* normed_kv;  // [B Nk, D]; self-attention: normed_q
  float* partials;   // [B, attention_partials(...)]
};

// Returns how many floats one sample's partial sums take: weight and bias of both norms, in_bias, out_bias, table.
inline int64_t attention_partials(const Attention& a) { return 8 * a.D + (a.table != nullptr ? a.H * a.columns : 0); }

}  // namespace xmae_fast
