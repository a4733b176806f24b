// The operators conv_stem_train_cuda and conv_stem_backward_cuda: the forward and the backward of a training step, of
// one stem or of two stems in the same launches. The kernels are compiled in train_bfloat16.cu and train_float16.cu;
// xmae_fast/ops/conv_stem/cuda/schema_train.py describes the arguments and results.

#include <tuple>
#include <vector>

#include "cuda/conv_stem/stem_launch.h"
#include "cuda/conv_stem/train_launch.h"
#include "cuda/tensors.h"

namespace xmae_fast::cuda {
namespace {

// The longest signal, in samples. Interpolation between levels computes places of rows in float32, which must tell them
// apart.
constexpr int64_t kMostTrained = 1 << 20;

// Raises "conv_stem: expected <words>" unless `met`.
template <typename... Words>
void expect(bool met, const Words&... words) {
  STD_TORCH_CHECK(met, kStem, ": expected ", words...);
}
// Whether the tensor is contiguous, of this dtype, and on the GPU of `x`.
bool is_plain(const Tensor& tensor, ScalarType dtype, const Tensor& x) {
  return tensor.is_cuda() && tensor.get_device_index() == x.get_device_index() && tensor.is_contiguous() &&
         tensor.scalar_type() == dtype;
}

// Checks the arguments that both operators share and describes them to the kernels.
TrainBuffers buffers_of(
    const Tensor& x,                    // [sum of B L over the stems]
    const Tensor& flat,                 // [stems, flat_stride]: weights
    const std::vector<int64_t>& sizes,  // [2 * stems]: B and L of each stem
    bool batch, ScalarType compute) {
  expect(
      compute == ScalarType::BFloat16 || compute == ScalarType::Half,
      "bfloat16 or float16; impl='triton' takes other dtypes");
  expect(sizes.size() == 2 || sizes.size() == 4, "B and L of one stem or two");
  expect(
      x.dim() == 1 && (is_plain(x, ScalarType::Float, x) || is_plain(x, compute, x)),
      "x flat, in float32 or as computed, on the GPU");
  TrainBuffers buffers{};
  buffers.stems = static_cast<int>(sizes.size()) / 2;
  int64_t numbers = 0;
  for (int s = 0; s < buffers.stems; ++s) {
    const int64_t B = sizes[2 * s], L = sizes[2 * s + 1];
    expect(
        B >= 1 && L >= 1 && B < (int64_t{1} << 30) && L <= kMostTrained, "B >= 1 and L from 1 to ", kMostTrained,
        ", got ", B, " and ", L);
    buffers.B[s] = static_cast<int>(B);
    buffers.L[s] = static_cast<int>(L);
    numbers += B * L;
    // Kernels count the rows of all samples, and the zeros after each sample, in 32 bits, and may count past the end by
    // as many rows as all CTAs take at a time.
    expect(
        B * (L + 2 * kWindow) < (int64_t{1} << 31) - (int64_t{1} << 20), "fewer than 2^31 rows, got B = ", B,
        ", L = ", L);
  }
  expect(x.numel() == numbers, "x of ", numbers, " samples, got ", x.numel());
  buffers.batch = batch;
  buffers.wave = {x.const_data_ptr(), x.scalar_type() == ScalarType::Float};
  buffers.flat_stride = kTrainWeights + (batch ? 2 : 4) * kTrainChannels;
  expect(
      is_plain(flat, ScalarType::Float, x) && flat.numel() == buffers.stems * buffers.flat_stride, "flat [",
      buffers.stems, ", ", buffers.flat_stride, "] in float32");
  buffers.flat = static_cast<const float*>(flat.const_data_ptr());
  return buffers;
}

char* bytes_of(Tensor& work) { return static_cast<char*>(work.mutable_data_ptr()); }

// Returns features [rows, 32], norms [stems, kNormRows, kNormRow], kept [kept_numbers] and moments [stems, kMoments].
// The backward takes the last three.
std::tuple<Tensor, Tensor, Tensor, Tensor> conv_stem_train_cuda(
    Tensor x,                    // [sum of B L over the stems]
    Tensor flat,                 // [stems, flat_stride]: weights
    std::vector<int64_t> sizes,  // [2 * stems]: B and L of each stem
    bool batch_statistics, ScalarType compute) {
  TrainBuffers buffers = buffers_of(x, flat, sizes, batch_statistics, compute);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const TrainSizes plan(buffers);
  Tensor features = new_empty(x, {plan.rows(0), kStemChannels}, compute);
  Tensor norms = new_empty(x, {buffers.stems, kNormRows, kNormRow}, ScalarType::Float);
  Tensor kept = new_empty(x, {plan.kept_numbers()}, compute);
  Tensor moments = new_empty(x, {buffers.stems, kMoments}, ScalarType::Float);
  Tensor work = new_empty(x, {TrainSizes::forward_work()}, ScalarType::Byte);
  buffers.kept = static_cast<uint16_t*>(kept.mutable_data_ptr());
  buffers.norms = static_cast<float*>(norms.mutable_data_ptr());
  buffers.moments = static_cast<float*>(moments.mutable_data_ptr());
  buffers.work = bytes_of(work);
  buffers.features = static_cast<uint16_t*>(features.mutable_data_ptr());
  const cudaStream_t stream = stream_of(x);
  compute == ScalarType::Half ? TrainLaunch<Half>::forward(buffers, stream)
                              : TrainLaunch<Bf16>::forward(buffers, stream);
  return {features, norms, kept, moments};
}

// Returns gradients [stems, kTrainWeights + 2 kTrainChannels]: those of all weights, then of gammas, then of betas.
Tensor conv_stem_backward_cuda(
    std::vector<Tensor> grads,   // of each stem [B, L, 32]: gradients of the features
    Tensor x,                    // [sum of B L over the stems]
    Tensor flat,                 // [stems, flat_stride]: weights
    Tensor norms,                // [stems, kNormRows, kNormRow], as the forward returned it
    Tensor kept,                 // [kept_numbers], as the forward returned it
    Tensor moments,              // [stems, kMoments], as the forward returned it
    std::vector<int64_t> sizes,  // [2 * stems]: B and L of each stem
    bool batch_statistics) {
  const ScalarType compute = kept.scalar_type();
  TrainBuffers buffers = buffers_of(x, flat, sizes, batch_statistics, compute);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const TrainSizes plan(buffers);
  expect(
      is_plain(kept, compute, x) && kept.numel() == plan.kept_numbers(), "kept of ", plan.kept_numbers(), " numbers");
  expect(
      is_plain(norms, ScalarType::Float, x) && norms.numel() == buffers.stems * kNormRows * kNormRow,
      "norms as the forward returned them");
  expect(
      is_plain(moments, ScalarType::Float, x) && moments.numel() == buffers.stems * kMoments,
      "moments as the forward returned them");
  expect(grads.size() == static_cast<size_t>(buffers.stems), "a gradient for each stem, got ", grads.size());
  for (int s = 0; s < buffers.stems; ++s) {
    const int64_t numbers = static_cast<int64_t>(buffers.B[s]) * buffers.L[s] * kStemChannels;
    expect(
        is_plain(grads[s], compute, x) && grads[s].numel() == numbers,
        "gradients of features, contiguous and as computed");
    // The kernel reads sixteen bytes at a time, so the gradient must begin at a multiple of sixteen.
    if (reinterpret_cast<uintptr_t>(grads[s].const_data_ptr()) % 16 != 0) grads[s] = torch::stable::clone(grads[s]);
    buffers.grads[s] = static_cast<const uint16_t*>(grads[s].const_data_ptr());
  }
  Tensor gradients = new_empty(x, {buffers.stems, kTrainWeights + 2 * kTrainChannels}, ScalarType::Float);
  Tensor work = new_empty(x, {plan.backward_work()}, ScalarType::Byte);
  // The backward only reads these three; TrainBuffers has them without const because the forward writes them.
  buffers.kept = const_cast<uint16_t*>(static_cast<const uint16_t*>(kept.const_data_ptr()));
  buffers.norms = const_cast<float*>(static_cast<const float*>(norms.const_data_ptr()));
  buffers.moments = const_cast<float*>(static_cast<const float*>(moments.const_data_ptr()));
  buffers.work = bytes_of(work);
  buffers.gradients = static_cast<float*>(gradients.mutable_data_ptr());
  const cudaStream_t stream = stream_of(x);
  compute == ScalarType::Half ? TrainLaunch<Half>::backward(buffers, stream)
                              : TrainLaunch<Bf16>::backward(buffers, stream);
  return gradients;
}

}  // namespace
}  // namespace xmae_fast::cuda

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CUDA, m) {
  m.impl("conv_stem_train_cuda", TORCH_BOX(&xmae_fast::cuda::conv_stem_train_cuda));
  m.impl("conv_stem_backward_cuda", TORCH_BOX(&xmae_fast::cuda::conv_stem_backward_cuda));
}
