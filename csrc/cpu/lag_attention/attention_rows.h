// The kernels of lag_attention: x + out_proj(attention(LN(x), LN(key_value))), and its gradients, by groups of samples.
#pragma once

#include "cpu/base/kernels.h"
#include "cpu/base/rows.h"
#include "cpu/lag_attention/attention_head.h"

namespace xmae_fast::XMAE_ISA {

// The rows of q, and of k and v side by side, or their gradients, and how far apart the rows are.
struct Projected {
  float *q, *kv;
  int64_t q_stride, kv_stride;
};

// Returns head h of sample b. at: the rows of that sample.
XMAE_INLINE Head head_of(const Attention& a, const Projected& at, int64_t b, int64_t h) {
  const int64_t d = a.D / a.H;
  Head head{};
  head.q = at.q + h * d;
  head.k = at.kv + h * d;
  head.v = at.kv + a.D + h * d;
  head.q_stride = at.q_stride;
  head.kv_stride = at.kv_stride;
  head.Nq = a.Nq;
  head.Nk = a.Nk;
  head.d = d;
  head.scale = 1.0f / __builtin_sqrtf(static_cast<float>(d));
  if (a.table != nullptr) {
    head.table = a.table + h * a.columns;
    head.zero = (a.columns - 1) / 2;
    head.query_pos = a.query_pos + b * a.query_pos_stride;
    head.key_pos = a.key_pos + b * a.key_pos_stride;
  }
  head.dropout = &a.dropout;
  head.row = b * a.H + h;
  return head;
}

// q = normed_q Wq^T + bq and k | v = normed_kv Wkv^T + bkv, in one parallel loop over the columns of both.
// normed_q [rows_q, D] and normed_kv [rows_kv, D] have rows `stride` apart.
template <typename Number, typename Matrix>
void project(
    const Attention& a, const Projections<Matrix>& weights, const Number* normed_q, const Number* normed_kv,
    int64_t stride, int64_t rows_q, int64_t rows_kv, const Projected& out) {
  const int64_t D = a.D, q_panels = weights.q.panels.size(), kv_panels = weights.kv.panels.size();
  const auto into_q = [&](const RowOut& at, Vec v0, Vec v1) {
    Vec b0, b1;
    load_row(a.in_bias, at, b0, b1);
    store_row(out.q, out.q_stride, at, v0 + b0, v1 + b1);
  };
  const auto into_kv = [&](const RowOut& at, Vec v0, Vec v1) {
    Vec b0, b1;
    load_row(a.in_bias + D, at, b0, b1);
    store_row(out.kv, out.kv_stride, at, v0 + b0, v1 + b1);
  };
  parallel(q_panels + kv_panels, 1, [&](int64_t first, int64_t last) {
    multiply_panels(normed_q, stride, weights.q, rows_q, first, last < q_panels ? last : q_panels, into_q);
    const int64_t from = first > q_panels ? first - q_panels : 0;
    multiply_panels(normed_kv, stride, weights.kv, rows_kv, from, last - q_panels, into_kv);
  });
}

// Computes samples [first, first + samples) of out [B, Nq, D]. Everything between input and output is in scratch
// memory, except for what training saves.
template <typename Math>
void attention_group(
    const Attention& a, const Projections<typename Math::Matrix>& weights, int64_t first, int64_t samples,
    const AttentionSaved& saved, float* out) {
  using Number = typename Math::Number;
  constexpr bool rounds = sizeof(Number) != sizeof(float);  // whether the context must be rounded for its product
  const int64_t D = a.D, d = D / a.H, rows_q = samples * a.Nq, rows_kv = samples * a.Nk;
  const int64_t from_q = first * a.Nq, from_kv = first * a.Nk, narrow = Math::row_stride(D);
  const int64_t float_narrow = row_stride(D), wide = row_stride(2 * D);
  const int64_t readable_q = Math::readable(rows_q), readable_kv = Math::readable(rows_kv);
  const bool keep = saved.q != nullptr;
  const int64_t numbers = (readable_q + (rounds ? readable_q : 0) + (a.cross ? readable_kv : 0)) * narrow;
  const int64_t floats = numbers * static_cast<int64_t>(sizeof(Number)) / 4;
  float* memory = scratch(kSlotMain, floats + (keep ? 0 : 2 * rows_q * float_narrow + rows_kv * wide));
  Number *normed_q = reinterpret_cast<Number*>(memory), *rounded = normed_q + readable_q * narrow;
  Number* normed_kv = a.cross ? rounded + (rounds ? readable_q * narrow : 0) : normed_q;
  float* free = memory + floats;
  Projected at{free, free + rows_q * float_narrow, float_narrow, wide};
  float* context = free + rows_q * float_narrow + rows_kv * wide;
  int64_t context_stride = float_narrow;
  if (keep) {
    at = {saved.q + from_q * D, saved.kv + from_kv * 2 * D, D, 2 * D};
    context = saved.context + from_q * D;
    context_stride = D;
  }
  const float* x = a.x + from_q * D;
  normalise<Math>(x, a.norm_q, rows_q, D, normed_q, narrow, keep ? saved.stats_q + 2 * from_q : nullptr);
  if (a.cross) {
    float* stats = keep ? saved.stats_kv + 2 * from_kv : nullptr;
    normalise<Math>(a.key_value + from_kv * D, a.norm_kv, rows_kv, D, normed_kv, narrow, stats);
  }
  project(a, weights, normed_q, normed_kv, narrow, rows_q, rows_kv, at);
  parallel(samples * a.H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / a.H, h = i % a.H;
      float *q = at.q + sample * a.Nq * at.q_stride, *kv = at.kv + sample * a.Nk * at.kv_stride;
      const Head head = head_of(a, {q, kv, at.q_stride, at.kv_stride}, first + sample, h);
      head_forward(head, context + sample * a.Nq * context_stride + h * d, context_stride);
    }
  });
  const auto add = [&](const RowOut& row, Vec v0, Vec v1) {
    Vec b0, b1, x0, x1;
    load_row(a.out_bias, row, b0, b1);
    load_row(x + row.row * D, row, x0, x1);
    store_row(out + from_q * D, D, row, x0 + (v0 + b0), x1 + (v1 + b1));
  };
  if constexpr (rounds) {
    round_rows<Math>(context, context_stride, rows_q, D, rounded, narrow);
    product(rounded, narrow, weights.out, rows_q, add);
  } else {
    product(context, context_stride, weights.out, rows_q, add);
  }
}

// out [B, Nq, D].
template <typename Math>
void attention(
    const Attention& a, const Projections<typename Math::Matrix>& weights, const AttentionSaved& saved, float* out) {
  over_groups<Math>(a.B, a.Nq > a.Nk ? a.Nq : a.Nk, [&](int64_t first, int64_t samples) {
    attention_group<Math>(a, weights, first, samples, saved, out);
  });
}

// out [rows, columns] = A B, or out += A B if `add`. Rows lie stride and out_stride apart.
template <typename Number, typename Matrix>
void product_onto(
    const Number* a, int64_t stride, const Matrix& matrix, int64_t rows, bool add, float* out, int64_t out_stride) {
  product(a, stride, matrix, rows, [&](const RowOut& at, Vec v0, Vec v1) {
    if (add) {
      Vec d0, d1;
      load_row(out + at.row * out_stride, at, d0, d1);
      v0 += d0;
      v1 += d1;
    }
    store_row(out, out_stride, at, v0, v1);
  });
}

// Computes the gradient dn [rows, D] of a normalised input: dq Wq for x in cross-attention (kv is null), dkv Wkv for
// key_value (q is null), their sum in self-attention.
inline void input_gradient(
    const AttentionWeights& weights, const Projected* q, const Projected* kv, int64_t rows, float* dn, int64_t stride) {
  if (q != nullptr) {
    product_into(q->q, q->q_stride, weights.q, rows, dn, stride);
  }
  if (kv != nullptr) product_onto(kv->kv, kv->kv_stride, weights.kv, rows, q != nullptr, dn, stride);
}

// The backward of LayerNorm for the rows of one sample. x, residual, dx [rows, D], the last two may be null; stats
// [rows, 2]; dn [rows, D] with rows `stride` apart.
XMAE_INLINE void norm_gradient(
    const float* x, const float* stats, const Norm& norm, float* dn, int64_t stride, int64_t rows, int64_t D,
    const float* residual, float* dx, float* dweight, float* dbias) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* add = residual != nullptr ? residual + row * D : nullptr;
    float* to = dx != nullptr ? dx + row * D : nullptr;
    norm_gradient_row(x + row * D, stats + 2 * row, norm.weight, dn + row * stride, D, add, to, dweight, dbias);
  }
}

// Applies LayerNorm with saved statistics: x [rows, D], stats [rows, 2] -> out [rows, D].
XMAE_INLINE void normalise_again(
    const float* x, const float* stats, const Norm& norm, int64_t rows, int64_t D, float* out) {
  for (int64_t row = 0; row < rows; ++row) {
    normalise_row(x + row * D, {stats[2 * row], stats[2 * row + 1]}, norm, D, out + row * D);
  }
}

// The rest of the backward of samples [first, first + samples) after dn [rows, D] of one input is known: the gradients of
// its LayerNorm, which go to the partials from `place` on, and dx unless null. x [B N, D], stats [B N, 2]; residual
// [samples N, D] or null.
inline void sample_norm_gradients(
    const Attention& a, int64_t first, int64_t samples, int64_t N, const float* x, const float* stats, const Norm& norm,
    float* dn, int64_t stride, const float* residual, float* dx, float* partials, int64_t place) {
  const int64_t D = a.D, size = attention_partials(a);
  for (int64_t s = 0; s < samples; ++s) {
    const int64_t row = (first + s) * N;
    float* partial = partials + s * size + place;
    norm_gradient(
        x + row * D, stats + 2 * row, norm, dn + s * N * stride, stride, N, D,
        residual != nullptr ? residual + s * N * D : nullptr, dx != nullptr ? dx + row * D : nullptr, partial,
        partial + D);
  }
}

// Sums the gradients of the biases of `samples` samples to their partials. grad [samples Nq, D]; d: gradients of q, k, v.
inline void sample_bias_gradients(
    const Attention& a, int64_t samples, const float* grad, const Projected& d, float* partials) {
  const int64_t D = a.D, size = attention_partials(a);
  for (int64_t s = 0; s < samples; ++s) {
    float* partial = partials + s * size;
    sum_rows(grad + s * a.Nq * D, D, a.Nq, D, partial + 4 * D);
    sum_rows(d.q + s * a.Nq * d.q_stride, d.q_stride, a.Nq, D, partial + 5 * D);
    sum_rows(d.kv + s * a.Nk * d.kv_stride, d.kv_stride, a.Nk, 2 * D, partial + 6 * D);
  }
}

// The backward of samples [first, first + samples), except for the gradients of both weight matrices. A sample's
// partials are the gradients of norm_q weight and bias, norm_kv weight and bias and out_bias [D] each, in_bias [3 D]
// and table [H, 2 N - 1].
inline void attention_backward_group(
    const Attention& a, const AttentionSaved& saved, const AttentionBackward& back, int64_t first, int64_t samples) {
  const int64_t D = a.D, H = a.H, d = D / H, Nq = a.Nq, Nk = a.Nk, rows_q = samples * Nq, rows_kv = samples * Nk;
  const int64_t from_q = first * Nq, from_kv = first * Nk, narrow = row_stride(D), wide = row_stride(2 * D);
  const int64_t size = attention_partials(a);
  float* dcontext = scratch(kSlotMain, (rows_q + (rows_q > rows_kv ? rows_q : rows_kv)) * narrow);
  float *dn = dcontext + rows_q * narrow, *partials = back.partials + first * size;
  std::memset(partials, 0, samples * size * sizeof(float));
  const float* grad = back.grad + from_q * D;
  product_into(grad, D, back.weights->out, rows_q, dcontext, narrow);
  const Projected at{saved.q + from_q * D, saved.kv + from_kv * 2 * D, D, 2 * D};
  const Projected dat{back.dq + from_q * narrow, back.dkv + from_kv * wide, narrow, wide};
  parallel(samples * H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / H, h = i % H;
      const Projected here{at.q + sample * Nq * D, at.kv + sample * Nk * 2 * D, D, 2 * D};
      const float* dhead = dcontext + sample * Nq * narrow + h * d;
      float *dq = dat.q + sample * Nq * narrow + h * d, *dkv = dat.kv + sample * Nk * wide + h * d;
      float* dtable = back.table != nullptr ? partials + sample * size + 8 * D + h * a.columns : nullptr;
      const HeadGradient into{
          .context = dhead,
          .context_stride = narrow,
          .q = dq,
          .k = dkv,
          .v = dkv + D,
          .q_stride = narrow,
          .kv_stride = wide,
          .table = dtable,
      };
      head_backward(head_of(a, here, first + sample, h), into);
    }
  });
  if (back.in_weight != nullptr) {
    const float *x = a.x + from_q * D, *key_value = a.key_value + from_kv * D;
    normalise_again(x, saved.stats_q + 2 * from_q, a.norm_q, rows_q, D, back.normed_q + from_q * D);
    if (a.cross) {
      const float* stats = saved.stats_kv + 2 * from_kv;
      normalise_again(key_value, stats, a.norm_kv, rows_kv, D, back.normed_kv + from_kv * D);
    }
  }
  if (back.needs_x()) {
    input_gradient(*back.weights, &dat, a.cross ? nullptr : &dat, rows_q, dn, narrow);
    sample_norm_gradients(a, first, samples, Nq, a.x, saved.stats_q, a.norm_q, dn, narrow, grad, back.x, partials, 0);
  }
  if (a.cross && back.needs_key_value()) {
    input_gradient(*back.weights, nullptr, &dat, rows_kv, dn, narrow);
    sample_norm_gradients(
        a, first, samples, Nk, a.key_value, saved.stats_kv, a.norm_kv, dn, narrow, nullptr, back.key_value, partials,
        2 * D);
  }
  sample_bias_gradients(a, samples, grad, dat, partials);
}

// Adds the samples' partials to the gradients.
inline void merge_partials(const float* partials, const Attention& a, const AttentionGradients& into) {
  const int64_t D = a.D, size = attention_partials(a);
  const auto merge = [&](int64_t from, int64_t columns, float* out) {
    if (out != nullptr) sum_rows(partials + from, size, a.B, columns, out);
  };
  merge(0, D, into.norm_q.weight);
  merge(D, D, into.norm_q.bias);
  merge(2 * D, D, into.norm_kv.weight);
  merge(3 * D, D, into.norm_kv.bias);
  merge(4 * D, D, into.out_bias);
  merge(5 * D, 3 * D, into.in_bias);
  merge(8 * D, a.H * a.columns, into.table);
}

// The whole backward.
inline void attention_backward(const Attention& a, const AttentionSaved& saved, const AttentionBackward& back) {
  const int64_t D = a.D, rows_q = a.B * a.Nq, rows_kv = a.B * a.Nk;
  const int64_t narrow = row_stride(D), wide = row_stride(2 * D);
  over_groups<Float32>(a.B, a.Nq > a.Nk ? a.Nq : a.Nk, [&](int64_t first, int64_t samples) {
    attention_backward_group(a, saved, back, first, samples);
  });
  if (back.in_weight != nullptr) {
    outer(back.dq, narrow, back.normed_q, D, rows_q, D, D, back.in_weight);
    outer(back.dkv, wide, back.normed_kv, D, rows_kv, 2 * D, D, back.in_weight + D * D);
  }
  if (back.out_weight != nullptr) outer(back.grad, D, saved.context, D, rows_q, D, D, back.out_weight);
  merge_partials(back.partials, a, back);
}

}  // namespace xmae_fast::XMAE_ISA
