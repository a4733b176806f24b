// Patch masks on a CPU: one pass per row, rows in parallel, no sort.
//   masks_philox      draws its own counter-based numbers (rng="fast")
//   masks_from_draws  turns the numbers that the published procedure draws into masks (rng="exact")
// Both return patch_mask [B, N] bool, ids_keep [B, N - k] int64, ids_restore [B, N] int64.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "philox.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define XMAE_FAST_AVX2_CLONE __attribute__((target_clones("avx2", "default")))
#else
#define XMAE_FAST_AVX2_CLONE
#endif

namespace xmae_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Masks = std::tuple<Tensor, Tensor, Tensor>;

// The numbers of MODES in xmae_fast/ops/random_masking/reference.py.
enum Mode : int64_t { kScatter = 0, kBlock = 1, kAnchor = 2, kMixed = 3 };

constexpr int64_t kRankLimit = 256;  // up to here counting ranks (branch-free, vectorised) beats nth_element
constexpr int64_t kPad = 16;         // keys are padded to this many, so that the rank loop has no tail
constexpr int64_t kRunRowsPerThread = 4096;    // a run is some 15 ns a row; waking a thread costs 5-10 us
constexpr int64_t kScatterRowsPerThread = 128;  // a scatter row is some 150 ns

struct Output {
  int64_t B, N, k, visible;
  Tensor patch_mask, ids_keep, ids_restore;
  bool* mask;        // [B, N]
  int64_t* keep;     // [B, visible]
  int64_t* restore;  // [B, N]

  Output(int64_t B_, int64_t N_, int64_t k_)
      : B(B_), N(N_), k(k_), visible(N_ - k_),
        patch_mask(torch::stable::empty({B, N}, ScalarType::Bool)),
        ids_keep(torch::stable::empty({B, visible}, ScalarType::Long)),
        ids_restore(torch::stable::empty({B, N}, ScalarType::Long)),
        mask(static_cast<bool*>(patch_mask.mutable_data_ptr())),
        keep(static_cast<int64_t*>(ids_keep.mutable_data_ptr())),
        restore(static_cast<int64_t*>(ids_restore.mutable_data_ptr())) {}
};

// Ids of a row whose visible patches are one run of V from `start`. Loops have fixed lengths and no branches: with random
// starts, mispredicted loop ends cost more than the work (48 -> 30 us a call at B = 512).
XMAE_FAST_AVX2_CLONE void write_visible_run(int32_t start, int32_t N, int32_t V, bool* mask, int64_t* keep, int64_t* restore) {
  for (int32_t n = 0; n < N; ++n) mask[n] = static_cast<uint32_t>(n - start) >= static_cast<uint32_t>(V);
  for (int32_t j = 0; j < V; ++j) keep[j] = start + j;
  for (int32_t n = 0; n < N; ++n) {
    const int32_t from_start = n - start;
    restore[n] = from_start < 0 ? V + n : (from_start < V ? from_start : n);
  }
}

// Ids of a row whose masked patches are one run of k from `start`.
XMAE_FAST_AVX2_CLONE void write_masked_run(int32_t start, int32_t N, int32_t k, bool* mask, int64_t* keep, int64_t* restore) {
  const int32_t V = N - k;
  for (int32_t n = 0; n < N; ++n) mask[n] = static_cast<uint32_t>(n - start) < static_cast<uint32_t>(k);
  for (int32_t j = 0; j < V; ++j) keep[j] = j < start ? j : j + k;
  for (int32_t n = 0; n < N; ++n) {
    const int32_t from_start = n - start;
    restore[n] = from_start < 0 ? n : (from_start < k ? V + from_start : n - k);
  }
}

void write_run(const Output& out, int64_t b, int64_t start, bool run_is_masked) {
  const auto N = static_cast<int32_t>(out.N), k = static_cast<int32_t>(out.k), first = static_cast<int32_t>(start);
  bool* mask = out.mask + b * out.N;
  int64_t* keep = out.keep + b * out.visible;
  int64_t* restore = out.restore + b * out.N;
  if (run_is_masked) {
    write_masked_run(first, N, k, mask, keep, restore);
  } else {
    write_visible_run(first, N, N - k, mask, keep, restore);
  }
}

// Keys of one row and room to work on them; made once per thread.
template <typename Key>
struct ScatterRow {
  int64_t N, padded;
  std::vector<Key> keys, index;
  std::vector<int64_t> order;

  explicit ScatterRow(int64_t N_)
      : N(N_), padded((N_ + kPad - 1) / kPad * kPad), keys(padded, std::numeric_limits<Key>::max()), index(padded), order(N + 1) {
    for (int64_t n = 0; n < padded; ++n) index[n] = static_cast<Key>(n);
  }
};

// mask[n] = (keys[n], n) is among the k smallest of (keys[0], 0) ... (keys[N-1], N-1).
template <typename Key>
inline void mask_by_rank(const Key* keys, const Key* index, int64_t N, int64_t padded, int64_t k, bool* mask) {
  for (int64_t n = 0; n < N; ++n) {
    const Key key = keys[n], at = static_cast<Key>(n);
    Key rank = 0;
    for (int64_t j = 0; j < padded; ++j) rank += (keys[j] < key) | ((keys[j] == key) & (index[j] < at));
    mask[n] = rank < k;
  }
}
XMAE_FAST_AVX2_CLONE void mask_by_rank_32(const int32_t* keys, const int32_t* index, int64_t N, int64_t padded, int64_t k, bool* mask) {
  mask_by_rank(keys, index, N, padded, k, mask);
}
void mask_by_rank_dispatch(const ScatterRow<int32_t>& row, int64_t k, bool* mask) {
  mask_by_rank_32(row.keys.data(), row.index.data(), row.N, row.padded, k, mask);
}
void mask_by_rank_dispatch(const ScatterRow<int64_t>& row, int64_t k, bool* mask) {
  mask_by_rank(row.keys.data(), row.index.data(), row.N, row.padded, k, mask);
}

template <typename Key>
void mask_by_selection(ScatterRow<Key>& row, int64_t k, bool* mask) {
  const auto less = [&](int64_t a, int64_t b) {
    return row.keys[a] != row.keys[b] ? row.keys[a] < row.keys[b] : a < b;
  };
  const auto first = row.order.begin();
  for (int64_t n = 0; n < row.N; ++n) row.order[n] = n;
  if (k > 0 && k < row.N) std::nth_element(first, first + k, first + row.N, less);
  for (int64_t n = 0; n < row.N; ++n) mask[row.order[n]] = n < k;
}

// The k patches with the smallest keys are masked; equal keys go by position, as a stable sort would have them.
template <typename Key>
void write_scatter(const Output& out, int64_t b, ScatterRow<Key>& row) {
  const int64_t N = out.N;
  bool* mask = out.mask + b * N;
  int64_t* restore = out.restore + b * N;
  if (N <= kRankLimit) {
    mask_by_rank_dispatch(row, out.k, mask);
  } else {
    mask_by_selection(row, out.k, mask);
  }
  int64_t kept = 0, masked = out.visible;
  for (int64_t n = 0; n < N; ++n) {
    row.order[kept] = n;  // overwritten unless n is kept; order has a spare last entry
    restore[n] = mask[n] ? masked : kept;
    masked += mask[n];
    kept += !mask[n];
  }
  std::copy_n(row.order.begin(), out.visible, out.keep + b * out.visible);
}

void check_sizes(int64_t B, int64_t N, int64_t k, int64_t mode) {
  STD_TORCH_CHECK(B >= 0 && N >= 1, "random_masking: expected B >= 0 and N >= 1, got B = ", B, ", N = ", N);
  STD_TORCH_CHECK(B <= std::numeric_limits<uint32_t>::max(), "random_masking: expected B < 2^32, got ", B);
  STD_TORCH_CHECK(N <= std::numeric_limits<int32_t>::max() / 2, "random_masking: expected N < 2^30, got ", N);
  STD_TORCH_CHECK(k >= 0 && k <= N, "random_masking: expected 0 <= k <= N = ", N, ", got k = ", k);
  STD_TORCH_CHECK(mode >= kScatter && mode <= kMixed, "random_masking: expected mode 0..3, got ", mode);
}

int64_t rows_per_thread(int64_t mode) {
  return mode == kScatter || mode == kMixed ? kScatterRowsPerThread : kRunRowsPerThread;
}

// The stream: block 0 of a row holds [coin of `mixed`, start of the run, -, -]; word i of blocks 1, 2, ... is the
// scatter key of patch i.
Masks masks_philox(const Tensor& seed, int64_t B, int64_t N, int64_t k, int64_t mode) {
  check_sizes(B, N, k, mode);
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 2 && seed.is_contiguous(),
                  "random_masking: expected seed to be a contiguous int64 tensor (seed, offset)");
  const auto* words = static_cast<const int64_t*>(seed.const_data_ptr());
  const PhiloxStream stream{static_cast<uint64_t>(words[0]), static_cast<uint64_t>(words[1])};
  Output out(B, N, k);
  torch::stable::parallel_for(0, B, rows_per_thread(mode), [&](int64_t begin, int64_t end) {
    ScatterRow<int32_t> row(mode == kScatter || mode == kMixed ? N : 0);
    for (int64_t b = begin; b < end; ++b) {
      const auto head = stream(static_cast<uint32_t>(b), 0);
      if (mode == kAnchor) {
        write_run(out, b, bounded(head[1], k + 1), false);
      } else if (mode == kBlock || (mode == kMixed && head[0] < 0x80000000u)) {
        write_run(out, b, bounded(head[1], out.visible + 1), true);
      } else {
        for (int64_t n = 0; n < N; n += 4) {
          const auto draw = stream(static_cast<uint32_t>(b), static_cast<uint32_t>(1 + n / 4));
          for (int64_t i = 0; i < std::min<int64_t>(4, N - n); ++i) {
            row.keys[n + i] = static_cast<int32_t>(draw[i] ^ 0x80000000u);  // unsigned order kept in signed compare
          }
        }
        write_scatter(out, b, row);
      }
    }
  });
  return {out.patch_mask, out.ids_keep, out.ids_restore};
}

// Numbers in [0, 1) compare as their bit patterns do.
template <typename Float, typename Key>
void from_draws(const Output& out, const Tensor& scores, const int64_t* start, const Tensor& coin, int64_t mode) {
  const int64_t N = out.N;
  const auto* score_bits = static_cast<const Key*>(scores.const_data_ptr());
  const auto* coins = mode == kMixed ? static_cast<const Float*>(coin.const_data_ptr()) : nullptr;
  torch::stable::parallel_for(0, out.B, rows_per_thread(mode), [&](int64_t begin, int64_t end) {
    ScatterRow<Key> row(mode == kScatter || mode == kMixed ? N : 0);
    for (int64_t b = begin; b < end; ++b) {
      if (mode == kAnchor) {
        write_run(out, b, start[b], false);
      } else if (mode == kBlock || (mode == kMixed && coins[b] < Float(0.5))) {
        write_run(out, b, start[b], true);
      } else {
        std::copy_n(score_bits + b * N, N, row.keys.begin());
        write_scatter(out, b, row);
      }
    }
  });
}

Masks masks_from_draws(const Tensor& scores, const Tensor& start, const Tensor& coin, int64_t k, int64_t mode) {
  STD_TORCH_CHECK(scores.dim() == 2 && scores.is_contiguous(), "random_masking: expected scores to be contiguous [B, N]");
  const int64_t B = scores.size(0), N = scores.size(1);
  check_sizes(B, N, k, mode);
  STD_TORCH_CHECK(start.scalar_type() == ScalarType::Long && start.numel() == B && start.is_contiguous(),
                  "random_masking: expected start to be contiguous int64 [B]");
  STD_TORCH_CHECK(mode != kMixed || (coin.scalar_type() == scores.scalar_type() && coin.numel() == B && coin.is_contiguous()),
                  "random_masking: expected coin to be contiguous [B] with the dtype of scores");
  const auto* starts = static_cast<const int64_t*>(start.const_data_ptr());
  const int64_t last = mode == kAnchor ? k : N - k;
  STD_TORCH_CHECK(mode == kScatter || std::all_of(starts, starts + B, [&](int64_t s) { return s >= 0 && s <= last; }),
                  "random_masking: expected every start in 0..", last);
  Output out(B, N, k);
  if (scores.scalar_type() == ScalarType::Float) {
    from_draws<float, int32_t>(out, scores, starts, coin, mode);
  } else {
    STD_TORCH_CHECK(scores.scalar_type() == ScalarType::Double, "random_masking: expected scores of float32 or float64");
    from_draws<double, int64_t>(out, scores, starts, coin, mode);
  }
  return {out.patch_mask, out.ids_keep, out.ids_restore};
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("masks_philox", TORCH_BOX(&xmae_fast::masks_philox));
  m.impl("masks_from_draws", TORCH_BOX(&xmae_fast::masks_from_draws));
}
