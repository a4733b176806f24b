// The two precisions of the stem's training: what the operators do differently.
#pragma once

#include "cpu/base/bf16_kernels.h"
#include "cpu/conv_stem/stem_blocks.h"
#include "cpu/conv_stem/stem_statistics.h"

namespace xmae_fast {

struct Float32Stem {
  using Number = float;
  using Run = StemTraining;
  using Back = StemBackward;
  const Kernels& table = kernels();

  static Tensor pooled(std::initializer_list<int64_t> sizes) { return xmae_fast::pooled(sizes); }
  static Number* numbers(const Tensor& x) { return mutable_data(x); }
  static Tensor whole(const char* name, const Tensor& x) { return dense("conv_stem", name, x); }

  void pack_forward(const StemUnit& unit, int u, Run& run) const {
    run.units[u] = xmae_fast::pack_forward(table.width, unit, nullptr);
  }
  void pack_input(const StemUnit& unit, int u, Back& back) const {
    back.input[u] = pack_input_gradient(table.width, unit, 0, unit.c_out);
    if (unit.stride == 2) back.odd_input[u] = pack_input_gradient(table.width, unit, 1, unit.c_out);
  }
  PackedMatrix pack_mix(int64_t columns, int64_t steps, const float* weights, int64_t row, int64_t step) const {
    return pack_matrix(table.width, columns, steps, weights, row, step);
  }
  static int64_t weight_floats(const Stem& stem, int u) { return xmae_fast::weight_floats(stem, u); }
};

struct Bf16Stem {
  using Number = Bf16;
  using Run = Bf16StemTraining;
  using Back = Bf16StemBackward;
  const Bf16Kernels& table = need_bf16_kernels("conv_stem");

  static Tensor pooled(std::initializer_list<int64_t> sizes) { return pooled_bf16(sizes); }
  static Number* numbers(const Tensor& x) { return static_cast<Number*>(x.mutable_data_ptr()); }
  static Tensor whole(const char* name, const Tensor& x) {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "conv_stem: expected ", name, " in bfloat16");
    return x.is_contiguous() ? x : torch::stable::contiguous(x);
  }

  static void pack_forward(const StemUnit& unit, int u, Run& run) {
    if (u == 0) {
      run.first = xmae_fast::pack_forward(kTileColumns, unit, nullptr);
    } else {
      run.units[u] = pack_bf16(unit.c_out, forward_runs(unit, Run::row(unit.c_in)), ForwardWeights{unit, nullptr});
    }
  }
  static void pack_input(const StemUnit& unit, int u, Back& back) {
    const int64_t row = Run::row(unit.c_out);
    if (u == 0) {
      back.first_input = pack_input_gradient(kTileColumns, unit, 0, row);
      return;
    }
    for (int parity = 0; parity < unit.stride; ++parity) {
      const InputGradient gradient(unit, parity, row);
      (parity == 0 ? back.input : back.odd_input)[u] = pack_bf16(unit.c_in, gradient.runs, gradient);
    }
  }
  static Bf16Matrix pack_mix(int64_t columns, int64_t steps, const float* weights, int64_t row, int64_t step) {
    return pack_matrix_bf16(columns, steps, weights, row, step);
  }
  static int64_t weight_floats(const Stem& stem, int u) { return bf16_weight_floats(stem, u); }
};

}  // namespace xmae_fast
