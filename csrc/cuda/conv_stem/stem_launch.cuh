// The stem's inference kernels and the functions that launch them, as templates over the 16-bit type. stem_bfloat16.cu
// and stem_float16.cu instantiate them.
#pragma once

#include "cuda/conv_stem/stem_eval.h"
#include "cuda/conv_stem/stem_launch.h"
#include "cuda/errors.h"
#include "cuda/lane.cuh"

namespace xmae_fast::cuda {

constexpr int kPackThreads = 128;

template <typename Number>
__global__ void __launch_bounds__(kPackThreads)
    stem_pack_kernel(const __grid_constant__ Packing packing, char* stream) {
  pack_record<Number>(packing, blockIdx.x, threadIdx.x, kPackThreads, stream);
}

// A CTA of four warps shares its multiprocessor with a second CTA; a CTA of eight warps uses all registers of it.
template <typename Number, int WARPS, int R>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS) stem_eval_kernel(const __grid_constant__ EvalArguments run) {
  using Lane = CudaLane<Number, 32 * WARPS>;
  Lane lane;
  StemEval<Lane, R>(lane, run).all();
}

// Returns call(kernel, layout) for the smallest instantiation that takes signals of L samples.
template <typename Number, typename Call>
auto with_kernel(int L, const Call& call) {
  if (L <= Room<4, 4>::kMostRows) return call(stem_eval_kernel<Number, 4, 4>, Room<4, 4>{});
  if (L <= Room<8, 4>::kMostRows) return call(stem_eval_kernel<Number, 8, 4>, Room<8, 4>{});
  return call(stem_eval_kernel<Number, 8, 8>, Room<8, 8>{});
}

template <typename Number>
void StemLaunch<Number>::pack(const Packing& packing, char* packed, cudaStream_t stream) {
  stem_pack_kernel<Number><<<packing.stream.count, kPackThreads, 0, stream>>>(packing, packed);
  check(cudaGetLastError(), kStem);
}

template <typename Number>
EvalPlan StemLaunch<Number>::plan(int B, int L, int device) {
  return with_kernel<Number>(L, [&](auto kernel, auto layout) {
    using Layout = decltype(layout);
    const int limit = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    STD_TORCH_CHECK(
        Layout::kBytesWithoutKeep1 <= limit, kStem, ": signals of ", L, " samples need ", Layout::kBytesWithoutKeep1,
        " bytes of shared memory, this GPU has ", limit, "; impl='triton' takes them");
    const bool whole = Layout::kBytes <= limit;
    const int bytes = whole ? Layout::kBytes : Layout::kBytesWithoutKeep1;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), kStem);
    int together = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&together, kernel, Layout::kThreads, bytes), kStem);
    const int most = together * attribute(cudaDevAttrMultiProcessorCount, device);
    const int blocks = B < most ? B : most;
    return EvalPlan{
        .blocks = blocks,
        .shared_bytes = bytes,
        .keep1_bytes = whole ? 0 : static_cast<int64_t>(blocks) * Layout::kKeep1Bytes,
    };
  });
}

template <typename Number>
void StemLaunch<Number>::eval(const EvalArguments& run, const EvalPlan& plan, cudaStream_t stream) {
  with_kernel<Number>(run.L, [&](auto kernel, auto layout) {
    kernel<<<static_cast<unsigned>(plan.blocks), decltype(layout)::kThreads, plan.shared_bytes, stream>>>(run);
    check(cudaGetLastError(), kStem);
  });
}

}  // namespace xmae_fast::cuda
