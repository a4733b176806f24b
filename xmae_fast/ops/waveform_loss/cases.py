"""Cases of waveform_loss."""

from __future__ import annotations

from xmae_fast.ops.cases import OpCases, cases
from xmae_fast.ops.token_gather.reference import masked_samples
from xmae_fast.ops.waveform_loss import reference, waveform_loss


def make_inputs(sizes, make):
    B, N, kept, P, D = (sizes[key] for key in ("B", "N", "Nk", "P", "D"))
    _, ids_restore = make.ids(B, N, kept)
    return {
        "tokens": make.normal(B, N, D),
        "weight": make.normal(D, 1, P, std=D**-0.5),
        "bias": make.normal(1),
        "target": make.normal(B, 1, N * P),
        "mask": masked_samples(ids_restore, kept, P, make.dtype),
    }


CASES = OpCases(
    op="waveform_loss",
    make_inputs=make_inputs,
    call=lambda inputs, impl: waveform_loss(**inputs, impl=impl),
    oracle=lambda inputs: reference.waveform_loss(**inputs),
    tests=cases(
        {"B": 3, "N": 25, "Nk": 5, "P": 40, "D": 32},
        {"B": 2, "N": 7, "Nk": 0, "P": 5, "D": 9},
        {"B": 2, "N": 7, "Nk": 7, "P": 5, "D": 9},
        {"B": 1, "N": 1, "Nk": 0, "P": 1, "D": 1},
        {"B": 4, "N": 8, "Nk": 4, "P": 8, "D": 8},
        {"B": 0, "N": 4, "Nk": 2, "P": 8, "D": 8},
    ),
    benches=cases({"B": 64, "N": 25, "Nk": 5, "P": 40, "D": 256}),
    flops=lambda s: 2 * s["B"] * s["N"] * s["P"] * s["D"] + 4 * s["B"] * s["N"] * s["P"],
    bytes_moved=lambda s: 4 * s["B"] * s["N"] * (s["D"] + 2 * s["P"]),
    no_grad=("target", "mask"),
)
