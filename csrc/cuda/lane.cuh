// One thread of a GPU, with the operations that kernels ask of it. Kernels are templates over a class `Lane`: this one
// on a GPU, tests/ops/cuda/host/lane.h in tests, which run them on a host.
//
// A CTA (cooperative thread array) is one block of threads. Addresses of shared memory are offsets in bytes into the
// memory of the thread's own CTA.
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
  // After this call the compiler no longer knows anything about the value, so it cannot keep what it computed from the
  // value in registers through the whole loop over samples. Without it the kernels need 4 to 13 registers more than
  // there are (ptxas, CUDA 13.0).
  static __device__ __forceinline__ void hide(int& value) { asm volatile("" : "+r"(value)); }
  __device__ __forceinline__ void forget_addresses() { hide(thread_); }

  // Starts to copy 16 bytes from global to shared memory. They are there after wait_for_copies() of the same thread.
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
  // `fetch` reads global memory that no thread writes during this launch; `put` writes global memory.
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

  // These two access shared or global memory that no other thread reads or writes.
  __device__ __forceinline__ Words4 load_own(const char* at) const { return *reinterpret_cast<const Words4*>(at); }
  __device__ __forceinline__ void store_own(char* at, const Words4& value) { *reinterpret_cast<Words4*>(at) = value; }

  // Loads four 8 x 8 matrices of 16-bit numbers from shared memory. row: the address of the row that this lane names;
  // lane l names row l % 8 of matrix l / 8. Afterwards the lane holds two neighbouring numbers of each matrix in r.
  __device__ __forceinline__ void load_matrix(uint32_t (&r)[4], uint32_t row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address(row))
                 : "memory");
  }
  // The same, but every matrix is transposed: the lane gets two numbers of one column of the stored matrix.
  __device__ __forceinline__ void load_matrix_transposed(uint32_t (&r)[4], uint32_t row) const {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address(row))
                 : "memory");
  }
  // Returns the value that lane `lane() ^ mask` of this warp passes.
  __device__ __forceinline__ float shuffle_xor(float value, int mask) const {
    return __shfl_xor_sync(0xffffffffu, value, mask);
  }
  // c += a b on tensor cores: c [16, 8] of float32, a [16, 16] and b [16, 8] of `Number`, spread over the warp's lanes.
  __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) const {
    if constexpr (Number::kIsHalf) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }

  // The relative error is at most 2^-11 (PTX ISA, tanh.approx.f32).
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
