"""Cases of token_gather: visible patches, bridge queries and restored tokens, in one call."""

from __future__ import annotations

from xmae_fast.ops import token_gather
from xmae_fast.ops.cases import OpCases, cases
from xmae_fast.ops.token_gather import reference


def make_inputs(sizes, make):
    B, N, kept, P, D = (sizes[key] for key in ("B", "N", "Nk", "P", "D"))
    ids_keep, ids_restore = make.ids(B, N, kept)
    return {
        "signal": make.normal(B, 1, N * P),
        "tokens": make.normal(B, kept, D),
        "pos": make.normal(1, N, D),
        "mask_loc": make.normal(N, D),
        "mask_token": make.normal(1, 1, D),
        "ids_keep": ids_keep,
        "ids_restore": ids_restore,
        "patch_len": P,
    }


def _outputs(functions, x, **impl):
    return (
        functions.gather_patches(x["signal"], x["ids_keep"], x["patch_len"], **impl),
        functions.assemble_queries(x["tokens"], x["ids_keep"], x["pos"], x["mask_loc"], **impl),
        functions.restore_tokens(x["tokens"], x["ids_restore"], x["mask_token"], x["pos"], **impl),
        functions.masked_samples(x["ids_restore"], x["tokens"].shape[1], x["patch_len"], x["signal"].dtype, **impl),
    )


CASES = OpCases(
    op="token_gather",
    make_inputs=make_inputs,
    call=lambda inputs, impl: _outputs(token_gather, inputs, impl=impl),
    oracle=lambda inputs: _outputs(reference, inputs),
    tests=cases(
        {"B": 3, "N": 25, "Nk": 5, "P": 40, "D": 16},
        {"B": 2, "N": 7, "Nk": 7, "P": 3, "D": 5},
        {"B": 2, "N": 7, "Nk": 0, "P": 3, "D": 5},
        {"B": 1, "N": 1, "Nk": 1, "P": 1, "D": 1},
        {"B": 0, "N": 5, "Nk": 2, "P": 4, "D": 8},
        {"B": 4, "N": 8, "Nk": 4, "P": 8, "D": 8},
    ),
    benches=cases({"B": 64, "N": 25, "Nk": 5, "P": 40, "D": 256}, {"B": 64, "N": 100, "Nk": 20, "P": 10, "D": 256}),
    flops=lambda s: 3 * s["B"] * s["N"] * s["D"],
    bytes_moved=lambda s: 4 * s["B"] * (2 * s["Nk"] * s["P"] + s["N"] * s["P"] + 2 * (s["N"] + s["Nk"]) * s["D"]),
)
