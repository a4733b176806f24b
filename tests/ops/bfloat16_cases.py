"""The cases of the operators that have bfloat16 kernels for inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from xmae_fast.ops.cases import Maker, OpCases, Sizes, all_cases
from xmae_fast.ops.conv_stem import reference
from xmae_fast.testing.numerics import _map_tensors

OPS = ("conv_stem", "patch_embed", "feed_forward", "lag_attention")


def _seasoned(sizes: Sizes, make: Maker) -> dict[str, Any]:
    """Inputs of conv_stem whose running statistics are those of the layers' activations.

    With statistics that say nothing of the activations, SiLU shrinks them from layer to layer, and an error on the
    coarser levels does not show in the result.
    """
    inputs = ALL["conv_stem"].make_inputs(sizes, make)
    params = _map_tensors(lambda x: x.float() if x.is_floating_point() else x, inputs["params"])
    x = torch.randn(4, 1, 64, generator=make.generator)
    for _ in range(30):
        reference.conv_stem(x, params, True)
    return inputs | {"params": _map_tensors(lambda x: x.to(make.dtype) if x.is_floating_point() else x, params)}


ALL = all_cases()
CASES: dict[str, OpCases] = {op: ALL[op] for op in OPS}
CASES["conv_stem"] = replace(ALL["conv_stem"], make_inputs=_seasoned)
