// The operator conv_stem_eval_cuda: the stem in evaluation. One launch packs the weights; in a second one every CTA
// computes sample after sample. The kernels are compiled in stem_bfloat16.cu and stem_float16.cu.

#include <limits>
#include <optional>
#include <vector>

#include "cuda/conv_stem/stem_launch.h"
#include "cuda/tensors.h"

namespace xmae_fast::cuda {
namespace {

// Writes the addresses of tensors [first, first + count) to out [count].
void copy_pointers(const std::vector<Tensor>& tensors, size_t first, const float** out, int count) {
  for (int i = 0; i < count; ++i) {
    const Tensor& weight = tensors[first + i];
    STD_TORCH_CHECK(
        weight.is_cuda() && weight.scalar_type() == ScalarType::Float && weight.is_contiguous(), kStem,
        ": expected contiguous float32 weights on the GPU");
    out[i] = static_cast<const float*>(weight.const_data_ptr());
  }
}

// Checks the weights, which come in the order of `flatten` in xmae_fast/ops/conv_stem/schema.py, against the widths
// that the kernel is made for, and says how they are packed.
Packing packing_of(const std::vector<Tensor>& tensors) {
  STD_TORCH_CHECK(
      tensors.size() == 5 * kConvs + kMixes, kStem, ": expected ", 5 * kConvs + kMixes, " weights, got ",
      tensors.size());
  Packing packing{};
  const int64_t S = tensors[kSkip].size(0);
  STD_TORCH_CHECK(S >= 1 && S <= kMaxChannels, kStem, ": expected 1 to ", kMaxChannels, " channels, got ", S);
  packing.channels = static_cast<int>(S);
  packing.stream = make_stream(packing.channels);
  const auto check_size = [&](int conv, int64_t c_out, int64_t c_in, int64_t k) {
    const Tensor& w = tensors[conv];
    STD_TORCH_CHECK(
        w.dim() == 3 && w.size(0) == c_out && w.size(1) == c_in && w.size(2) == k, kStem, ": expected weights [", c_out,
        ", ", c_in, ", ", k, "] of convolution ", conv, " (widths 32, 64, 128)");
    for (int kind = 0; kind < 4; ++kind) {
      const int64_t count = tensors[kConvs + kMixes + kind * kConvs + conv].numel();
      STD_TORCH_CHECK(count == c_out, kStem, ": expected ", c_out, " numbers for BatchNorm ", conv, ", got ", count);
    }
  };
  for (int i = 0; i <= kHeadLayer; ++i) {
    const Layer layer = packing.stream.layers[i];
    if (layer.kind == Kind::kMix) {
      const int64_t count = tensors[kConvs + layer.conv].numel();
      STD_TORCH_CHECK(
          count == layer.columns * layer.c_in, kStem, ": expected ", layer.columns * layer.c_in,
          " weights between levels, got ", count);
    } else if (layer.kind == Kind::kFirst || layer.kind == Kind::kBranches) {
      for (int branch = 0; branch < 3; ++branch) {
        check_size(
            layer.conv + branch, branch == 2 ? seventh(layer.columns) : third(layer.columns), layer.c_in,
            3 + 2 * branch);
      }
    } else {
      const int64_t c_out = layer.kind == Kind::kHead ? S : layer.kind == Kind::kFuse ? layer.c_in : layer.columns;
      check_size(layer.conv, c_out, layer.c_in, layer.taps());
    }
  }
  check_size(kSkip, S, 1, 1);
  copy_pointers(tensors, 0, packing.weights.convs, kConvs);
  copy_pointers(tensors, kConvs, packing.weights.mixes, kMixes);
  const float** const kinds[] = {
      packing.weights.gamma, packing.weights.beta, packing.weights.mean, packing.weights.var};
  for (int kind = 0; kind < 4; ++kind) copy_pointers(tensors, kConvs + kMixes + kind * kConvs, kinds[kind], kConvs);
  return packing;
}

// packed [chunks * kChunk] bytes.
template <typename Number>
void launch_all(EvalArguments run, const Packing& packing, const Tensor& x, char* packed) {
  const cudaStream_t stream = stream_of(x);
  StemLaunch<Number>::pack(packing, packed, stream);
  const EvalPlan plan = StemLaunch<Number>::plan(run.B, run.L, x.get_device_index());
  std::optional<Tensor> keep1;
  if (plan.keep1_bytes > 0) {
    keep1 = new_empty(x, {plan.keep1_bytes}, ScalarType::Byte);
    run.keep1 = static_cast<char*>(keep1->mutable_data_ptr());
  }
  StemLaunch<Number>::eval(run, plan, stream);
}

// Returns features [B, L, S] of dtype `compute`. L is Nk * patch_len where ids_keep chooses patches, else
// source_length.
Tensor conv_stem_eval_cuda(
    Tensor x,                        // [B, 1, source_length]
    std::vector<Tensor> weights,     // in the order of `flatten`
    std::optional<Tensor> ids_keep,  // [B, Nk]: visible patches, or none: the whole signal
    int64_t patch_len, ScalarType compute) {
  STD_TORCH_CHECK(
      compute == ScalarType::BFloat16 || compute == ScalarType::Half, kStem,
      ": the CUDA kernels compute in bfloat16 or float16; impl='triton' takes other dtypes");
  STD_TORCH_CHECK(
      x.is_cuda() && x.dim() == 3 && x.size(1) == 1 && x.is_contiguous(), kStem,
      ": expected a contiguous x [B, 1, L] on the GPU");
  STD_TORCH_CHECK(
      x.scalar_type() == ScalarType::Float || x.scalar_type() == compute, kStem,
      ": expected x in float32 or as computed");
  const int64_t B = x.size(0), source_length = x.size(2);
  STD_TORCH_CHECK(B <= std::numeric_limits<int>::max(), kStem, ": expected fewer than 2^31 samples, got ", B);
  if (ids_keep) {
    STD_TORCH_CHECK(
        ids_keep->is_cuda() && ids_keep->scalar_type() == ScalarType::Long && ids_keep->dim() == 2 &&
            ids_keep->size(0) == B && ids_keep->is_contiguous(),
        kStem, ": expected a contiguous ids_keep [B, Nk] of int64");
    STD_TORCH_CHECK(
        patch_len >= 1 && source_length % patch_len == 0, kStem, ": patch_len: expected a divisor of ", source_length,
        ", got ", patch_len);
  }
  const int64_t patches = ids_keep ? ids_keep->size(1) : 0, L = ids_keep ? patches * patch_len : source_length;
  STD_TORCH_CHECK(
      L <= kMostLength, kStem, ": the CUDA kernel takes up to ", kMostLength, " samples, got ", L,
      "; impl='triton' takes longer signals");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Packing packing = packing_of(weights);
  Tensor out = new_empty(x, {B, L, packing.channels}, compute);
  if (out.numel() == 0) return out;
  Tensor packed = new_empty(x, {static_cast<int64_t>(packing.stream.chunks) * kChunk}, ScalarType::Byte);
  char* const stream = static_cast<char*>(packed.mutable_data_ptr());
  const EvalArguments run{
      .x = x.const_data_ptr(),
      .x_is_float = x.scalar_type() == ScalarType::Float,
      .ids_keep = ids_keep ? static_cast<const int64_t*>(ids_keep->const_data_ptr()) : nullptr,
      .patches = static_cast<int>(patches),
      .patch_len = static_cast<int>(patch_len),
      .source_length = source_length,
      .B = static_cast<int>(B),
      .L = static_cast<int>(L),
      .S = packing.channels,
      .stream = stream,
      .chunks = packing.stream.chunks,
      .keep1 = nullptr,
      .features = out.mutable_data_ptr(),
  };
  compute == ScalarType::Half ? launch_all<Half>(run, packing, x, stream) : launch_all<Bf16>(run, packing, x, stream);
  return out;
}

}  // namespace
}  // namespace xmae_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CUDA, m) {
  m.impl("conv_stem_eval_cuda", TORCH_BOX(&xmae_fast::cuda::conv_stem_eval_cuda));
}
