// The backward of feed_forward with products in bfloat16. Sums over rows, LayerNorm and its gradient stay in float32.
#pragma once

#include "cpu/base/bf16_kernels.h"
#include "cpu/base/bf16_rows.h"
#include "cpu/feed_forward/feed_forward_rows.h"

namespace xmae_fast::XMAE_ISA {

// The backward of `blocks` blocks of 32 rows, except for the gradients of both weight matrices, for which it lays out
// the factors. A block's partials are those of the float32 kernel.
inline void feed_forward_backward_group(
    const FeedForward& f, const FeedForwardSaved<Bf16>& saved, const FeedForwardBackwardBf16& back, int64_t first_block,
    int64_t blocks) {
  static_assert(kSumRows == kTileSteps, "a block of rows is a chunk of the products over rows");
  const int64_t D = f.D, F = f.F, narrow = Bfloat16::row_stride(D), wide = Bfloat16::row_stride(F);
  const int64_t first = first_block * kSumRows, end = first + blocks * kSumRows;
  const int64_t rows = (end < f.rows ? end : f.rows) - first, readable = Bfloat16::readable(rows);
  const int64_t chunks = outer_chunks(f.rows), across = transposed_stride(f.rows), dn_stride = row_stride(D);
  const bool drop = f.dropout.active();
  const int64_t floats = rows * dn_stride + (drop ? row_stride(rows * D) + dropout_stride(D) : 0);
  float* dn = scratch(kSlotMain, floats + (readable * (narrow + wide) + rows * wide + kSumRows * narrow + 1) / 2);
  float *masked = dn + rows * dn_stride, *mask = masked + row_stride(rows * D);
  Bf16 *branch_rows = reinterpret_cast<Bf16*>(dn + floats), *dhidden = branch_rows + readable * narrow;
  Bf16 *activation = dhidden + readable * wide, *normed = activation + rows * wide;
  const float *x = f.x + first * D, *grad = back.grad + first * D, *stats = saved.stats + 2 * first, *branch = grad;
  const Bf16* hidden = saved.hidden + first * F;
  if (drop) {
    for (int64_t row = 0; row < rows; ++row) {
      dropout_row(f.dropout, first + row, D, mask);
      for (int64_t c = 0; c < D; ++c) masked[row * D + c] = grad[row * D + c] * mask[c];
    }
    branch = masked;
  }
  round_rows<Bfloat16>(branch, D, rows, D, branch_rows, narrow);
  product(branch_rows, narrow, *back.down, rows, [&](const RowOut& at, Vec v0, Vec v1) {
    Vec h0, h1, gradient0, gradient1;
    load_row(hidden + at.row * F, at, h0, h1);
    const Vec activated0 = quick_gelu(h0, gradient0), activated1 = quick_gelu(h1, gradient1);
    Bfloat16::store(activation, wide, at, activated0, activated1);
    Bfloat16::store(dhidden, wide, at, v0 * gradient0, v1 * gradient1);
  });
  if (back.needs_input()) {
    product(
        dhidden, wide, *back.up, rows, [&](const RowOut& at, Vec v0, Vec v1) { store_row(dn, dn_stride, at, v0, v1); });
  }
  if (back.down_weight != nullptr) {
    transpose_rows(branch_rows, narrow, rows, D, first_block, back.branch, across);
    pair_rows(activation, wide, rows, F, first_block, chunks, back.activation);
  }
  if (back.up_weight != nullptr) transpose_rows(dhidden, wide, rows, F, first_block, back.hidden, across);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t from = block * kSumRows, count = rows - from < kSumRows ? rows - from : kSumRows;
    float* partial = back.partials + (first_block + block) * (F + 3 * D);
    sum_rows(dhidden + from * wide, wide, count, F, partial);
    sum_rows(branch + from * D, D, count, D, partial + F);
    float *dweight = partial + F + D, *dbias = dweight + D;
    std::memset(dweight, 0, 2 * D * sizeof(float));
    for (int64_t row = from; row < from + count; ++row) {
      const float* xr = x + row * D;
      if (back.up_weight != nullptr) {
        normalise_row<Bfloat16>(xr, {stats[2 * row], stats[2 * row + 1]}, f.norm, D, normed, narrow, row - from);
      }
      if (!back.needs_input()) continue;
      float* dx = back.x != nullptr ? back.x + (first + row) * D : nullptr;
      norm_gradient_row(
          xr, stats + 2 * row, f.norm.weight, dn + row * dn_stride, D, grad + row * D, dx, dweight, dbias);
    }
    if (back.up_weight != nullptr) pair_rows(normed, narrow, count, D, first_block + block, chunks, back.normed);
  }
}

// The whole backward.
inline void feed_forward_backward(
    const FeedForward& f, const FeedForwardSaved<Bf16>& saved, const FeedForwardBackwardBf16& back) {
  const int64_t D = f.D, F = f.F, blocks = outer_chunks(f.rows), across = transposed_stride(f.rows);
  over_groups<Bfloat16>(blocks, kSumRows, [&](int64_t first, int64_t count) {
    feed_forward_backward_group(f, saved, back, first, count);
  });
  if (back.down_weight != nullptr) outer_bf16(back.branch, across, back.activation, blocks, D, F, back.down_weight, F);
  if (back.up_weight != nullptr) outer_bf16(back.hidden, across, back.normed, blocks, F, D, back.up_weight, D);
  merge_partials(f, back.partials, blocks, back);
}

}  // namespace xmae_fast::XMAE_ISA
