// The kernels of waveform_loss: squared errors of waveforms and their gradients, patch by patch. Patches whose mask is
// 0 everywhere are skipped: they are not decoded and their gradients are 0. Each patch has a sum in double. The caller
// adds the sums in order, so the result is the same for any number of threads.
#pragma once

#include "cpu/patch_embed/patches.h"

namespace xmae_fast::XMAE_ISA {

constexpr int64_t kBlockPatches = 48;  // patches from which the used ones are collected and multiplied together

typedef double VecDouble __attribute__((vector_size(2 * XMAE_VECTOR_BYTES)));

// A sum of vectors in double.
struct DoubleSum {
  VecDouble lanes = {};
  XMAE_INLINE void add(Vec v) { lanes += __builtin_convertvector(v, VecDouble); }
  XMAE_INLINE double total() const {
    double sum = 0.0;
    for (int64_t i = 0; i < W; ++i) sum += lanes[i];
    return sum;
  }
};

// Writes for each row of x [rows, P] its sum to sums [rows], and whether any of its numbers differs from 0 to used
// [rows].
inline void patch_sums(const float* x, int64_t rows, int64_t P, double* sums, uint8_t* used) {
  parallel(rows, 65536 / (P + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      DoubleSum sum;
      VecInt other = {};
      for (int64_t i = 0; i < P; i += W) {
        const Vec v = load_some(x + row * P + i, P - i);
        sum.add(v);
        other |= v != 0.0f;
      }
      sums[row] = sum.total();
      used[row] = 0;
      for (int64_t i = 0; i < W; ++i) used[row] |= other[i] != 0;
    }
  });
}

// Returns the sum of mask * (prediction + bias - target)^2 over patch `row` of the terms, and stores
// factor * mask * (prediction + bias - target) unless terms.gradient is null. prediction [P].
XMAE_INLINE double squared_error(const float* prediction, float bias, const ErrorTerms& terms, int64_t row) {
  const int64_t P = terms.P;
  const float *target = terms.target + row * P, *mask = terms.mask + row * P;
  DoubleSum sum;
  for (int64_t i = 0; i < P; i += W) {
    const int64_t rest = P - i;
    const Vec difference = load_some(prediction + i, rest) + bias - load_some(target + i, rest);
    const Vec weight = load_some(mask + i, rest), weighted = weight * difference;
    sum.add(weight * (difference * difference));  // lanes after the end of the patch have weight 0
    if (terms.gradient != nullptr) store_some(terms.gradient + row * P + i, weighted * terms.factor, rest);
  }
  return sum.total();
}

// Writes the squared error of each row of prediction [rows, P] to sums [rows].
inline void squared_errors(const float* prediction, const ErrorTerms& terms, int64_t rows, double* sums) {
  parallel(rows, 32768 / (terms.P + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) sums[row] = squared_error(prediction + row * terms.P, 0.0f, terms, row);
  });
}

// The used ones of rows [first, last) of x [., columns], one after another. room: memory for [kBlockPatches, columns].
struct UsedRows {
  int64_t index[kBlockPatches];
  int64_t count = 0;
  const float* rows = nullptr;

  UsedRows(const float* x, int64_t columns, const uint8_t* used, int64_t first, int64_t last, float* room) {
    for (int64_t row = first; row < last; ++row) {
      if (used[row]) index[count++] = row;
    }
    if (count == 0) return;
    rows = x + index[0] * columns;
    if (index[count - 1] - index[0] == count - 1) return;  // they lie one after another in x already
    const size_t bytes = columns * sizeof(float);
    for (int64_t i = 0; i < count; ++i) std::memcpy(room + i * columns, x + index[i] * columns, bytes);
    rows = room;
  }
};

// Calls body(first, last) for blocks of patches, in parallel. The blocks do not depend on the number of threads. work:
// the multiply-adds of a patch.
template <typename Body>
XMAE_INLINE void over_blocks(int64_t rows, int64_t work, const Body& body) {
  const int64_t blocks = (rows + kBlockPatches - 1) / kBlockPatches;
  parallel(blocks, kThreadWork / (kBlockPatches * work + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kBlockPatches;
      body(first, first + kBlockPatches < rows ? first + kBlockPatches : rows);
    }
  });
}

// Writes to sums [rows] the squared errors of the decoded waveform tokens B + bias, for tokens [rows, D], and 0 for
// rows that used [rows] does not mark.
inline void waveform_errors(
    const float* tokens, int64_t D, const PackedMatrix& decoder, float bias, const ErrorTerms& terms,
    const uint8_t* used, int64_t rows, double* sums) {
  const int64_t P = terms.P, panels = static_cast<int64_t>(decoder.panels.size());
  over_blocks(rows, D * P, [&](int64_t first, int64_t last) {
    float* room = scratch(kSlotMain, kBlockPatches * (D + P));
    float* prediction = room + kBlockPatches * D;
    const UsedRows in(tokens, D, used, first, last, room);
    multiply(in.rows, D, decoder, 0, in.count, 0, panels, [&](const RowOut& at, Vec v0, Vec v1) {
      store_row(prediction, P, at, v0, v1);
    });
    for (int64_t row = first, i = 0; row < last; ++row) {
      if (used[row]) {
        sums[row] = squared_error(prediction + i++ * P, bias, terms, row);
      } else {
        sums[row] = 0.0;
        if (terms.gradient != nullptr) std::memset(terms.gradient + row * P, 0, P * sizeof(float));
      }
    }
  });
}

// out = scale * gradient B for gradient [rows, P] and out [rows, D]; rows that used [rows] does not mark are 0.
inline void waveform_token_gradient(
    const float* gradient, int64_t P, const PackedMatrix& encoder, float scale, const uint8_t* used, int64_t rows,
    float* out) {
  const int64_t D = encoder.columns, panels = static_cast<int64_t>(encoder.panels.size());
  over_blocks(rows, D * P, [&](int64_t first, int64_t last) {
    const UsedRows in(gradient, P, used, first, last, scratch(kSlotMain, kBlockPatches * P));
    multiply(in.rows, P, encoder, 0, in.count, 0, panels, [&](const RowOut& at, Vec v0, Vec v1) {
      store_row(out, D, {in.index[at.row], at.column, at.count}, v0 * scale, v1 * scale);
    });
    for (int64_t row = first; row < last; ++row) {
      if (!used[row]) std::memset(out + row * D, 0, D * sizeof(float));
    }
  });
}

// out [P, D] = gradient^T tokens over the used rows, for gradient [rows, P], tokens [rows, D] and used [rows]. A thread
// computes whole columns. A column is summed over chunks of the used rows, which do not depend on the threads.
inline void waveform_weight_gradient(
    const float* gradient, const float* tokens, const uint8_t* used, int64_t rows, int64_t P, int64_t D, float* out) {
  constexpr int64_t panel = 2 * W;
  parallel((D + panel - 1) / panel, kThreadWork / (rows * P * panel + 1) + 1, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * panel, width = (end * panel < D ? end * panel : D) - from;
    float* gradients = scratch(kSlotMain, kOuterRows * (P + width));
    float* inputs = gradients + kOuterRows * P;
    for (int64_t p = 0; p < P; ++p) std::memset(out + p * D + from, 0, width * sizeof(float));
    for (int64_t row = 0; row < rows;) {
      int64_t count = 0;
      for (; row < rows && count < kOuterRows; ++row) {
        if (!used[row]) continue;
        std::memcpy(gradients + count * P, gradient + row * P, P * sizeof(float));
        std::memcpy(inputs + count * width, tokens + row * D + from, width * sizeof(float));
        ++count;
      }
      add_outer(gradients, P, inputs, width, count, P, width, out + from, D);
    }
  });
}

}  // namespace xmae_fast::XMAE_ISA
