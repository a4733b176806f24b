"""Cases of random_masking: the counter-based stream with a given seed, so that results can be compared bit for bit."""

from __future__ import annotations

import torch

from xmae_fast.ops.cases import OpCases, cases
from xmae_fast.ops.random_masking import MODES, masks_from_seed, reference


def make_inputs(sizes, make):
    seed = torch.randint(-(2**62), 2**62, (2,), generator=make.generator).to(make.device)
    return {"seed": seed, **sizes}


CASES = OpCases(
    op="random_masking",
    make_inputs=make_inputs,
    call=lambda inputs, impl: tuple(masks_from_seed(**inputs, impl=impl)),
    oracle=lambda inputs: reference.masks_philox(**inputs),
    tests=cases(
        *(
            {"B": B, "N": N, "k": k, "mode": mode}
            for mode in MODES
            for B, N, k in (
                (64, 25, 20),
                (3, 1, 0),
                (3, 1, 1),
                (0, 25, 20),
                (5, 300, 270),
                (33, 17, 5),
                (7, 29, 20),
                (6, 32, 12),
                (5, 33, 12),
                (9, 257, 0),
                (2, 4, 4),
            )
        )
    ),
    benches=cases(
        *({"B": 512, "N": 25, "k": 20, "mode": mode} for mode in MODES),
        {"B": 512, "N": 250, "k": 200, "mode": "scatter"},
    ),
    flops=lambda s: 0,
    bytes_moved=lambda s: s["B"] * (s["N"] * 9 + (s["N"] - s["k"]) * 8),
    exact=True,
    differentiable=False,
)
