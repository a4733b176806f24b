// The backward of lag_attention with the products with weights in bfloat16. Heads, softmax, LayerNorm, sums over rows and
// the table's gradient stay in float32.
#pragma once

#include "cpu/base/bf16_kernels.h"
#include "cpu/base/bf16_rows.h"
#include "cpu/lag_attention/attention_rows.h"

namespace xmae_fast::XMAE_ISA {

// The backward of samples [first, first + samples), except for the gradients of both weight matrices. Partials are those
// of the float32 kernel.
inline void attention_backward_group(
    const Attention& a, const AttentionSaved& saved, const AttentionBackwardBf16& back, int64_t first,
    int64_t samples) {
  const int64_t D = a.D, H = a.H, d = D / H, Nq = a.Nq, Nk = a.Nk, rows_q = samples * Nq, rows_kv = samples * Nk;
  const int64_t from_q = first * Nq, from_kv = first * Nk, size = attention_partials(a);
  const int64_t narrow = row_stride(D), wide = row_stride(2 * D);                                // of floats
  const int64_t half_narrow = Bfloat16::row_stride(D), half_wide = Bfloat16::row_stride(2 * D);  // of bfloat16 numbers
  const int64_t most = rows_q > rows_kv ? rows_q : rows_kv, floats = (rows_q + most + rows_q) * narrow + rows_kv * wide;
  float* dcontext = scratch(kSlotMain, floats + Bfloat16::readable(most) * half_wide / 2);
  float *dn = dcontext + rows_q * narrow, *dq = dn + most * narrow, *dkv = dq + rows_q * narrow;
  Bf16* rounded = reinterpret_cast<Bf16*>(dcontext + floats);
  float* partials = back.partials + first * size;
  std::memset(partials, 0, samples * size * sizeof(float));
  const float* grad = back.grad + from_q * D;
  round_rows<Bfloat16>(grad, D, rows_q, D, rounded, half_narrow);
  product(rounded, half_narrow, back.weights->out, rows_q, [&](const RowOut& at, Vec v0, Vec v1) {
    store_row(dcontext, narrow, at, v0, v1);
  });
  const Projected at{saved.q + from_q * D, saved.kv + from_kv * 2 * D, D, 2 * D};
  parallel(samples * H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / H, h = i % H;
      const Projected here{at.q + sample * Nq * D, at.kv + sample * Nk * 2 * D, D, 2 * D};
      float* key = dkv + sample * Nk * wide + h * d;
      const HeadGradient into{
          .context = dcontext + sample * Nq * narrow + h * d,
          .context_stride = narrow,
          .q = dq + sample * Nq * narrow + h * d,
          .k = key,
          .v = key + D,
          .q_stride = narrow,
          .kv_stride = wide,
          .table = back.table != nullptr ? partials + sample * size + 8 * D + h * a.columns : nullptr,
      };
      head_backward(head_of(a, here, first + sample, h), into);
    }
  });
  Bf16 *half_dq = back.dq + from_q * half_narrow, *half_dkv = back.dkv + from_kv * half_wide;
  round_rows<Bfloat16>(dq, narrow, rows_q, D, half_dq, half_narrow);
  round_rows<Bfloat16>(dkv, wide, rows_kv, 2 * D, half_dkv, half_wide);
  // Products read 16 rows, also of a group with fewer, whose next rows another thread may be writing.
  const auto whole = [&](const Bf16* rows, int64_t stride, int64_t count) {
    if (count >= kTileRows) return rows;
    std::memcpy(rounded, rows, count * stride * sizeof(Bf16));
    return static_cast<const Bf16*>(rounded);
  };
  if (back.needs_x()) {
    product_onto(whole(half_dq, half_narrow, rows_q), half_narrow, back.weights->q, rows_q, false, dn, narrow);
    if (!a.cross) {
      product_onto(whole(half_dkv, half_wide, rows_kv), half_wide, back.weights->kv, rows_kv, true, dn, narrow);
    }
    sample_norm_gradients(a, first, samples, Nq, a.x, saved.stats_q, a.norm_q, dn, narrow, grad, back.x, partials, 0);
  }
  if (a.cross && back.needs_key_value()) {
    product_onto(whole(half_dkv, half_wide, rows_kv), half_wide, back.weights->kv, rows_kv, false, dn, narrow);
    sample_norm_gradients(
        a, first, samples, Nk, a.key_value, saved.stats_kv, a.norm_kv, dn, narrow, nullptr, back.key_value, partials,
        2 * D);
  }
  sample_bias_gradients(a, samples, grad, {dq, dkv, narrow, wide}, partials);
}

// Lays out LayerNorm(x) of rows [row, row + count), which are one chunk, for a product over rows. x [rows, D], stats
// [rows, 2].
inline void pair_normed(
    const float* x, const float* stats, const Norm& norm, int64_t row, int64_t count, int64_t D, int64_t chunks,
    Bf16* out) {
  const int64_t stride = Bfloat16::row_stride(D);
  Bf16* normed = reinterpret_cast<Bf16*>(scratch(kSlotMain, kTileSteps * stride / 2));
  for (int64_t i = 0; i < count; ++i) {
    const float* moments = stats + 2 * (row + i);
    normalise_row<Bfloat16>(x + (row + i) * D, {moments[0], moments[1]}, norm, D, normed, stride, i);
  }
  pair_rows(normed, stride, count, D, row / kTileSteps, chunks, out);
}

// Computes the gradients of both weight matrices.
inline void attention_weight_gradients(
    const Attention& a, const AttentionSaved& saved, const AttentionBackwardBf16& back) {
  const int64_t D = a.D, rows_q = a.B * a.Nq, rows_kv = a.B * a.Nk;
  const int64_t chunks_q = outer_chunks(rows_q), chunks_kv = outer_chunks(rows_kv);
  const int64_t across_q = transposed_stride(rows_q), across_kv = transposed_stride(rows_kv);
  const int64_t half_narrow = Bfloat16::row_stride(D), half_wide = Bfloat16::row_stride(2 * D);
  const auto chunk_q = [&](int64_t chunk) {
    const int64_t row = chunk * kTileSteps, count = rows_q - row < kTileSteps ? rows_q - row : kTileSteps;
    if (back.in_weight != nullptr) {
      transpose_rows(back.dq + row * half_narrow, half_narrow, count, D, chunk, back.dq_across, across_q);
      pair_normed(a.x, saved.stats_q, a.norm_q, row, count, D, chunks_q, back.normed_q);
    }
    if (back.out_weight != nullptr) {
      transpose_rows(back.grad + row * D, D, count, D, chunk, back.grad_across, across_q);
      pair_rows(saved.context + row * D, D, count, D, chunk, chunks_q, back.context);
    }
  };
  const auto chunk_kv = [&](int64_t chunk) {
    const int64_t row = chunk * kTileSteps, count = rows_kv - row < kTileSteps ? rows_kv - row : kTileSteps;
    transpose_rows(back.dkv + row * half_wide, half_wide, count, 2 * D, chunk, back.dkv_across, across_kv);
    if (a.cross) pair_normed(a.key_value, saved.stats_kv, a.norm_kv, row, count, D, chunks_kv, back.normed_kv);
  };
  parallel(chunks_q, 4, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) chunk_q(chunk);
  });
  if (back.in_weight != nullptr) {
    parallel(chunks_kv, 4, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) chunk_kv(chunk);
    });
    outer_bf16(back.dq_across, across_q, back.normed_q, chunks_q, D, D, back.in_weight, D);
    outer_bf16(back.dkv_across, across_kv, back.normed_kv, chunks_kv, 2 * D, D, back.in_weight + D * D, D);
  }
  if (back.out_weight != nullptr) {
    outer_bf16(back.grad_across, across_q, back.context, chunks_q, D, D, back.out_weight, D);
  }
}

// The whole backward.
inline void attention_backward(const Attention& a, const AttentionSaved& saved, const AttentionBackwardBf16& back) {
  over_groups<Bfloat16>(a.B, a.Nq > a.Nk ? a.Nq : a.Nk, [&](int64_t first, int64_t samples) {
    attention_backward_group(a, saved, back, first, samples);
  });
  if (back.in_weight != nullptr || back.out_weight != nullptr) attention_weight_gradients(a, saved, back);
  merge_partials(back.partials, a, back);
}

}  // namespace xmae_fast::XMAE_ISA
