// One thread of a CTA on a host, in place of csrc/cuda/lane.cuh: the same operations, with ldmatrix and mma as the PTX
// ISA documents which lane holds which element.
#pragma once

#include <cmath>
#include <cstring>

#include "cta.h"
#include "cuda/number.h"

namespace xmae_fast::cuda {

// What the lanes of a warp hand each other.
struct Exchange {
  uint32_t rows[32];
  float values[32];
  float a[16][16], b[16][8], product[16][8];

  void multiply() {
    for (int row = 0; row < 16; ++row) {
      float sums[8] = {};
      for (int k = 0; k < 16; ++k) {
        for (int n = 0; n < 8; ++n) sums[n] += a[row][k] * b[k][n];
      }
      std::copy_n(sums, 8, product[row]);
    }
  }
};

template <typename NUMBER, int THREADS>
class HostLane {
 public:
  using Number = NUMBER;
  static constexpr int kThreads = THREADS;

  HostLane(Cta& cta, Exchange (*exchange)[2], int thread, int block, int blocks, const char* stream)
      : cta_(cta), exchange_(exchange[thread / 32]), thread_(thread), block_(block), blocks_(blocks), stream_(stream) {}

  int thread() const { return thread_; }
  int lane() const { return thread_ % 32; }
  int warp() const { return thread_ / 32; }
  int block() const { return block_; }
  int blocks() const { return blocks_; }
  char* shared() const { return cta_.shared.data(); }

  void barrier() { cta_.barrier(thread_); }
  static void hide(int&) {}
  void forget_addresses() {}
  void copy_async(uint32_t to, const char* from) { cta_.copy_async(thread_, to, from, from - stream_); }
  void wait_for_copies() { cta_.wait_for_copies(thread_); }

  template <typename V>
  V load(uint32_t at) const {
    cta_.touch(thread_, at, sizeof(V), Access::kLoad);
    cta_.record(thread_, at, sizeof(V), Access::kLoad);
    V value;
    std::memcpy(&value, cta_.shared.data() + at, sizeof value);
    return value;
  }
  template <typename V>
  void store(uint32_t at, const V& value) {
    cta_.touch(thread_, at, sizeof(V), Access::kStore);
    cta_.record(thread_, at, sizeof(V), Access::kStore);
    std::memcpy(cta_.shared.data() + at, &value, sizeof value);
  }
  template <typename V>
  V fetch(const void* from) const {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  void put(void* to, const Words4& value) { std::memcpy(to, &value, sizeof value); }
  Words4 load_own(const char* at) const {
    own(at, Access::kLoad);
    Words4 value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  void store_own(char* at, const Words4& value) {
    own(at, Access::kStore);
    std::memcpy(at, &value, sizeof value);
  }

  // Matrix m has its eight rows at the addresses of lanes 8 m to 8 m + 7; lane l gets elements 2 (l % 4), + 1 of row l / 4.
  void load_matrix(uint32_t (&r)[4], uint32_t row) const {
    Exchange& exchange = exchange_[cta_.parity(thread_)];
    exchange.rows[lane()] = row;
    cta_.record(thread_, row, 16, Access::kMatrix);
    cta_.meet(thread_, [] {});
    for (int m = 0; m < 4; ++m) {
      const uint32_t at = exchange.rows[8 * m + lane() / 4] + 4 * (lane() % 4);
      cta_.touch(thread_, at, 4, Access::kMatrix);
      std::memcpy(&r[m], cta_.shared.data() + at, 4);
    }
  }

  // The same of the transposed matrices: lane l gets elements 2 (l % 4), + 1 of column l / 4.
  void load_matrix_transposed(uint32_t (&r)[4], uint32_t row) const {
    Exchange& exchange = exchange_[cta_.parity(thread_)];
    exchange.rows[lane()] = row;
    cta_.record(thread_, row, 16, Access::kMatrix);
    cta_.meet(thread_, [] {});
    for (int m = 0; m < 4; ++m) {
      r[m] = 0;
      for (int half = 0; half < 2; ++half) {
        const uint32_t at = exchange.rows[8 * m + 2 * (lane() % 4) + half] + 2 * (lane() / 4);
        uint16_t number;
        cta_.touch(thread_, at, 2, Access::kMatrix);
        std::memcpy(&number, cta_.shared.data() + at, 2);
        r[m] |= static_cast<uint32_t>(number) << 16 * half;
      }
    }
  }
  float shuffle_xor(float value, int mask) const {
    Exchange& exchange = exchange_[cta_.parity(thread_)];
    exchange.values[lane()] = value;
    cta_.meet(thread_, [] {});
    return exchange.values[lane() ^ mask];
  }

  // A [16, 16]: element (row, k) is in lane 4 (row % 8) + k % 8 / 2, register (row >= 8) + 2 (k >= 8), half k % 2.
  // B [16, 8]: element (k, n) is in lane 4 n + k % 8 / 2, register k >= 8, half k % 2.
  // C [16, 8]: element (row, n) is in lane 4 (row % 8) + n / 2, register 2 (row >= 8) + n % 2.
  void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) const {
    Exchange& exchange = exchange_[cta_.parity(thread_)];
    const uint32_t b[2] = {b0, b1};
    const int g = lane() / 4, t = lane() % 4;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) exchange.a[g + 8 * (i % 2)][8 * (i / 2) + 2 * t + half] = Number::value(a[i] >> 16 * half & 0xffffu);
      for (int i = 0; i < 2; ++i) exchange.b[8 * i + 2 * t + half][g] = Number::value(b[i] >> 16 * half & 0xffffu);
    }
    cta_.meet(thread_, [&] { exchange.multiply(); });
    for (int i = 0; i < 4; ++i) c[i] += exchange.product[g + 8 * (i / 2)][2 * t + i % 2];
  }

  float tanh(float x) const {
    const float exact = std::tanh(x);
    const int mode = cta_.options.tanh == 2 ? (bits_of(x) >> 3 & 1 ? 1 : -1) : cta_.options.tanh;
    return exact * (1.0f + mode * 0x1p-11f);
  }

 private:
  void own(const char* at, Access access) const {
    const int64_t offset = at - cta_.shared.data();
    if (offset < 0 || offset >= static_cast<int64_t>(cta_.shared.size())) return;  // global memory
    cta_.touch(thread_, static_cast<uint32_t>(offset), 16, access);
    cta_.record(thread_, static_cast<uint32_t>(offset), 16, access);
  }

  Cta& cta_;
  Exchange* exchange_;
  int thread_;
  int block_, blocks_;
  const char* stream_;
};

}  // namespace xmae_fast::cuda
