#include "train_launch.cuh"

template struct xmae_fast::cuda::TrainLaunch<xmae_fast::cuda::Bf16>;
