"""Options and markers shared by all tests."""

from __future__ import annotations

import pytest
import torch

from tests.instruction_sets import SETS, on
from xmae_fast import available


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        choices=["cpu", "triton", "cuda"],
        help="fail, instead of skipping, the tests that need this implementation when it cannot be used (repeatable)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available() or "cuda" in config.getoption("--require-backend"):
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture
def need_impl(request: pytest.FixtureRequest):
    """need_impl(op, impl): skip where the implementation cannot be used, or fail if --require-backend names it."""

    def need(op: str, impl: str) -> None:
        usable, reason = available()[op][impl]
        if usable:
            return
        if impl in request.config.getoption("--require-backend"):
            pytest.fail(f"--require-backend={impl}: {reason}")
        pytest.skip(reason)

    return need


@pytest.fixture(params=SETS)
def kernels(request: pytest.FixtureRequest):
    """Runs the test once on the CPU kernels of each instruction set; skipped where this processor lacks it."""
    with on(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _restore_torch_state():
    """Tests may seed torch and change its threads; the next one starts from the same state."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
