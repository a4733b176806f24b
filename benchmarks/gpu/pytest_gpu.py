"""A plugin for the GPU tests: a fault ends its process, not the tests after it; errors name the launch.

    python -m pytest -p benchmarks.gpu.pytest_gpu -n 8 [--launch-config [KERNEL=]N]

A fault in a kernel makes the GPU unusable for its process, and every later test in it would fail too. So the process
ends with the test; pytest-xdist reports the test as the one that crashed it and starts another process.
"""

from __future__ import annotations

import os
import sys

import pytest
import torch

from benchmarks.harness.choosing import parse_config
from benchmarks.harness.contest import culprit

FAULT = 70  # exit code


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--launch-config", action="append", default=[], metavar="[KERNEL=]N", help="as --config of run.py")


def pytest_configure(config: pytest.Config) -> None:
    for kernel, index in map(parse_config, config.getoption("--launch-config")):
        from xmae_fast.ops import _launch

        _launch.force_config(index, kernel)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = (yield).get_result()
    if call.excinfo is None or not report.failed:
        return
    if launch := culprit(call.excinfo.value):
        report.sections.append(("launch", launch))
    if "PYTEST_XDIST_WORKER" in os.environ and context_is_lost():
        told = f"{item.nodeid}: {call.excinfo.exconly()}; {launch or 'no launch is known'}"
        print(told, file=sys.stderr, flush=True)  # pytest-xdist throws away what its processes write to stdout
        os._exit(FAULT)


def context_is_lost() -> bool:
    """Whether a fault has made the GPU unusable for this process."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
