#include "cuda/conv_stem/train_launch.cuh"

template struct xmae_fast::cuda::TrainLaunch<xmae_fast::cuda::Bf16>;
