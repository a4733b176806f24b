// Checks the stem's weights and describes them as units.

#include "cpu/conv_stem/stem_weights.h"

namespace xmae_fast {
namespace {

// Returns convolution `conv` with its BatchNorm.
ConvNorm conv_norm(const StemWeights& weights, int conv) {
  const Tensor& w = weights.weight(conv);
  STD_TORCH_CHECK(
      w.dim() == 3, "conv_stem: expected convolution weights [c_out, c_in, k], got ", w.dim(), " dimensions");
  const int64_t c_out = w.size(0);
  for (int kind = 0; kind < (weights.has_running ? kNorms : kTrained); ++kind) {
    STD_TORCH_CHECK(
        weights.statistic(kind, conv).numel() == c_out, "conv_stem: expected ", c_out,
        " numbers for each of BatchNorm's vectors of convolution ", conv, ", got ",
        weights.statistic(kind, conv).numel());
  }
  const auto running = [&](int kind) { return weights.has_running ? data(weights.statistic(kind, conv)) : nullptr; };
  return {
      .weight = data(w),
      .gamma = data(weights.statistic(0, conv)),
      .beta = data(weights.statistic(1, conv)),
      .mean = running(2),
      .var = running(3),
      .c_out = c_out,
      .k = w.size(2),
      .conv = conv,
  };
}

// Returns a unit of one convolution, number `conv`, that reads channels in the published order.
StemUnit single(const StemWeights& weights, int conv, int64_t window, int64_t stride, int64_t level) {
  StemUnit unit{};
  unit.parts[0] = conv_norm(weights, conv);
  unit.num_parts = unit.num_in = 1;
  unit.c_in = unit.in_size[0] = weights.weight(conv).size(1);
  unit.c_out = unit.parts[0].c_out;
  unit.window = window;
  unit.stride = stride;
  unit.level = level;
  STD_TORCH_CHECK(
      unit.parts[0].k == window, "conv_stem: expected a kernel of ", window, " samples, got ", unit.parts[0].k);
  return unit;
}

// Fills two units: the branches k = 3, 5, 7, which are convolutions conv, conv + 1 and conv + 2, and the convolution
// after them.
void inception(StemWeights& weights, int conv, int unit_index, int64_t level) {
  StemUnit& unit = weights.stem.units[unit_index];
  unit = single(weights, conv + 2, 7, 1, level);
  unit.num_parts = 3;
  unit.parts[1] = single(weights, conv + 1, 5, 1, level).parts[0];
  unit.parts[2] = single(weights, conv, 3, 1, level).parts[0];
  StemUnit& fuse = weights.stem.units[unit_index + 1];
  fuse = single(weights, conv + 3, 1, 1, level);
  fuse.num_in = 3;
  const int64_t n7 = unit.parts[0].c_out, n5 = unit.parts[1].c_out, n3 = unit.parts[2].c_out;
  unit.c_out = n7 + n5 + n3;
  const int64_t starts[] = {0, n7, n7 + n5}, sizes[] = {n7, n5, n3}, published[] = {n3 + n5, n3, 0};
  for (int i = 0; i < 3; ++i) {
    fuse.in_start[i] = starts[i];
    fuse.in_size[i] = sizes[i];
    fuse.in_published[i] = published[i];
    STD_TORCH_CHECK(weights.weight(conv + i).size(1) == unit.c_in, "conv_stem: expected branches of one input width");
  }
  STD_TORCH_CHECK(
      fuse.c_in == unit.c_out, "conv_stem: expected the fusing convolution to read ", unit.c_out, " channels, got ",
      fuse.c_in);
}

// Returns the weights of the i-th 1x1 convolution between levels.
const float* mix(const StemWeights& weights, int i, int64_t c_out, int64_t c_in) {
  const Tensor& w = weights.mix(i);
  STD_TORCH_CHECK(
      w.dim() == 3 && w.size(0) == c_out && w.size(1) == c_in && w.size(2) == 1,
      "conv_stem: expected a 1x1 convolution [", c_out, ", ", c_in, ", 1] between the levels");
  return data(w);
}

}  // namespace

StemWeights stem_weights(const std::vector<Tensor>& tensors) {
  constexpr size_t all = (1 + kNorms) * kConvs + kMixes, trained = (1 + kTrained) * kConvs + kMixes;
  STD_TORCH_CHECK(
      tensors.size() == all || tensors.size() == trained, "conv_stem: expected ", all, " or ", trained,
      " weights, got ", tensors.size());
  StemWeights weights{dense("conv_stem", "a weight", tensors), tensors.size() == all, {}};
  Stem& stem = weights.stem;
  int conv = 0;
  const int first_unit[] = {kEnc1, kEnc2, kEnc3};
  for (int level = 0; level < 3; ++level) {
    if (level > 0) stem.units[first_unit[level] - 1] = single(weights, conv++, 3, 2, level);
    for (int block = 0; block < 2; ++block, conv += 4) inception(weights, conv, first_unit[level] + 2 * block, level);
    stem.widths[level] = stem.units[first_unit[level]].c_out;
  }
  stem.units[kSmooth2] = single(weights, conv++, 3, 1, 1);
  stem.units[kSmooth1] = single(weights, conv++, 3, 1, 0);
  stem.units[kHead] = single(weights, conv++, 3, 1, 0);
  stem.skip = conv_norm(weights, conv++);
  stem.channels = stem.skip.c_out;
  const int64_t c1 = stem.widths[0], c2 = stem.widths[1], c3 = stem.widths[2];
  for (int m = 0; m < kMerges; ++m) {
    stem.lateral[m] = mix(weights, m, stem.fine(m), stem.fine(m));
    stem.reduce[m] = mix(weights, kMerges + m, stem.fine(m), stem.coarse(m));
  }
  const int64_t reads[kUnits] = {1, c1, c1, c1, c1, c2, c2, c2, c2, c2, c3, c3, c3, c3, c2, c1, c1};
  const int64_t writes[kUnits] = {c1, c1, c1, c1, c2, c2, c2, c2, c2, c3, c3, c3, c3, c3, c2, c1, stem.channels};
  for (int u = 0; u < kUnits; ++u) {
    STD_TORCH_CHECK(
        stem.units[u].c_in == reads[u] && stem.units[u].c_out == writes[u], "conv_stem: expected unit ", u, " to turn ",
        reads[u], " channels into ", writes[u], ", got ", stem.units[u].c_in, " and ", stem.units[u].c_out);
  }
  STD_TORCH_CHECK(
      weights.weight(kConvs - 1).size(1) == 1 && stem.skip.k == 1, "conv_stem: expected the skip path to be [S, 1, 1]");
  return weights;
}

}  // namespace xmae_fast
