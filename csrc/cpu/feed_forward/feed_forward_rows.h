// The kernels of feed_forward: x + dropout(W2 gelu(W1 LN(x) + b1) + b2), and its gradients. W1 is called up, W2 down.
#pragma once

#include "cpu/base/dropout.h"
#include "cpu/base/kernels.h"
#include "cpu/base/rows.h"

namespace xmae_fast::XMAE_ISA {

// Computes rows [first, first + rows) of out [f.rows, D]. The hidden layer is in scratch memory. Training also writes
// it, before GELU, to saved.hidden, because computing it again costs four times what writing and reading it costs.
template <typename Math>
void feed_forward_group(
    const FeedForward& f, const typename Math::Matrix& up, const typename Math::Matrix& down, int64_t first,
    int64_t rows, const FeedForwardSaved<typename Math::Feature>& saved, float* out) {
  using Number = typename Math::Number;
  const int64_t D = f.D, F = f.F, narrow = Math::row_stride(D), wide = Math::row_stride(F);
  const int64_t mask_stride = dropout_stride(D), numbers = Math::readable(rows) * (narrow + wide);
  const int64_t floats = numbers * static_cast<int64_t>(sizeof(Number)) / 4;
  float* memory = scratch(kSlotMain, floats + rows * mask_stride);
  float* mask = memory + floats;
  Number *normed = reinterpret_cast<Number*>(memory), *activation = normed + Math::readable(rows) * narrow;
  const float* x = f.x + first * D;
  auto* hidden = saved.hidden != nullptr ? saved.hidden + first * F : nullptr;
  normalise<Math>(x, f.norm, rows, D, normed, narrow, saved.stats != nullptr ? saved.stats + 2 * first : nullptr);
  product(normed, narrow, up, rows, [&](const RowOut& at, Vec v0, Vec v1) {
    Vec b0, b1;
    load_row(f.up_bias, at, b0, b1);
    v0 += b0;
    v1 += b1;
    if constexpr (std::is_same_v<typename Math::Feature, Number>) {  // others are for inference alone
      if (hidden != nullptr) Math::store_dense(hidden, F, at, v0, v1);
    }
    Math::store(activation, wide, at, Math::gelu(v0), Math::gelu(v1));
  });
  const bool drop = f.dropout.active();
  if (drop) dropout_rows(f.dropout, first, rows, D, mask);
  product(activation, wide, down, rows, [&](const RowOut& at, Vec v0, Vec v1) {
    Vec b0, b1, x0, x1;
    load_row(f.down_bias, at, b0, b1);
    load_row(x + at.row * D, at, x0, x1);
    v0 += b0;
    v1 += b1;
    if (drop) {
      const float* keep = mask + at.row * mask_stride + at.column;
      v0 *= load(keep);
      v1 *= load(keep + W);
    }
    store_row(out + first * D, D, at, x0 + v0, x1 + v1);
  });
}

// out [f.rows, D].
template <typename Math>
void feed_forward(
    const FeedForward& f, const typename Math::Matrix& up, const typename Math::Matrix& down,
    const FeedForwardSaved<typename Math::Feature>& saved, float* out) {
  over_groups<Math>(
      f.rows, 1, [&](int64_t first, int64_t rows) { feed_forward_group<Math>(f, up, down, first, rows, saved, out); });
}

// The backward of `blocks` blocks of kSumRows rows, except for the gradients of both weight matrices. A block's
// partials are the gradients of up_bias [F], down_bias [D], norm weight [D] and norm bias [D].
inline void feed_forward_backward_group(
    const FeedForward& f, const FeedForwardSaved<float>& saved, const FeedForwardBackward& back, int64_t first_block,
    int64_t blocks) {
  const int64_t D = f.D, F = f.F, narrow = row_stride(D), wide = row_stride(F), mask_stride = dropout_stride(D);
  const int64_t first = first_block * kSumRows, end = first + blocks * kSumRows;
  const int64_t rows = (end < f.rows ? end : f.rows) - first;
  float* dn = scratch(kSlotMain, rows * narrow + mask_stride);
  float* mask = dn + rows * narrow;
  const float *x = f.x + first * D, *grad = back.grad + first * D, *hidden = saved.hidden + first * F;
  const float *stats = saved.stats + 2 * first, *branch = grad;
  if (f.dropout.active()) {
    float* masked = back.branch + first * D;
    for (int64_t row = 0; row < rows; ++row) {
      dropout_row(f.dropout, first + row, D, mask);
      for (int64_t c = 0; c < D; ++c) masked[row * D + c] = grad[row * D + c] * mask[c];
    }
    branch = masked;
  }
  float *activation = back.activation + first * wide, *dhidden = back.hidden + first * wide;
  product(branch, D, *back.down, rows, [&](const RowOut& at, Vec v0, Vec v1) {
    Vec h0, h1, gradient0, gradient1;
    load_row(hidden + at.row * F, at, h0, h1);
    const Vec activated0 = gelu(h0, gradient0), activated1 = gelu(h1, gradient1);
    store_row(activation, wide, at, activated0, activated1);
    store_row(dhidden, wide, at, v0 * gradient0, v1 * gradient1);
  });
  if (back.needs_input()) {
    product_into(dhidden, wide, *back.up, rows, dn, narrow);
  }
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
        normalise_row(xr, {stats[2 * row], stats[2 * row + 1]}, f.norm, D, back.normed + (first + row) * D);
      }
      if (!back.needs_input()) continue;
      float* dx = back.x != nullptr ? back.x + (first + row) * D : nullptr;
      norm_gradient_row(xr, stats + 2 * row, f.norm.weight, dn + row * narrow, D, grad + row * D, dx, dweight, dbias);
    }
  }
}

// Adds the partials of `blocks` blocks to the gradients.
inline void merge_partials(
    const FeedForward& f, const float* partials, int64_t blocks, const FeedForwardGradients& into) {
  const int64_t D = f.D, F = f.F, stride = F + 3 * D;
  if (into.up_bias != nullptr) sum_rows(partials, stride, blocks, F, into.up_bias);
  if (into.down_bias != nullptr) sum_rows(partials + F, stride, blocks, D, into.down_bias);
  if (into.norm.weight != nullptr) sum_rows(partials + F + D, stride, blocks, D, into.norm.weight);
  if (into.norm.bias != nullptr) sum_rows(partials + F + 2 * D, stride, blocks, D, into.norm.bias);
}

// The whole backward.
inline void feed_forward_backward(
    const FeedForward& f, const FeedForwardSaved<float>& saved, const FeedForwardBackward& back) {
  const int64_t D = f.D, F = f.F, wide = row_stride(F), blocks = (f.rows + kSumRows - 1) / kSumRows;
  over_groups<Float32>(blocks, kSumRows, [&](int64_t first, int64_t count) {
    feed_forward_backward_group(f, saved, back, first, count);
  });
  const float* branch = f.dropout.active() ? back.branch : back.grad;
  if (back.down_weight != nullptr) outer(branch, D, back.activation, wide, f.rows, D, F, back.down_weight);
  if (back.up_weight != nullptr) outer(back.hidden, wide, back.normed, D, f.rows, F, D, back.up_weight);
  merge_partials(f, back.partials, blocks, back);
}

}  // namespace xmae_fast::XMAE_ISA
