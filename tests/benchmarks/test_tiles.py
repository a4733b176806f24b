"""The study of tile heights stops where two tables of kernels differ."""

from __future__ import annotations

import pytest
import torch

from benchmarks.studies import tiles
from xmae_fast.backend import cpu_kernels


def test_different_results_are_refused(need_impl):
    need_impl("conv_stem", "cpu")
    tables = ["baseline", cpu_kernels()]
    tiles.check("same", tables, lambda: [torch.tensor([1.0, 2.0])])
    if cpu_kernels() == "baseline":
        pytest.skip("this processor runs one table")
    with pytest.raises(SystemExit, match=f"other: the results of {tables[1]} are not those of baseline"):
        tiles.check("other", tables, lambda: [torch.ones(2), torch.tensor(float(cpu_kernels() == "baseline"))])
