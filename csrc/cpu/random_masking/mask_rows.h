// Writes one row of a patch mask: patch_mask [N], ids_keep [N - k], ids_restore [N]. In the order of ids_keep the kept
// patches come first, in ascending order, and then the masked ones; ids_restore is the inverse of that order. This file
// does not depend on torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/base/philox.h"

namespace xmae_fast {

constexpr int64_t kShortRow = 256;  // in rows up to so long, counting ranks without branches is faster than nth_element
constexpr int64_t kRankPad = 32;    // patches whose ranks are counted together, in four AVX2 registers

// The keys of one row, and memory to work on them. Each thread makes it once.
template <typename Key>
struct ScatterRow {
  int64_t N;
  std::vector<Key> keys;       // [N, rounded up to kRankPad; at least 2 kRankPad]
  std::vector<int64_t> order;  // [N + 1]

  explicit ScatterRow(int64_t N_)
      : N(N_), keys(std::max((N_ + kRankPad - 1) / kRankPad, int64_t{2}) * kRankPad), order(N_ + 1) {}
};

// mask[n] = whether fewer than k of the N distinct keys are smaller than keys[n]. keys [N, rounded up to kRankPad],
// mask [N].
__attribute__((always_inline)) inline void mask_by_rank(const int32_t* keys, int64_t N, int32_t k, bool* mask) {
  for (int64_t first = 0; first < N; first += kRankPad) {
    int32_t rank[kRankPad] = {};
    for (int64_t j = 0; j < N; ++j) {
      const int32_t key = keys[j];
      for (int64_t i = 0; i < kRankPad; ++i) rank[i] += key < keys[first + i];
    }
    const int64_t count = std::min(kRankPad, N - first);
    for (int64_t i = 0; i < count; ++i) mask[first + i] = rank[i] < k;
  }
}

// Returns the key of patch i in a short row: 24 bits of its random word, and the position in the low 8 bits, which
// makes keys distinct. The sign bit is flipped, so that keys compare as signed numbers as the bits do unsigned.
__attribute__((always_inline)) inline int32_t short_key(uint32_t word, uint32_t i) {
  return static_cast<int32_t>(((word & ~0xFFu) | i) ^ 0x80000000u);
}

// Draws the mask of one short row (N <= kShortRow) whose masked patches are scattered. Patch i has word i of blocks 1,
// 2, ...
XMAE_FAST_AVX2_CLONE inline void draw_short_scatter(
    const PhiloxStream& stream, uint32_t row, int64_t N, int32_t k, int32_t* keys, bool* mask) {
  PhiloxWords words;
  for (int64_t n = 0; n < N; n += 4 * kLanes) {
    philox<kLanes>(stream, row, static_cast<uint32_t>(1 + n / 4), words);
    const int64_t lanes = std::min<int64_t>(kLanes, (N - n + 3) / 4);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      for (int64_t w = 0; w < 4; ++w) {
        const int64_t i = n + 4 * lane + w;
        keys[i] = short_key(words.word[w][lane], static_cast<uint32_t>(i));
      }
    }
  }
  mask_by_rank(keys, N, k, mask);
}

// The same for two rows of up to kRankPad patches, which most rows have: one set of draws serves both.
// keys [2, kRankPad], mask [2, N].
XMAE_FAST_AVX2_CLONE inline void draw_two_scatters(
    const PhiloxStream& stream, uint32_t row, int64_t N, int32_t k, int32_t* keys, bool* mask) {
  PhiloxWords words;
  philox<kLanes / 2>(stream, row, 1, words);
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    for (int64_t w = 0; w < 4; ++w) {
      const uint32_t i = static_cast<uint32_t>(4 * (lane % (kLanes / 2)) + w);
      keys[4 * lane + w] = short_key(words.word[w][lane], i);
    }
  }
  mask_by_rank(keys, N, k, mask);
  mask_by_rank(keys + kRankPad, N, k, mask + N);
}

// Writes a row whose visible patches are one run of V patches from `start` on. The loops have fixed lengths and no
// branches, because with random starts mispredicted ends of loops cost more than the work.
inline void write_visible_run(int64_t start, int64_t N, int64_t V, bool* mask, int64_t* keep, int64_t* restore) {
  for (int64_t n = 0; n < N; ++n) {
    const int64_t from_start = n - start;
    mask[n] = from_start < 0 || from_start >= V;
    restore[n] = from_start < 0 ? V + n : (from_start < V ? from_start : n);
  }
  for (int64_t j = 0; j < V; ++j) keep[j] = start + j;
}

// Writes a row whose masked patches are one run of k patches from `start` on.
inline void write_masked_run(int64_t start, int64_t N, int64_t k, bool* mask, int64_t* keep, int64_t* restore) {
  const int64_t V = N - k;
  for (int64_t n = 0; n < N; ++n) {
    const int64_t from_start = n - start;
    mask[n] = from_start >= 0 && from_start < k;
    restore[n] = from_start < 0 ? n : (from_start < k ? V + from_start : n - k);
  }
  for (int64_t j = 0; j < V; ++j) keep[j] = j < start ? j : j + k;
}

// Writes rows of a batch.
struct RowWriter {
  int64_t N, k;
  bool* mask;        // [B, N]
  int64_t* keep;     // [B, N - k]
  int64_t* restore;  // [B, N]

  RowWriter at(int64_t b) const { return {N, k, mask + b * N, keep + b * (N - k), restore + b * N}; }

  void write_run(int64_t b, int64_t start, bool run_is_masked) const {
    const RowWriter row = at(b);
    if (run_is_masked) {
      write_masked_run(start, N, k, row.mask, row.keep, row.restore);
    } else {
      write_visible_run(start, N, N - k, row.mask, row.keep, row.restore);
    }
  }

  // Masks the k patches with the smallest keys. Equal keys are ordered by position, as by a stable sort.
  template <typename Key>
  void write_scatter(int64_t b, ScatterRow<Key>& row) const {
    const auto less = [&](int64_t i, int64_t j) {
      return row.keys[i] != row.keys[j] ? row.keys[i] < row.keys[j] : i < j;
    };
    const auto first = row.order.begin();
    bool* row_mask = at(b).mask;
    for (int64_t n = 0; n < N; ++n) row.order[n] = n;
    if (k > 0 && k < N) std::nth_element(first, first + k, first + N, less);
    for (int64_t n = 0; n < N; ++n) row_mask[row.order[n]] = n < k;
    write_ids(b, row.order.data());
  }

  // Writes the ids of a row whose mask has been written. order [N + 1]: memory to work in.
  void write_ids(int64_t b, int64_t* order) const {
    const RowWriter row = at(b);
    int64_t kept = 0, masked = N - k;
    for (int64_t n = 0; n < N; ++n) {
      const int64_t is_masked = row.mask[n];
      order[kept] = n;  // the next patch overwrites this unless n is kept; that is why order has one more entry
      row.restore[n] = kept + (masked - kept) * is_masked;
      masked += is_masked;
      kept += 1 - is_masked;
    }
    std::copy_n(order, N - k, row.keep);
  }
};

// A row with one run has few possible values. For a large batch each of them is written once, here, and then copied.
struct RunTable {
  const RowWriter& out;
  bool run_is_masked;
  int64_t choices;                       // number of possible starts of the run
  bool used;                             // the batch is large enough for the table
  std::vector<char> masks;               // [choices, N] of bool
  std::vector<int64_t> keeps, restores;  // [choices, N - k], [choices, N]

  static constexpr int64_t kMostEntries = 16384;  // a table of this size stays in the first-level cache

  RunTable(const RowWriter& out_, bool run_is_masked_, int64_t B)
      : out(out_),
        run_is_masked(run_is_masked_),
        choices(1 + (run_is_masked_ ? out_.N - out_.k : out_.k)),
        used(B >= 4 * choices && choices * out_.N <= kMostEntries) {
    if (!used) return;
    masks.resize(choices * out.N);
    keeps.resize(choices * (out.N - out.k));
    restores.resize(choices * out.N);
    const RowWriter table{out.N, out.k, reinterpret_cast<bool*>(masks.data()), keeps.data(), restores.data()};
    for (int64_t start = 0; start < choices; ++start) table.write_run(start, start, run_is_masked);
  }

  void write(int64_t b, int64_t start) const {
    if (!used) return out.write_run(b, start, run_is_masked);
    const int64_t N = out.N, visible = N - out.k;
    const RowWriter row = out.at(b);
    std::memcpy(row.mask, masks.data() + start * N, N);
    std::copy_n(keeps.data() + start * visible, visible, row.keep);
    std::copy_n(restores.data() + start * N, N, row.restore);
  }
};

}  // namespace xmae_fast
