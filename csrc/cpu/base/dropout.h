// Draws masks of dropout. Columns 64 g to 64 g + 63 of a row come from 16 Philox draws (row, block 16 g + lane). Column
// 64 g + 16 w + lane takes word w of its lane's draw, so that neighbouring columns come from neighbouring lanes.
#pragma once

#include "cpu/base/blocks.h"
#include "cpu/base/philox.h"
#include "cpu/base/vec.h"

namespace xmae_fast::XMAE_ISA {

XMAE_INLINE int64_t dropout_stride(int64_t columns) {
  return (columns + kDropoutColumns - 1) / kDropoutColumns * kDropoutColumns;
}

// Writes 0 or `scale` for each column of a row to out [dropout_stride(columns)].
inline void dropout_row(const Dropout& dropout, int64_t row, int64_t columns, float* out) {
  const PhiloxStream stream{dropout.seed, dropout.offset};
  const uint32_t threshold = dropout.threshold;
  const float scale = dropout.scale;
  PhiloxWords words;
  for (int64_t c = 0; c < columns; c += kDropoutColumns) {
    philox<kLanes>(stream, static_cast<uint32_t>(row), static_cast<uint32_t>(c / 4), words);
    for (int64_t w = 0; w < 4; ++w) {
      float* to = out + c + w * kLanes;
      for (int64_t lane = 0; lane < kLanes; ++lane) to[lane] = words.word[w][lane] < threshold ? 0.0f : scale;
    }
  }
}

// Writes the masks of rows [first, first + rows) to out [rows, dropout_stride(columns)].
inline void dropout_rows(const Dropout& dropout, int64_t first, int64_t rows, int64_t columns, float* out) {
  const int64_t stride = dropout_stride(columns);
  for (int64_t row = 0; row < rows; ++row) dropout_row(dropout, first + row, columns, out + row * stride);
}

}  // namespace xmae_fast::XMAE_ISA
