// One thread of a GPU as stem_eval.h and tile.h see it. Addresses of shared memory are offsets into the CTA's own.
#pragma once

#include <cuda_runtime.h>

#include "cuda/number.h"

namespace xmae_fast::cuda {

extern __shared__ __align__(128) char shared_memory[];

template <typename NUMBER, int THREADS>
struct CudaLane {
  using Number = NUMBER;
  static constexpr int kThreads = THREADS;

  __device__ __forceinline__ CudaLane() : thread_(threadIdx.x) {}

  __device__ __forceinline__ int thread() const { return thread_; }
  __device__ __forceinline__ int lane() const { return thread_ & 31; }
  __device__ __forceinline__ int warp() const { return thread_ >> 5; }
  __device__ __forceinline__ int block() const { return blockIdx.x; }
  __device__ __forceinline__ int blocks() const { return gridDim.x; }
  __device__ __forceinline__ char* shared() const { return shared_memory; }

  __device__ __forceinline__ void barrier() { __syncthreads(); }
  // The compiler knows nothing of the value behind this, so it cannot keep what is made from it through the whole loop over
  // samples: without it 4 to 13 registers more than there are (ptxas, CUDA 13.0).
  static __device__ __forceinline__ void hide(int& value) { asm volatile("" : "+r"(value)); }
  __device__ __forceinline__ void forget_addresses() { hide(thread_); }

  __device__ __forceinline__ void copy_async(uint32_t to, const char* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address(to)), "l"(from) : "memory");
  }
  __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

  template <typename V>
  __device__ __forceinline__ V load(uint32_t at) const {
    return *reinterpret_cast<const V*>(shared_memory + at);
  }
  template <typename V>
  __device__ __forceinline__ void store(uint32_t at, const V& value) {
    *reinterpret_cast<V*>(shared_memory + at) = value;
  }
  // Global memory that this launch does not write, and that which it does.
  template <typename V>
  __device__ __forceinline__ V fetch(const void* from) const {
    if constexpr (sizeof(V) == 16) {
      const uint4 words = __ldg(static_cast<const uint4*>(from));
      return __builtin_bit_cast(V, words);
    } else {
      return __ldg(static_cast<const V*>(from));
    }
  }
  __device__ __forceinline__ void put(void* to, const Words4& value) { *static_cast<Words4*>(to) = value; }

  // What no other thread reads: shared or global memory.
  __device__ __forceinline__ Words4 load_own(const char* at) const { return *reinterpret_cast<const Words4*>(at); }
  __device__ __forceinline__ void store_own(char* at, const Words4& value) { *reinterpret_cast<Words4*>(at) = value; }

  __device__ __forceinline__ void load_matrix(uint32_t (&r)[4], uint32_t row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address(row))
                 : "memory");
  }
  // Every 8 x 8 matrix transposed: a lane gets elements of a column of what is stored.
  __device__ __forceinline__ void load_matrix_transposed(uint32_t (&r)[4], uint32_t row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address(row))
                 : "memory");
  }
  __device__ __forceinline__ float shuffle_xor(float value, int mask) const { return __shfl_xor_sync(0xffffffffu, value, mask); }
  __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) const {
    if constexpr (Number::kIsHalf) {
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                   "{%0, %1, %2, %3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                   "{%0, %1, %2, %3};"
                   : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }

  // Relative error at most 2^-11 (PTX ISA, tanh.approx.f32).
  __device__ __forceinline__ float tanh(float x) const {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }

 private:
  static __device__ __forceinline__ uint32_t address(uint32_t at) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared_memory)) + at;
  }

  int thread_;
};

}  // namespace xmae_fast::cuda
