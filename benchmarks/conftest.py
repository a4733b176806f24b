"""`pytest` runs the tests; `pytest --benchmark-only` runs these."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the benchmarks out unless they are asked for; timing has no place in a test run."""
    if collection_path.name.startswith("bench_") and not config.getoption("--benchmark-only", default=False):
        return True
    return None
