"""The C++ kernels of conv_stem as operators: their schemas, and the shapes of their results.

Weights come in the order of `params.flatten`. These kernels train one stem at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast.ops import _frozen
from xmae_fast.ops.conv_stem.params import CONVS, MIXES, TRAINED, WEIGHTS
from xmae_fast.ops.conv_stem.several import Training

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("conv_stem_eval(Tensor x, Tensor[] weights) -> Tensor")
_library.define("conv_stem_eval_bf16(Tensor x, Tensor[] weights) -> Tensor")
for _name in ("conv_stem_train", "conv_stem_train_bf16"):
    _library.define(f"{_name}(Tensor x, Tensor[] weights, bool batch_statistics) -> (Tensor, Tensor, Tensor[])")
for _name in ("conv_stem_backward", "conv_stem_backward_bf16"):
    _library.define(
        f"{_name}(Tensor grad, Tensor x, Tensor[] weights, Tensor statistics, Tensor[] kept,"
        " bool batch_statistics, bool want_x) -> Tensor[]"
    )


@torch.library.register_fake("xmae_fast::conv_stem_eval")
def _(x, weights):
    return x.new_empty((x.shape[0], x.shape[2], weights[CONVS - 1].shape[0]))


@torch.library.register_fake("xmae_fast::conv_stem_eval_bf16")
def _(x, weights):
    return x.new_empty((x.shape[0], x.shape[2], weights[CONVS - 1].shape[0]), dtype=torch.bfloat16)


def kept_shapes(L: int, channels: int, widths: tuple[int, int, int], whole: int = 1) -> list[tuple[int, int]]:
    """Rows and channels of one sample's kept activations, in the order of the kernels; channels are multiples of
    `whole`."""
    c1, c2, c3, channels = (-(-width // whole) * whole for width in (*widths, channels))
    L2 = (L + 1) // 2
    L3 = (L2 + 1) // 2
    units = [(L, c1)] * 4 + [(L2, c2)] * 5 + [(L3, c3)] * 5 + [(L2, c2), (L, c1), (L, channels)]
    return [*units, (L2, c2), (L, c1)]


def _train_shapes(x, weights, dtype, whole):
    B, _, L = x.shape
    S, c1 = weights[CONVS - 1].shape[0], weights[CONVS + 1].shape[0]
    c2, c3 = weights[CONVS + 2].shape[:2]
    kept = [x.new_empty((B, *shape), dtype=dtype) for shape in kept_shapes(L, S, (c1, c2, c3), whole)]
    channels = sum(weight.shape[0] for weight in weights[:CONVS])
    return x.new_empty((B, L, S), dtype=dtype), x.new_empty((4, channels)), kept


@torch.library.register_fake("xmae_fast::conv_stem_train")
def _(x, weights, batch_statistics):
    return _train_shapes(x, weights, x.dtype, 1)


@torch.library.register_fake("xmae_fast::conv_stem_train_bf16")
def _(x, weights, batch_statistics):
    return _train_shapes(x, weights, torch.bfloat16, 32)  # rows of whole panels


@torch.library.register_fake("xmae_fast::conv_stem_backward")
@torch.library.register_fake("xmae_fast::conv_stem_backward_bf16")
def _(grad, x, weights, statistics, kept, batch_statistics, want_x):
    return [*(torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights),
            x.new_empty((x.shape[0] if want_x else 0, 1, x.shape[2]))]  # fmt: skip


_EVAL = torch.ops.xmae_fast.conv_stem_eval.default
_EVAL_BF16 = torch.ops.xmae_fast.conv_stem_eval_bf16.default
_TRAIN = torch.ops.xmae_fast.conv_stem_train.default
_TRAIN_BF16 = torch.ops.xmae_fast.conv_stem_train_bf16.default
_BACKWARD = torch.ops.xmae_fast.conv_stem_backward.default
_BACKWARD_BF16 = torch.ops.xmae_fast.conv_stem_backward_bf16.default


def evaluate(x: Tensor, weights: list[Tensor], compute: torch.dtype) -> Tensor:
    """Features [B, L, S] in `compute`, of x [B, 1, L], by running statistics."""
    evaluate = _EVAL_BF16 if compute == torch.bfloat16 else _EVAL
    return _frozen.call(evaluate, weights[: CONVS + MIXES], x, weights)


def train(
    xs: Sequence[Tensor], weights: Sequence[Tensor], batch_statistics: bool, compute: torch.dtype
) -> tuple[tuple[Tensor], Tensor, tuple[Tensor, ...]]:
    """See `operators`."""
    (x,) = xs
    run = _TRAIN_BF16 if compute == torch.bfloat16 else _TRAIN
    features, statistics, kept = run(x, weights, batch_statistics)
    return (features,), statistics, (x, *weights[:TRAINED], statistics, *kept)


def backward(
    grads: Sequence[Tensor], saved: Sequence[Tensor], call: Training, want_x: bool
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """See `operators`."""
    x, *rest = saved
    weights, statistics, kept = rest[:TRAINED], rest[TRAINED], rest[TRAINED + 1 :]
    run = _BACKWARD_BF16 if kept[0].dtype == torch.bfloat16 else _BACKWARD
    *gradients, x_gradient = run(grads[0], x, weights, statistics, kept, call.batch_statistics, want_x)
    return [x_gradient if want_x else None], [*gradients, *[None] * (WEIGHTS - TRAINED)]
