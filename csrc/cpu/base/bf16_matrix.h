// bfloat16 numbers, and weights laid out for products of bfloat16 numbers. This code is compiled once for all
// processors.
//
// A product of 16 rows with 16 columns takes 32 steps at a time, as AMX does. The weights of these 32 steps and 16
// columns are a tile: 16 rows of 16 columns, where each element is a pair of consecutive steps. AVX512-BF16 multiplies
// the same pairs.
#pragma once

#include <algorithm>

#include "cpu/base/pack.h"

namespace xmae_fast {

struct Bf16 {
  uint16_t bits;
};

// Rounds to the nearest bfloat16, ties to even. A NaN stays one.
inline Bf16 to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
inline float to_float(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

inline float to_float(float x) { return x; }

constexpr int64_t kTileRows = 16;                 // rows of A in a tile
constexpr int64_t kTileColumns = 16;              // columns of B in a tile
constexpr int64_t kTileSteps = 32;                // steps of the sums in a tile
constexpr int64_t kTileNumbers = 512;             // bfloat16 numbers in a tile of B
constexpr int64_t kPairWidth = 2 * kTileColumns;  // columns of a panel, which are two tiles

// 32 steps of a panel's sums: where in the row of A they begin, and how many of the panel's two tiles take part.
struct Bf16Step {
  int64_t offset;  // numbers from the start of the row
  int64_t tiles;
};

// Output columns [column, column + columns), whose weights are tiles one after another, step by step.
struct Bf16Panel {
  int64_t column, columns;
  int64_t first_step, num_steps;
  int64_t weights;  // tiles before the first one
};

// B of a product C = A B of bfloat16 numbers. A's rows are as long as whole tiles, with numbers after the last step that
// are finite, because they are multiplied by weights of 0.
struct Bf16Matrix {
  int64_t columns = 0;
  std::vector<Bf16Step> steps;
  std::vector<Bf16Panel> panels;
  int64_t tiles = 0;
  int64_t parts = 1;        // bfloat16 numbers that a number is the sum of
  int64_t part_stride = 0;  // numbers from part to part in a row of A
  AlignedFloats data;       // [tiles, parts, kTileNumbers], two in a float

  const Bf16* tile(int64_t t) const { return reinterpret_cast<const Bf16*>(data.get()) + t * parts * kTileNumbers; }
  Bf16* tile(int64_t t) { return reinterpret_cast<Bf16*>(data.get()) + t * parts * kTileNumbers; }
};

// The same, where numbers are sums of three bfloat16 numbers, which together have the precision of float32.
struct SplitMatrix : Bf16Matrix {};

// Returns the distance of rows of activations, in numbers: whole panels, and one cache line more, as in row_stride.
inline int64_t bf16_stride(int64_t columns) {
  return (columns + kPairWidth - 1) / kPairWidth * kPairWidth + kPairWidth;
}

// Returns how far apart the parts of a row of `columns` numbers are.
inline int64_t split_part(int64_t columns) { return bf16_stride(columns); }

// Writes the parts of a number to out[0], out[stride] and so on.
inline void split(float x, int64_t parts, Bf16* out, int64_t stride) {
  for (int64_t p = 0; p < parts; ++p) {
    out[p * stride] = to_bf16(x);
    x -= to_float(out[p * stride]);
  }
}

// The place of step k (of 32) and column n (of 16) in a tile.
inline int64_t place_in_tile(int64_t k, int64_t n) { return (k / 2) * 2 * kTileColumns + 2 * n + k % 2; }

// Packs a matrix in which columns may take part in different runs, which must be in order of their offsets. source:
// as for `pack`. A tile of 32 steps is left out where no column takes part in any of its steps.
template <typename Matrix = Bf16Matrix, typename Source>
Matrix pack_bf16(
    int64_t columns, const std::vector<Run>& runs, const Source& source, int64_t parts = 1, int64_t part_stride = 0) {
  Matrix packed;
  packed.columns = columns;
  packed.parts = parts;
  packed.part_stride = part_stride;
  int64_t end = 0;
  for (const Run& run : runs) end = std::max(end, run.offset + run.length);
  const int64_t chunks = (end + kTileSteps - 1) / kTileSteps, count = static_cast<int64_t>(runs.size());
  const int64_t panels = (columns + kPairWidth - 1) / kPairWidth;
  std::vector<int64_t> first_tile(panels * chunks, -1);  // of each panel and chunk
  for (int64_t p = 0; p < panels; ++p) {
    Bf16Panel panel{
        .column = p * kPairWidth,
        .columns = std::min(kPairWidth, columns - p * kPairWidth),
        .first_step = static_cast<int64_t>(packed.steps.size()),
        .num_steps = 0,
        .weights = packed.tiles,
    };
    std::vector<int64_t> active(chunks, 0);
    for (int64_t run = 0; run < count; ++run) {
      if (runs[run].length == 0) continue;
      int64_t tiles = 0;
      for (int64_t i = 0; i < panel.columns; ++i) {
        if (source(run, panel.column + i).weights != nullptr) tiles = i / kTileColumns + 1;
      }
      const int64_t last = (runs[run].offset + runs[run].length - 1) / kTileSteps;
      for (int64_t c = runs[run].offset / kTileSteps; c <= last; ++c) active[c] = std::max(active[c], tiles);
    }
    for (int64_t c = 0; c < chunks; ++c) {
      if (active[c] == 0) continue;
      first_tile[p * chunks + c] = packed.tiles;
      packed.steps.push_back({c * kTileSteps, active[c]});
      packed.tiles += active[c];
      ++panel.num_steps;
    }
    packed.panels.push_back(panel);
  }
  packed.data = aligned_floats(packed.tiles * parts * kTileNumbers / 2);
  std::memset(packed.data.get(), 0, packed.tiles * parts * kTileNumbers * sizeof(Bf16));
  for (int64_t p = 0; p < panels; ++p) {
    const Bf16Panel& panel = packed.panels[p];
    for (int64_t run = 0; run < count; ++run) {
      for (int64_t i = 0; i < panel.columns; ++i) {
        const RunWeights from = source(run, panel.column + i);
        if (from.weights == nullptr) continue;
        for (int64_t k = 0; k < runs[run].length; ++k) {
          const int64_t at = runs[run].offset + k;
          Bf16* tile = packed.tile(first_tile[p * chunks + at / kTileSteps] + i / kTileColumns);
          split(
              from.weights[k * from.stride] * from.scale, parts,
              tile + place_in_tile(at % kTileSteps, i % kTileColumns), kTileNumbers);
        }
      }
    }
  }
  return packed;
}

// Returns a matrix of `steps` steps in which every column takes part in every step. Its tiles are not set.
template <typename Matrix = Bf16Matrix>
Matrix dense_tiles(int64_t columns, int64_t steps, int64_t parts = 1, int64_t part_stride = 0) {
  Matrix packed;
  packed.columns = columns;
  packed.parts = parts;
  packed.part_stride = part_stride;
  const int64_t chunks = (steps + kTileSteps - 1) / kTileSteps;
  for (int64_t column = 0; column < columns; column += kPairWidth) {
    const int64_t count = std::min(kPairWidth, columns - column), tiles = (count + kTileColumns - 1) / kTileColumns;
    packed.panels.push_back({
        .column = column,
        .columns = count,
        .first_step = static_cast<int64_t>(packed.steps.size()),
        .num_steps = chunks,
        .weights = packed.tiles,
    });
    for (int64_t c = 0; c < chunks; ++c) packed.steps.push_back({c * kTileSteps, tiles});
    packed.tiles += chunks * tiles;
  }
  packed.data = aligned_floats(packed.tiles * parts * kTileNumbers / 2);
  return packed;
}

// Packs B[k, n] = value(k, n) of `steps` rows k and `columns` columns n, with panels in parallel.
template <typename Matrix = Bf16Matrix, typename Value>
Matrix pack_dense_bf16(int64_t columns, int64_t steps, const Value& value, int64_t parts = 1, int64_t part_stride = 0) {
  Matrix packed = dense_tiles<Matrix>(columns, steps, parts, part_stride);
  parallel(static_cast<int64_t>(packed.panels.size()), 4, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      const Bf16Panel& panel = packed.panels[p];
      Bf16* out = packed.tile(panel.weights);
      for (int64_t s = 0; s < panel.num_steps; ++s) {
        const Bf16Step& step = packed.steps[panel.first_step + s];
        for (int64_t t = 0; t < step.tiles; ++t, out += parts * kTileNumbers) {
          for (int64_t n = 0; n < kTileColumns; ++n) {
            const int64_t column = panel.column + t * kTileColumns + n;
            for (int64_t k = 0; k < kTileSteps; ++k) {
              const bool there = column < columns && step.offset + k < steps;
              const float number = there ? value(step.offset + k, column) : 0.0f;
              split(number, parts, out + place_in_tile(k, n), kTileNumbers);
            }
          }
        }
      }
    }
  });
  return packed;
}

// Packs B[k, n] = weights[n * row_stride + k * step_stride] by the kernels in use, of which one stride should be 1.
Bf16Matrix pack_matrix_bf16(
    int64_t columns, int64_t steps, const float* weights, int64_t row_stride, int64_t step_stride);

// Sizes of both factors of a product A^T B that sums over `rows` rows (bf16_outer.h), in numbers. The transposed A has
// rows as long as whole tiles, and an odd number of cache lines from one to the next, because rows 4 kB apart would share
// few sets of the cache.
inline int64_t outer_chunks(int64_t rows) { return (rows + kTileSteps - 1) / kTileSteps; }
inline int64_t transposed_stride(int64_t rows) { return (outer_chunks(rows) | 1) * kTileSteps; }
inline int64_t transposed_size(int64_t rows, int64_t columns) {
  return (columns + 2 * kTileRows - 1) / (2 * kTileRows) * (2 * kTileRows) * transposed_stride(rows);
}
inline int64_t paired_size(int64_t rows, int64_t columns) {
  return outer_chunks(rows) * ((columns + kPairWidth - 1) / kPairWidth) * 2 * kTileNumbers;
}

// The same as sums of three bfloat16 numbers, for rows of weights that lie one after another: B[k, n] =
// weights[n * steps + k].
inline SplitMatrix pack_split(int64_t columns, int64_t steps, const float* weights) {
  return pack_dense_bf16<SplitMatrix>(
      columns, steps, [=](int64_t k, int64_t n) { return weights[n * steps + k]; }, 3, split_part(steps));
}

}  // namespace xmae_fast
