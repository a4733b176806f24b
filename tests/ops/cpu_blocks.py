"""What the tests of feed_forward's and lag_attention's C++ kernels share."""

from __future__ import annotations

import pytest
import torch

from xmae_fast.ops.cases import all_cases, cases

CASES = {op: all_cases()[op] for op in ("feed_forward", "lag_attention")}
KERNELS = torch.ops.xmae_fast
# Sizes with several groups of rows, with fewer rows than threads want (so columns are split), and with one sample.
SPLITS = {
    "feed_forward": cases(
        {"B": 9, "N": 25, "D": 40, "F": 72}, {"B": 1, "N": 25, "D": 64, "F": 96}, {"B": 2, "N": 1, "D": 5, "F": 7}
    ),
    "lag_attention": cases(
        {"B": 7, "Nq": 25, "Nk": 15, "D": 48, "H": 4, "bias": "table"},
        {"B": 7, "Nq": 25, "Nk": "self", "D": 40, "H": 5, "bias": "none"},
        {"B": 1, "Nq": 25, "Nk": "self", "D": 64, "H": 4, "bias": "table"},
    ),
}
EVERY_SPLIT = [pytest.param(op, case, id=f"{op}-{case.name}") for op in CASES for case in SPLITS[op]]
