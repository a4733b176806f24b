// The patch embedding in float32 by three bfloat16 parts of each number.
#pragma once

#include "cpu/base/bf16_gemm.h"
#include "cpu/patch_embed/patches.h"

namespace xmae_fast::XMAE_ISA {

// patch_linear for a [rows, steps] of floats, which are split into parts first.
inline void split_patch_linear(
    const float* a, int64_t rows, int64_t steps, const SplitMatrix& matrix, const float* bias, const float* added,
    int64_t period, float* out) {
  const int64_t stride = Float32Split::row_stride(steps), panels = matrix.panels.size();
  const auto finish = [&](int64_t first) {
    return [=, &matrix](const RowOut& at, Vec v0, Vec v1) {
      add_to_patch(bias, added, period, matrix.columns, first, at, v0, v1);
      store_row(out + first * matrix.columns, matrix.columns, at, v0, v1);
    };
  };
  const auto split_rows = [&](int64_t first, int64_t count) {
    const int64_t numbers = Float32Split::readable(count) * stride;
    auto* parts = reinterpret_cast<Bf16*>(scratch(kSlotMain, numbers / 2 + 1));
    round_rows<Float32Split>(a + first * steps, steps, count, steps, parts, stride);
    return parts;
  };
  if (rows < 2 * kTileRows * num_threads()) {
    const Bf16* parts = split_rows(0, rows);
    const int64_t grain = kThreadWork / (rows * steps * kPairWidth + 1) + 1;
    return parallel(panels, grain, [&](int64_t first, int64_t last) {
      multiply(parts, stride, matrix, 0, rows, first, last, finish(0));
    });
  }
  constexpr int64_t group = 4 * kTileRows;
  parallel((rows + group - 1) / group, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t first = g * group, count = rows - first < group ? rows - first : group;
      multiply(split_rows(first, count), stride, matrix, 0, count, 0, panels, finish(first));
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
