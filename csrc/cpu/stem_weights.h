// The stem's weights as the operators receive them: one list of tensors, in the order of `flatten` in
// xmae_fast/ops/conv_stem/schema.py.
#pragma once

#include "tensors.h"

namespace xmae_fast {

constexpr int kConvs = 30;  // ConvNorms: 6 Inception blocks of 4, 2 down, 2 smooth, head, skip
constexpr int kMixes = 4;   // lat2, lat1, red3to2, red2to1
constexpr int kPerConv = 5; // weight, gamma, beta, running mean, running variance

struct StemWeights {
  std::vector<Tensor> tensors;  // [weights of the 30, lat2, lat1, red3to2, red2to1, gammas, betas, means, variances]
  Stem stem;

  const Tensor& weight(int conv) const { return tensors[conv]; }
  const Tensor& mix(int i) const { return tensors[kConvs + i]; }
  const Tensor& statistic(int kind, int conv) const { return tensors[kConvs + kMixes + kind * kConvs + conv]; }
};

// Raises unless the tensors are a stem's.
StemWeights stem_weights(const std::vector<Tensor>& tensors);

}  // namespace xmae_fast
