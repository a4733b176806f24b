"""Triton's kernels in its interpreter, on the CPU: tests/interpreted, which needs processes of its own.

They run two at a time behind the tests of this module: the interpreter is slow and uses one core.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"
# The longest first, so that the last ones to run are short.
LONGEST = ("test_conv_stem.py", "test_model.py", "test_feed_forward.py")
FILES = sorted((path.name for path in FOLDER.glob("test_*.py")), key=lambda name: (name not in LONGEST, name))


@pytest.fixture(scope="module")
def runs(request):
    """The running or finished process of each file."""
    if importlib.util.find_spec("triton") is None:
        if "triton" in request.config.getoption("--require-backend"):
            pytest.fail("--require-backend=triton: triton is not installed")
        pytest.skip("triton is not installed (pip install xmae-fast[triton])")
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}

    def run(name: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / name)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[1])

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run, name) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_interpreted(name, runs: dict[str, Future]):
    done = runs[name].result()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
