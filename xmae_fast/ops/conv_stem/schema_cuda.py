"""Schema and limits of the stem's CUDA C++ kernel (csrc/cuda/conv_stem.cu): evaluation, one CTA per sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast.ops.conv_stem.params import StemParams
from xmae_fast.ops.conv_stem.schema import CONVS, flatten

WIDTHS = (32, 64, 128)
MOST_SAMPLES = 1024  # of a signal: its activations lie in one multiprocessor's shared memory
MOST_CHANNELS = 128  # that the stem returns
DTYPES = (torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (8, 0)
# Bytes of shared memory that a CTA needs at least, by the longest signal it takes; as csrc/cuda/stem_plan.h has them.
SHARED_BYTES = {256: 67_072, 512: 99_840, 1024: 165_376}


class Gpu(NamedTuple):
    """What the kernel asks of a GPU: its compute capability, and bytes of shared memory that a CTA may have."""

    capability: tuple[int, int]
    shared_bytes: int


_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define(
    "conv_stem_eval_cuda(Tensor x, Tensor[] weights, Tensor? ids_keep, int patch_len, ScalarType compute) -> Tensor"
)


@torch.library.register_fake("xmae_fast::conv_stem_eval_cuda")
def _(x, weights, ids_keep, patch_len, compute):
    L = x.shape[2] if ids_keep is None else ids_keep.shape[1] * patch_len
    return x.new_empty((x.shape[0], L, weights[CONVS - 1].shape[0]), dtype=compute)


def limit(
    params: StemParams,
    L: int,
    compute: torch.dtype,
    *,
    training: bool,
    gradients: bool,
    gpu: Gpu | None = None,
) -> str:
    """Why the kernel cannot serve a call; '' if it can.

    Args:
        L: samples of one signal.
        compute: the dtype of matrix products.
        gpu: None: not known.
    """
    if gpu is not None and gpu.capability < LEAST_CAPABILITY:
        least, got = ("{}.{}".format(*capability) for capability in (LEAST_CAPABILITY, gpu.capability))
        return f"the CUDA kernel needs a GPU of compute capability {least} or later, and this one has {got}"
    if training:
        return "the CUDA kernel evaluates with running statistics only"
    if gradients:
        return "the CUDA kernel has no backward (call it under torch.no_grad)"
    if compute not in DTYPES:
        allowed = "bfloat16 or float16 (by autocast, or a model of that dtype)"
        return f"the CUDA kernel computes in {allowed}, not in {compute}"
    widths = (params.lat1.shape[0], *params.red3to2.shape[:2])
    if widths != WIDTHS:
        return f"the CUDA kernel is made for widths {WIDTHS}, not {tuple(widths)}"
    if (S := params.head.weight.shape[0]) > MOST_CHANNELS:
        return f"the CUDA kernel returns at most {MOST_CHANNELS} channels, not {S}"
    if L > MOST_SAMPLES:
        return f"the CUDA kernel takes signals of at most {MOST_SAMPLES:,} samples, not {L:,}"
    need = next(need for most, need in SHARED_BYTES.items() if most >= L)
    if gpu is not None and need > gpu.shared_bytes:
        return f"signals of {L:,} samples need {need:,} bytes of shared memory and this GPU has {gpu.shared_bytes:,}"
    return ""


def gpu_of(device: torch.device) -> Gpu:
    """Of a CUDA device."""
    properties = torch.cuda.get_device_properties(device)
    return Gpu((properties.major, properties.minor), properties.shared_memory_per_block_optin)


def evaluate(
    x: Tensor, params: StemParams, compute: torch.dtype, ids_keep: Tensor | None = None, patch_len: int = 1
) -> Tensor:
    """Features [B, L, S] in `compute`, of x [B, 1, L] or of its visible patches side by side.

    Args:
        ids_keep: [B, Nk] int64, visible patches of `patch_len` samples in 0..L / patch_len - 1; they are not checked.
    """
    weights = flatten(params)
    if any(weight.dtype != torch.float32 or not weight.is_contiguous() for weight in weights):
        sizes = [weight.numel() for weight in weights]
        flat = torch.cat([weight.reshape(-1) for weight in weights]).float()  # two launches, not one for each
        weights = [part.view(weight.shape) for part, weight in zip(flat.split(sizes), weights, strict=True)]
    x = x.contiguous() if x.dtype in (torch.float32, compute) else x.float().contiguous()
    ids_keep = None if ids_keep is None else ids_keep.contiguous()
    return torch.ops.xmae_fast.conv_stem_eval_cuda(x, weights, ids_keep, patch_len, compute)
