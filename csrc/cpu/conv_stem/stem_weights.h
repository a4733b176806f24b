// The stem's weights as the operators receive them: a list of tensors in the order of `flatten` in
// xmae_fast/ops/conv_stem/schema.py.
#pragma once

#include "cpu/base/tensors.h"

namespace xmae_fast {

constexpr int kConvs = 30;           // with BatchNorm: 6 Inception blocks of 4, 2 down, 2 smooth, head, skip
constexpr int kMixes = 2 * kMerges;  // 1x1 convolutions between levels: lat2, lat1, red3to2, red2to1
constexpr int kNorms = 4;            // a BatchNorm's tensors: gamma, beta, running mean, running variance
constexpr int kTrained = 2;          // the first two of these; the backward gets no others

struct StemWeights {
  // 30 weights of convolutions, lat2, lat1, red3to2, red2to1, 30 gammas, 30 betas, and perhaps 30 running means and
  // variances
  std::vector<Tensor> tensors;
  bool has_running = false;
  Stem stem;

  const Tensor& weight(int conv) const { return tensors[conv]; }
  const Tensor& mix(int i) const { return tensors[kConvs + i]; }
  // kind: which of the kNorms tensors of a BatchNorm.
  const Tensor& statistic(int kind, int conv) const { return tensors[kConvs + kMixes + kind * kConvs + conv]; }
};

// Checks that the tensors are a stem's, with running statistics or, for the backward, without; raises otherwise.
StemWeights stem_weights(const std::vector<Tensor>& tensors);

}  // namespace xmae_fast
