"""A process of its own that answers JSON requests, a line each, and may crash without harm."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class WorkerProcess:
    """One process that runs `serve` of `module` (its full name); started when needed and again after a crash. Use with
    `with`."""

    module: str

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _ask(self, request: dict, ends: tuple[str, ...], progress: Callable[[int, int | None], object] | None = None):
        """The first answer with one of the fields `ends`; None where the process ended before. `progress(done, total)`
        hears of what comes before it."""
        process = self._started()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in process.stdout:
            answer = json.loads(line)
            if any(field in answer for field in ends):
                return answer
            if progress is not None and "done" in answer:
                progress(answer["done"], answer["total"])
        return None

    def _started(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            script = str(Path(__file__).with_name("main.py"))
            # One BLAS thread: little is multiplied, and idle ones would spin.
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", script, self.module],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            )  # fmt: skip
        return self._process

    def _stop(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
