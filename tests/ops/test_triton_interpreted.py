"""Triton's kernels in its interpreter, on the CPU: tests/ops/interpreted, which needs processes of its own.

The interpreter is slow and uses one core, so one such process runs from the start of the session, beside the other
tests, and a second one once this module's turn has come; with pytest-xdist, both once its turn has come.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import version

import numpy as np
import pytest

from tests.ops.interpreted_runs import FILES, Runs


@pytest.fixture(scope="module")
def runs(request) -> Runs:
    """The running or finished process of each file."""
    if importlib.util.find_spec("triton") is None:
        if "triton" in request.config.getoption("--require-backend"):
            pytest.fail("--require-backend=triton: triton is not installed")
        pytest.skip("triton is not installed (pip install xmae-fast[triton])")
    if version("triton").startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        why = "the interpreter of triton 3.6 needs numpy < 2.4 (`range` over an argument of a kernel)"
        (pytest.fail if "triton" in request.config.getoption("--require-backend") else pytest.skip)(why)
    found = request.config.stash[Runs.KEY]
    for _ in range(2 if "PYTEST_XDIST_WORKER" in os.environ else 1):
        found.start_another()
    return found


@pytest.mark.parametrize("name", FILES)
def test_interpreted(name, runs: Runs):
    done = runs.result(name)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
