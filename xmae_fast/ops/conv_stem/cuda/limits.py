"""Which calls the stem's CUDA C++ kernels serve.

The kernel for evaluation has one CTA for each sample. Those for training also serve evaluation where gradients of the
weights are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast.ops.conv_stem.params import StemParams
from xmae_fast.ops.conv_stem.several import MOST_VALUES

WIDTHS = (32, 64, 128)
MOST_SAMPLES = 1024  # of a signal, whose activations lie in one multiprocessor's shared memory
MOST_CHANNELS = 128  # that the stem returns
DTYPES = (torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (8, 0)
# Bytes of shared memory that a CTA needs at least, by the longest signal it takes: csrc/cuda/conv_stem/stem_plan.h.
SHARED_BYTES = {256: 67_072, 512: 99_840, 1024: 165_376}
TRAINED_CHANNELS = 32  # that a stem to be trained returns
MOST_TRAINED_SAMPLES = 2**20  # of a signal; up to here float32 tells rows of two levels apart
TRAIN_SHARED_BYTES = 148_352  # that a CTA of the training kernels takes at most


class Gpu(NamedTuple):
    """What the kernels ask of a GPU: its compute capability, and bytes of shared memory that a CTA may have."""

    capability: tuple[int, int]
    shared_bytes: int


def limit(
    params: StemParams,
    xs: Sequence[Tensor],
    compute: torch.dtype,
    *,
    training: bool,
    gradients: bool,
    x_gradients: bool = False,
    gpu: Gpu | None = None,
) -> str:
    """Why the kernels cannot serve a call; '' if they can.

    Args:
        params: the weights of one of the stems, which have the same widths.
        xs: [B, 1, L] of each stem.
        compute: the dtype of matrix products.
        training: whether the batch's statistics are used.
        gradients: whether gradients of weights will be asked for.
        x_gradients: whether gradients of x will be asked for.
        gpu: what the GPU is; None: it is not known.
    """
    if gpu is not None and gpu.capability < LEAST_CAPABILITY:
        least, got = ("{}.{}".format(*capability) for capability in (LEAST_CAPABILITY, gpu.capability))
        return f"the CUDA kernels need a GPU of compute capability {least} or later, and this one has {got}"
    if x_gradients:
        return "the CUDA kernels give no gradient of x"
    if compute not in DTYPES:
        allowed = "bfloat16 or float16 (by autocast, or a model of that dtype)"
        return f"the CUDA kernels compute in {allowed}, not in {compute}"
    widths = (params.lat1.shape[0], *params.red3to2.shape[:2])
    if widths != WIDTHS:
        return f"the CUDA kernels are made for widths {WIDTHS}, not {tuple(widths)}"
    S, L = params.head.weight.shape[0], max(x.shape[2] for x in xs)
    if training or gradients:
        return _limit_of_training(S, L, sum(x.numel() for x in xs), gpu)
    return _limit_of_evaluation(S, L, gpu)


def _limit_of_training(S: int, L: int, values: int, gpu: Gpu | None) -> str:
    if S != TRAINED_CHANNELS:
        return f"the CUDA kernels train stems that return {TRAINED_CHANNELS} channels, not {S}"
    if L > MOST_TRAINED_SAMPLES:
        return f"the CUDA kernels train on signals of at most {MOST_TRAINED_SAMPLES:,} samples, not {L:,}"
    if values >= MOST_VALUES:
        return f"x has {values:,} values and the CUDA kernels count up to 2^30"
    if gpu is not None and gpu.shared_bytes < TRAIN_SHARED_BYTES:
        return f"training needs {TRAIN_SHARED_BYTES:,} bytes of shared memory and this GPU has {gpu.shared_bytes:,}"
    return ""


def _limit_of_evaluation(S: int, L: int, gpu: Gpu | None) -> str:
    if S > MOST_CHANNELS:
        return f"the CUDA kernel returns at most {MOST_CHANNELS} channels, not {S}"
    if L > MOST_SAMPLES:
        return f"the CUDA kernel takes signals of at most {MOST_SAMPLES:,} samples, not {L:,}"
    need = next(need for most, need in SHARED_BYTES.items() if most >= L)
    if gpu is not None and need > gpu.shared_bytes:
        return f"signals of {L:,} samples need {need:,} bytes of shared memory and this GPU has {gpu.shared_bytes:,}"
    return ""


def gpu_of(device: torch.device) -> Gpu | None:
    """The GPU that `device` is; None if it is none."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return Gpu((properties.major, properties.minor), properties.shared_memory_per_block_optin)
