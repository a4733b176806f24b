// The gradients of patch_embed with products in bfloat16.
#pragma once

#include "cpu/base/bf16_kernels.h"
#include "cpu/base/bf16_rows.h"
#include "cpu/patch_embed/patches.h"

namespace xmae_fast::XMAE_ISA {

XMAE_INLINE void store_in(Bf16* out, int64_t stride, const RowOut& at, Vec v0, Vec v1) {
  Bfloat16::store_dense(out, stride, at, v0, v1);
}

// Computes the gradients of features and of the weight. Number: the type of features.
template <typename Number>
void patch_gradients(const PatchBackward& back, const Number* features, Number* features_grad) {
  const int64_t D = back.D, rows = back.rows, steps = back.steps, stride = bf16_stride(D), chunks = outer_chunks(rows);
  if (features_grad != nullptr) {
    round_all(back.grad, rows, D, back.rounded, stride);
    patch_linear(
        static_cast<const Bf16*>(back.rounded), rows, stride, *back.matrix, nullptr, nullptr, 1, features_grad);
  }
  if (back.weight_grad == nullptr) return;
  const int64_t across = transposed_stride(rows);
  parallel(chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t row = chunk * kTileSteps, count = rows - row < kTileSteps ? rows - row : kTileSteps;
      transpose_rows(back.grad + row * D, D, count, D, chunk, back.across, across);
      pair_rows(features + row * steps, steps, count, steps, chunk, chunks, back.paired);
    }
  });
  outer_bf16(back.across, across, back.paired, chunks, D, steps, back.weight_grad, steps);
}

inline void patch_backward(const PatchBackward& back) {
  if (back.half) {
    patch_gradients(back, static_cast<const Bf16*>(back.features), static_cast<Bf16*>(back.features_grad));
  } else {
    patch_gradients(back, static_cast<const float*>(back.features), static_cast<float*>(back.features_grad));
  }
}

}  // namespace xmae_fast::XMAE_ISA
