"""Options and markers shared by all tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

# Before torch is loaded: waiting threads sleep instead of spinning, as other tests run beside (interpreted_runs.py).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A process of pytest-xdist, and what it starts, uses its share of the cores; tests of threads set their own number.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

import pytest
import torch

from tests.fixtures import clean_sim, in_process, scanned_here, sim  # noqa: F401 - fixtures
from tests.ops.instruction_sets import TABLES, on
from tests.ops.interpreted_runs import FILES, Runs
from xmae_fast import available


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        choices=["cpu", "triton", "cuda"],
        help="fail, instead of skipping, the tests that need this implementation when it cannot be used (repeatable)",
    )


# Files (or folders) that take more than a few seconds of a core; `make test-fast` leaves them out.
SLOW = (
    "benchmarks", "data/test_dataset_epochs.py", "data/test_fuzz.py", "data/test_overwriting.py",
    "data/test_remote_http.py", "data/test_repack_resume.py", "embedding/test_extraction.py",
    "embedding/test_ppg_bench_package.py", "embedding/test_sklearn.py", "model/test_transformers.py",
    "evaluation", "export",
    "model/stock/test_alterations.py", "model/test_cpu_changed_weights.py", "model/test_cpu_training.py",
    "model/frozen", "ops/cuda", "ops/test_triton_compiled.py", "ops/test_triton_interpreted.py",
    "ops/test_wrong.py", "package",
    "preparation/test_prepare.py", "preparation/test_prepare_resume.py", "reports/test_chromium.py",
    "training/test_lightning_trainer.py",
    "training/test_processes.py", "training/test_resume.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if any(item.path.is_relative_to(here / name) for name in SLOW):
            item.add_marker(pytest.mark.slow)
    if torch.cuda.is_available() or "cuda" in config.getoption("--require-backend"):
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:  # keywords hold names of folders too
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the interpreter's processes at once if their results will be asked for.

    With pytest-xdist every process collects all tests and one gets these: they start when their turn comes.
    """
    wanted = {item.callspec.params["name"] for item in session.items if item.name.startswith("test_interpreted[")}
    if wanted and importlib.util.find_spec("triton") is not None and not session.config.option.collectonly:
        session.config.stash[Runs.KEY] = runs = Runs([name for name in FILES if name in wanted])
        if "PYTEST_XDIST_WORKER" not in os.environ:
            runs.start_another()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if Runs.KEY in session.config.stash:
        session.config.stash[Runs.KEY].stop()


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


@pytest.fixture(params=TABLES)
def kernels(request: pytest.FixtureRequest):
    """Runs the test once on each table of CPU kernels; skipped where this processor lacks its instruction set."""
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
