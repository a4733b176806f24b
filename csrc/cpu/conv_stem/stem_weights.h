// The stem's weights as the operators receive them: one list of tensors, in the order of `flatten` in
// xmae_fast/ops/conv_stem/schema.py.
#pragma once

#include "cpu/base/tensors.h"

namespace xmae_fast {

constexpr int kConvs = 30;  // ConvNorms: 6 Inception blocks of 4, 2 down, 2 smooth, head, skip
constexpr int kMixes = 2 * kMerges;  // lat2, lat1, red3to2, red2to1
constexpr int kNorms = 4;   // gamma, beta, running mean, running variance
constexpr int kTrained = 2;  // the first of these; backward is given no others

struct StemWeights {
  std::vector<Tensor> tensors;  // [30 weights, lat2, lat1, red3to2, red2to1, 30 gammas, betas, and perhaps means, variances]
  bool has_running = false;
  Stem stem;

  const Tensor& weight(int conv) const { return tensors[conv]; }
  const Tensor& mix(int i) const { return tensors[kConvs + i]; }
  const Tensor& statistic(int kind, int conv) const { return tensors[kConvs + kMixes + kind * kConvs + conv]; }
};

// Raises unless the tensors are a stem's, with running statistics or (for backward) without.
StemWeights stem_weights(const std::vector<Tensor>& tensors);

}  // namespace xmae_fast
