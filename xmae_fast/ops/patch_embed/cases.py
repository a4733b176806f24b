"""Cases of patch_embed."""

from __future__ import annotations

from xmae_fast.ops.cases import OpCases, cases
from xmae_fast.ops.patch_embed import patch_embed, reference


def make_inputs(sizes, make):
    B, S, N, P, D = (sizes[key] for key in ("B", "S", "N", "P", "D"))
    return {
        "features": make.normal(B, S, N * P),
        "weight": make.weight(D, S, P),
        "bias": make.normal(D),
        "pos": make.normal(1, N, D),
    }


CASES = OpCases(
    op="patch_embed",
    make_inputs=make_inputs,
    call=lambda inputs, impl: patch_embed(**inputs, impl=impl),
    oracle=lambda inputs: reference.patch_embed(**inputs),
    tests=cases(
        {"B": 2, "S": 32, "N": 25, "P": 40, "D": 64},
        {"B": 3, "S": 3, "N": 7, "P": 5, "D": 9},
        {"B": 1, "S": 1, "N": 1, "P": 1, "D": 1},
        {"B": 2, "S": 8, "N": 8, "P": 8, "D": 8},
        {"B": 0, "S": 8, "N": 4, "P": 8, "D": 8},
    ),
    benches=cases({"B": 64, "S": 32, "N": 25, "P": 40, "D": 256}, {"B": 64, "S": 32, "N": 5, "P": 40, "D": 256}),
    flops=lambda s: 2 * s["B"] * s["N"] * s["S"] * s["P"] * s["D"],
    bytes_moved=lambda s: 4 * (s["B"] * s["N"] * (s["S"] * s["P"] + s["D"]) + s["S"] * s["P"] * s["D"]),
)
