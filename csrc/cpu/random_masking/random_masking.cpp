// The operators of random_masking, which draw patch masks, with rows in parallel and without sorting.
//   masks_philox      draws its own numbers, by counters (rng="fast")
//   masks_from_draws  makes masks of the numbers that the published procedure draws (rng="exact")
// Both return patch_mask [B, N] of bool, ids_keep [B, N - k] and ids_restore [B, N] of int64.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "cpu/base/philox.h"
#include "cpu/random_masking/mask_rows.h"

namespace xmae_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Masks = std::tuple<Tensor, Tensor, Tensor>;

// The numbers of MODES in xmae_fast/ops/random_masking/reference.py.
enum Mode : int64_t { kScatter = 0, kBlock = 1, kAnchor = 2, kMixed = 3 };

bool has_scatter(int64_t mode) { return mode == kScatter || mode == kMixed; }

// Waking a thread takes 5 to 10 us, copying a row with one run from the table some 15 ns, a scattered row some 150 ns.
int64_t rows_per_thread(int64_t mode) { return has_scatter(mode) ? 256 : 4096; }

// The results of a call.
struct Output {
  Tensor patch_mask, ids_keep, ids_restore;
  RowWriter rows;

  Output(int64_t B, int64_t N, int64_t k)
      : patch_mask(torch::stable::empty({B, N}, ScalarType::Bool)),
        ids_keep(torch::stable::empty({B, N - k}, ScalarType::Long)),
        ids_restore(torch::stable::empty({B, N}, ScalarType::Long)),
        rows{
            .N = N,
            .k = k,
            .mask = static_cast<bool*>(patch_mask.mutable_data_ptr()),
            .keep = static_cast<int64_t*>(ids_keep.mutable_data_ptr()),
            .restore = static_cast<int64_t*>(ids_restore.mutable_data_ptr()),
        } {}

  Masks result() const { return {patch_mask, ids_keep, ids_restore}; }
};

void check_sizes(int64_t B, int64_t N, int64_t k, int64_t mode) {
  STD_TORCH_CHECK(B >= 0 && N >= 1, "random_masking: expected B >= 0 and N >= 1, got B = ", B, ", N = ", N);
  STD_TORCH_CHECK(B <= std::numeric_limits<uint32_t>::max(), "random_masking: expected B < 2^32, got ", B);
  STD_TORCH_CHECK(N <= std::numeric_limits<int32_t>::max() / 2, "random_masking: expected N < 2^30, got ", N);
  STD_TORCH_CHECK(k >= 0 && k <= N, "random_masking: expected 0 <= k <= N = ", N, ", got k = ", k);
  STD_TORCH_CHECK(mode >= kScatter && mode <= kMixed, "random_masking: expected mode 0..3, got ", mode);
}

// Draws the keys of a long row: patch i has the upper 24 bits of word i of blocks 1, 2, ...
void draw_long_keys(const PhiloxStream& stream, uint32_t row, ScatterRow<int32_t>& scatter) {
  PhiloxWords words;
  for (int64_t n = 0; n < scatter.N; n += 4 * kLanes) {
    philox<kLanes>(stream, row, static_cast<uint32_t>(1 + n / 4), words);
    const int64_t count = std::min<int64_t>(4 * kLanes, scatter.N - n);
    for (int64_t i = 0; i < count; ++i) scatter.keys[n + i] = static_cast<int32_t>(words.word[i % 4][i / 4] >> 8);
  }
}

// Draws and writes rows [begin, end), all with scattered masked patches.
void scatter_rows(
    const PhiloxStream& stream, const RowWriter& out, int64_t begin, int64_t end, ScatterRow<int32_t>& row) {
  const auto k = static_cast<int32_t>(out.k);
  int64_t b = begin;
  for (; out.N <= kRankPad && b + 1 < end; b += 2) {
    draw_two_scatters(stream, static_cast<uint32_t>(b), out.N, k, row.keys.data(), out.at(b).mask);
    out.write_ids(b, row.order.data());
    out.write_ids(b + 1, row.order.data());
  }
  for (; b < end; ++b) {
    if (out.N <= kShortRow) {
      draw_short_scatter(stream, static_cast<uint32_t>(b), out.N, k, row.keys.data(), out.at(b).mask);
      out.write_ids(b, row.order.data());
    } else {
      draw_long_keys(stream, static_cast<uint32_t>(b), row);
      out.write_scatter(b, row);
    }
  }
}

// Draws block 0 of kLanes rows, which has their coins and starts.
XMAE_FAST_AVX2_CLONE void draw_heads(const PhiloxStream& stream, uint32_t row, PhiloxWords& heads) {
  philox<1>(stream, row, 0, heads);
}

// The stream of random numbers: words 0 and 1 of block 0 of a row are the coin of mode `mixed` and the start of the
// run; word i of blocks 1, 2, ... is the key of patch i.
Masks masks_philox(
    const Tensor& seed,  // int64 [2]: seed and offset
    int64_t B, int64_t N, int64_t k, int64_t mode) {
  check_sizes(B, N, k, mode);
  STD_TORCH_CHECK(
      seed.scalar_type() == ScalarType::Long && seed.numel() == 2 && seed.is_contiguous(),
      "random_masking: expected seed to be a contiguous int64 tensor (seed, offset)");
  const auto* key = static_cast<const int64_t*>(seed.const_data_ptr());
  const PhiloxStream stream{static_cast<uint64_t>(key[0]), static_cast<uint64_t>(key[1])};
  const Output out(B, N, k);
  const RunTable table(out.rows, mode != kAnchor, mode == kScatter ? 0 : B);
  torch::stable::parallel_for(0, B, rows_per_thread(mode), [&](int64_t begin, int64_t end) {
    ScatterRow<int32_t> row(has_scatter(mode) ? N : 0);
    if (mode == kScatter) return scatter_rows(stream, out.rows, begin, end, row);
    PhiloxWords heads;
    for (int64_t first = begin; first < end; first += kLanes) {
      draw_heads(stream, static_cast<uint32_t>(first), heads);
      for (int64_t lane = 0; lane < std::min<int64_t>(kLanes, end - first); ++lane) {
        if (mode == kMixed && heads.word[0][lane] >= 0x80000000u) {
          scatter_rows(stream, out.rows, first + lane, first + lane + 1, row);
        } else {
          table.write(first + lane, bounded(heads.word[1][lane], table.choices));
        }
      }
    }
  });
  return out.result();
}

// Writes the masks. Key: the whole number of the same size as Float; numbers in [0, 1) compare as their bits do.
template <typename Float, typename Key>
void from_draws(
    const Output& out, int64_t B, int64_t N, const Tensor& scores, const int64_t* start, const Tensor& coin,
    int64_t mode) {
  const auto* score_bits = static_cast<const Key*>(scores.const_data_ptr());
  const auto* coins = mode == kMixed ? static_cast<const Float*>(coin.const_data_ptr()) : nullptr;
  const RunTable table(out.rows, mode != kAnchor, mode == kScatter ? 0 : B);
  torch::stable::parallel_for(0, B, rows_per_thread(mode), [&](int64_t begin, int64_t end) {
    ScatterRow<Key> row(has_scatter(mode) ? N : 0);
    for (int64_t b = begin; b < end; ++b) {
      if (mode == kScatter || (mode == kMixed && coins[b] >= Float(0.5))) {
        std::copy_n(score_bits + b * N, N, row.keys.begin());
        out.rows.write_scatter(b, row);
      } else {
        table.write(b, start[b]);
      }
    }
  });
}

Masks masks_from_draws(
    const Tensor& scores,  // [B, N]: in scattered rows the patches with the k smallest scores are masked
    const Tensor& start,   // [B] of int64: start of the run
    const Tensor& coin,    // [B]: in mode `mixed` a row is scattered where this is at least 0.5
    int64_t k, int64_t mode) {
  STD_TORCH_CHECK(
      scores.dim() == 2 && scores.is_contiguous(), "random_masking: expected scores to be contiguous [B, N]");
  const int64_t B = scores.size(0), N = scores.size(1);
  check_sizes(B, N, k, mode);
  STD_TORCH_CHECK(
      start.scalar_type() == ScalarType::Long && start.numel() == B && start.is_contiguous(),
      "random_masking: expected start to be contiguous int64 [B]");
  STD_TORCH_CHECK(
      mode != kMixed || (coin.scalar_type() == scores.scalar_type() && coin.numel() == B && coin.is_contiguous()),
      "random_masking: expected coin to be contiguous [B] with the dtype of scores");
  const auto* starts = static_cast<const int64_t*>(start.const_data_ptr());
  const int64_t last = mode == kAnchor ? k : N - k;
  STD_TORCH_CHECK(
      mode == kScatter || std::all_of(starts, starts + B, [&](int64_t s) { return s >= 0 && s <= last; }),
      "random_masking: expected every start in 0..", last);
  const Output out(B, N, k);
  if (scores.scalar_type() == ScalarType::Float) {
    from_draws<float, int32_t>(out, B, N, scores, starts, coin, mode);
  } else {
    STD_TORCH_CHECK(
        scores.scalar_type() == ScalarType::Double, "random_masking: expected scores of float32 or float64");
    from_draws<double, int64_t>(out, B, N, scores, starts, coin, mode);
  }
  return out.result();
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("masks_philox", TORCH_BOX(&xmae_fast::masks_philox));
  m.impl("masks_from_draws", TORCH_BOX(&xmae_fast::masks_from_draws));
}
