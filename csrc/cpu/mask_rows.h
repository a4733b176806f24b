// Writes one row of a patch mask: patch_mask [N], ids_keep [N - k], ids_restore [N]. Kept patches come first in ascending
// order, then masked ones; ids_restore inverts that. Knows neither random numbers nor torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "philox.h"

namespace xmae_fast {

constexpr int32_t kShortRow = 256;  // up to here counting ranks (no branches, vectorised) beats nth_element
constexpr int32_t kPad = 4 * kLanes;

// Keys of one row and room to work on them; made once per thread. Padding compares above every key.
template <typename Key>
struct ScatterRow {
  int32_t N;
  std::vector<Key> keys;       // [N, rounded up to kPad]
  std::vector<int32_t> order;  // [N + 1]

  explicit ScatterRow(int64_t N_)
      : N(static_cast<int32_t>(N_)), keys((N_ + kPad - 1) / kPad * kPad, std::numeric_limits<Key>::max()), order(N_ + 1) {}
};

// mask[n] = fewer than k keys are smaller than keys[n]; distinct keys, `padded` of them.
XMAE_FAST_AVX2_CLONE inline void mask_by_rank(const int32_t* keys, int32_t N, int32_t padded, int32_t k, bool* mask) {
  for (int32_t n = 0; n < N; ++n) {
    const int32_t key = keys[n];
    int32_t rank = 0;
    for (int32_t j = 0; j < padded; j += kPad) {
      for (int32_t i = 0; i < kPad; ++i) rank += keys[j + i] < key;
    }
    mask[n] = rank < k;
  }
}

// ids of a row whose visible patches are one run of V from `start`. Fixed loop lengths and no branches: with random starts,
// mispredicted loop ends cost more than the work.
inline void write_visible_run(int32_t start, int32_t N, int32_t V, bool* mask, int64_t* keep, int64_t* restore) {
  for (int32_t n = 0; n < N; ++n) {
    const int32_t from_start = n - start;
    mask[n] = from_start < 0 || from_start >= V;
    restore[n] = from_start < 0 ? V + n : (from_start < V ? from_start : n);
  }
  for (int32_t j = 0; j < V; ++j) keep[j] = start + j;
}

// ids of a row whose masked patches are one run of k from `start`.
inline void write_masked_run(int32_t start, int32_t N, int32_t k, bool* mask, int64_t* keep, int64_t* restore) {
  const int32_t V = N - k;
  for (int32_t n = 0; n < N; ++n) {
    const int32_t from_start = n - start;
    mask[n] = from_start >= 0 && from_start < k;
    restore[n] = from_start < 0 ? n : (from_start < k ? V + from_start : n - k);
  }
  for (int32_t j = 0; j < V; ++j) keep[j] = j < start ? j : j + k;
}

// Where the rows of a batch go.
struct RowWriter {
  int32_t N, k;
  bool* mask;        // [B, N]
  int64_t* keep;     // [B, N - k]
  int64_t* restore;  // [B, N]

  RowWriter at(int64_t b) const { return {N, k, mask + b * N, keep + b * (N - k), restore + b * N}; }

  void write_run(int64_t b, int32_t start, bool run_is_masked) const {
    const RowWriter row = at(b);
    if (run_is_masked) {
      write_masked_run(start, N, k, row.mask, row.keep, row.restore);
    } else {
      write_visible_run(start, N, N - k, row.mask, row.keep, row.restore);
    }
  }

  // The k patches with the smallest keys are masked; the keys are distinct.
  void write_distinct_scatter(int64_t b, ScatterRow<int32_t>& row) const {
    mask_by_rank(row.keys.data(), N, static_cast<int32_t>(row.keys.size()), k, at(b).mask);
    write_ids(b, row.order);
  }

  // The same for any keys; equal ones go by position, as a stable sort would have them.
  template <typename Key>
  void write_scatter(int64_t b, ScatterRow<Key>& row) const {
    const auto less = [&](int32_t i, int32_t j) { return row.keys[i] != row.keys[j] ? row.keys[i] < row.keys[j] : i < j; };
    const auto first = row.order.begin();
    bool* row_mask = at(b).mask;
    for (int32_t n = 0; n < N; ++n) row.order[n] = n;
    if (k > 0 && k < N) std::nth_element(first, first + k, first + N, less);
    for (int32_t n = 0; n < N; ++n) row_mask[row.order[n]] = n < k;
    write_ids(b, row.order);
  }

 private:
  void write_ids(int64_t b, std::vector<int32_t>& order) const {
    const RowWriter row = at(b);
    int32_t kept = 0, masked = N - k;
    for (int32_t n = 0; n < N; ++n) {
      order[kept] = n;  // overwritten unless n is kept; order has a spare last entry
      row.restore[n] = row.mask[n] ? masked : kept;
      masked += row.mask[n];
      kept += !row.mask[n];
    }
    std::copy_n(order.begin(), N - k, row.keep);
  }
};

// A run has few possible rows: for a large batch each is written once and copied from then on.
struct RunTable {
  const RowWriter& out;
  bool run_is_masked;
  int64_t choices;  // number of possible starts
  bool used;
  std::vector<char> masks;  // [choices, N] bool
  std::vector<int64_t> keeps, restores;

  static constexpr int64_t kMostEntries = 16384;  // the table stays in the first-level caches

  RunTable(const RowWriter& out_, bool run_is_masked_, int64_t B)
      : out(out_), run_is_masked(run_is_masked_), choices(1 + (run_is_masked_ ? out_.N - out_.k : out_.k)),
        used(B >= 4 * choices && choices * out_.N <= kMostEntries) {
    if (!used) return;
    masks.resize(choices * out.N);
    keeps.resize(choices * (out.N - out.k));
    restores.resize(choices * out.N);
    const RowWriter table{out.N, out.k, reinterpret_cast<bool*>(masks.data()), keeps.data(), restores.data()};
    for (int32_t start = 0; start < choices; ++start) table.write_run(start, start, run_is_masked);
  }

  void write(int64_t b, int32_t start) const {
    if (!used) return out.write_run(b, start, run_is_masked);
    const int64_t N = out.N, visible = out.N - out.k;
    const RowWriter row = out.at(b);
    std::memcpy(row.mask, masks.data() + start * N, N);
    std::memcpy(row.keep, keeps.data() + start * visible, visible * sizeof(int64_t));
    std::memcpy(row.restore, restores.data() + start * N, N * sizeof(int64_t));
  }
};

}  // namespace xmae_fast
