"""Cases of lag_attention: self and cross, without a table and with one, keys at a subset of the positions."""

from __future__ import annotations

import torch

from xmae_fast.ops.cases import OpCases, cases, flat_rows
from xmae_fast.ops.lag_attention import AttentionParams, lag_attention, reference
from xmae_fast.ops.lag_attention.tables import lag_seconds, window_table


def make_inputs(sizes, make):
    """sizes: B, Nq queries, Nk keys (a number: cross; "self"), D, H, bias "none" | "table" | "window"."""
    B, queries, keys, D, H, bias = (sizes[key] for key in ("B", "Nq", "Nk", "D", "H", "bias"))
    params = AttentionParams(
        make.normal(D, std=0.1, mean=1), make.normal(D, std=0.1),
        make.normal(D, std=0.1, mean=1), make.normal(D, std=0.1),
        make.weight(3 * D, D), make.normal(3 * D, std=0.1), make.weight(D, D), make.normal(D, std=0.1),
    )  # fmt: skip
    inputs = {"x": make.normal(B, queries, D), "key_value": None, "params": params, "num_heads": H}
    if keys == "self":
        inputs["params"] = params._replace(norm_kv_weight=None, norm_kv_bias=None)
    else:
        inputs["key_value"] = make.normal(B, keys, D)
        inputs["key_pos"] = make.ids(B, queries, keys)[0]
    if sizes.get("rows") == "flat":
        inputs["x"], inputs["key_value"] = flat_rows(inputs["x"]), flat_rows(inputs["key_value"])
    if bias == "table":
        inputs["bias_table"] = make.normal(H, 2 * queries - 1)
    if bias == "window":  # narrow, so that some queries have no admissible key
        inputs["bias_table"] = window_table(lag_seconds(queries, 0.4), 0.3, 1.3, H).to(make.device, make.dtype)
    return inputs


def oracle(inputs):
    x, kv = inputs["x"], inputs["key_value"]
    query_pos = torch.arange(x.shape[1], device=x.device)[None]
    key_pos = inputs.get("key_pos", query_pos)
    table = inputs.get("bias_table")
    return reference.lag_attention(
        x, kv, inputs["params"], inputs["num_heads"], table, query_pos, key_pos, dropout_p=0.0
    )


def flops(s):
    keys = s["Nq"] if s["Nk"] == "self" else s["Nk"]
    projections = 2 * s["Nq"] * s["D"] ** 2 + 2 * keys * s["D"] ** 2
    return 2 * s["B"] * (projections + 2 * s["Nq"] * keys * s["D"])


CASES = OpCases(
    op="lag_attention",
    make_inputs=make_inputs,
    call=lambda inputs, impl: lag_attention(**inputs, impl=impl),
    oracle=oracle,
    tests=cases(
        {"B": 2, "Nq": 25, "Nk": "self", "D": 64, "H": 4, "bias": "none"},
        {"B": 3, "Nq": 25, "Nk": 25, "D": 32, "H": 2, "bias": "none"},
        {"B": 2, "Nq": 25, "Nk": 15, "D": 32, "H": 2, "bias": "table"},
        {"B": 2, "Nq": 13, "Nk": 4, "D": 24, "H": 3, "bias": "window"},
        {"B": 2, "Nq": 5, "Nk": "self", "D": 8, "H": 8, "bias": "table"},
        {"B": 1, "Nq": 1, "Nk": 1, "D": 4, "H": 1, "bias": "table"},
        {"B": 0, "Nq": 6, "Nk": 3, "D": 8, "H": 2, "bias": "table"},
        {"B": 2, "Nq": 6, "Nk": 0, "D": 8, "H": 2, "bias": "none"},
        {"B": 2, "Nq": 33, "Nk": 33, "D": 32, "H": 2, "bias": "window"},
        {"B": 2, "Nq": 9, "Nk": 7, "D": 200, "H": 2, "bias": "none", "rows": "flat"},
    ),
    benches=cases(
        {"B": 64, "Nq": 25, "Nk": "self", "D": 256, "H": 8, "bias": "none"},
        {"B": 64, "Nq": 25, "Nk": 25, "D": 256, "H": 8, "bias": "none"},
        {"B": 64, "Nq": 25, "Nk": 25, "D": 256, "H": 8, "bias": "table"},
        {"B": 64, "Nq": 100, "Nk": 100, "D": 256, "H": 8, "bias": "table"},
    ),
    flops=flops,
    bytes_moved=lambda s: 4 * (s["B"] * 3 * s["Nq"] * s["D"] + 4 * s["D"] ** 2),
)
