"""Processes that run the files of tests/ops/interpreted while the session goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"
# The longest first, so that the last ones to run are short.
LONGEST = ("test_conv_stem.py", "test_model.py", "test_feed_forward.py")
FILES = sorted((path.name for path in FOLDER.glob("test_*.py")), key=lambda name: (name not in LONGEST, name))


class Runs:
    """One pytest process per file, taken in order by as many threads as `start_another` was called; daemons, so that a
    session that ends early does not wait for them."""

    KEY = pytest.StashKey["Runs"]()

    def __init__(self, names: list[str]) -> None:
        self._names, self._lock = list(names), threading.Lock()
        self._results: dict[str, Future] = {name: Future() for name in names}
        self._processes: list[subprocess.Popen] = []

    def start_another(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def result(self, name: str) -> subprocess.CompletedProcess:
        return self._results[name].result()

    def stop(self) -> None:
        """End what still runs."""
        with self._lock:
            self._names.clear()
        for process in self._processes:
            process.kill()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._names:
                    return
                name = self._names.pop(0)
            try:
                self._results[name].set_result(self._run(name))
            except OSError as error:
                self._results[name].set_exception(error)

    def _run(self, name: str) -> subprocess.CompletedProcess:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / name)]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=FOLDER.parents[2]
        ) as run:
            self._processes.append(run)
            out, err = run.communicate()
        return subprocess.CompletedProcess(command, run.returncode, out, err)
