#include "cuda/conv_stem/stem_launch.cuh"

template struct xmae_fast::cuda::StemLaunch<xmae_fast::cuda::Half>;
