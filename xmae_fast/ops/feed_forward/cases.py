"""Cases of feed_forward."""

from __future__ import annotations

from xmae_fast.ops.cases import OpCases, cases, flat_rows
from xmae_fast.ops.feed_forward import FeedForwardParams, feed_forward, reference


def make_inputs(sizes, make):
    B, N, D, hidden = (sizes[key] for key in ("B", "N", "D", "F"))
    params = FeedForwardParams(
        make.normal(D, std=0.1, mean=1), make.normal(D, std=0.1),
        make.weight(hidden, D), make.normal(hidden, std=0.1), make.weight(D, hidden), make.normal(D, std=0.1),
    )  # fmt: skip
    x = make.normal(B, N, D)
    return {"x": flat_rows(x) if sizes.get("rows") == "flat" else x, "params": params}


CASES = OpCases(
    op="feed_forward",
    make_inputs=make_inputs,
    call=lambda inputs, impl: feed_forward(**inputs, impl=impl),
    oracle=lambda inputs: reference.feed_forward(**inputs, dropout_p=0.0),
    tests=cases(
        {"B": 2, "N": 25, "D": 64, "F": 256},
        {"B": 3, "N": 7, "D": 9, "F": 13},
        {"B": 1, "N": 1, "D": 1, "F": 1},
        {"B": 0, "N": 4, "D": 8, "F": 16},
        {"B": 4, "N": 16, "D": 16, "F": 16},
        {"B": 2, "N": 9, "D": 200, "F": 32, "rows": "flat"},
    ),
    benches=cases(
        {"B": 64, "N": 25, "D": 256, "F": 1024},
        {"B": 64, "N": 25, "D": 256, "F": 512},
        {"B": 1, "N": 25, "D": 256, "F": 1024},
    ),
    flops=lambda s: 4 * s["B"] * s["N"] * s["D"] * s["F"],
    bytes_moved=lambda s: 4 * (2 * s["B"] * s["N"] * s["D"] + 2 * s["D"] * s["F"]),
)
