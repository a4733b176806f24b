"""A process of its own that answers JSON requests, one on each line, and may crash without harm."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from xmae_fast._messages import LIBRARY
from xmae_fast.workers.progress import StageProgress


class WorkerProcess:
    """A process that runs the function `serve` of a module; see main.py.

    It is started when it is first needed, and again after a crash. Use it in a `with` statement, which ends it.

    Attributes:
        module: the full name of the module; subclasses set it.
    """

    module: str

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _ask(self, request: dict, ends: tuple[str, ...], progress: StageProgress | None = None):
        """Send a request and wait for its last answer.

        Args:
            request: what is sent as JSON.
            ends: an answer with one of these fields is the last one.
            progress: is called with the fields `done` and `total` of the answers that come before.

        Returns:
            The last answer; None if the process ended before.
        """
        requests, answers = _pipes(self._started())
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
        except BrokenPipeError:
            return None
        for line in answers:
            answer = json.loads(line)
            if any(field in answer for field in ends):
                return answer
            if progress is not None and "done" in answer:
                progress(answer["done"], answer["total"])
        return None

    def _started(self) -> subprocess.Popen:
        """The process, which is started if it does not run."""
        if self._process is None or self._process.poll() is not None:
            script = str(Path(__file__).with_name("main.py"))
            level = str(logging.getLogger(LIBRARY).level or logging.WARNING)
            # One BLAS thread: these processes multiply little, and idle threads would spin.
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            with _without_interrupts():
                self._process = subprocess.Popen(
                    [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", script, self.module, level],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
                )  # fmt: skip
        return self._process

    def _stop(self) -> int | None:
        """End the process; its exit code, or None if there was no process."""
        process, self._process = self._process, None
        if process is None:
            return None
        requests, answers = _pipes(process)
        with suppress(BrokenPipeError):
            requests.close()
        answers.close()
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that is started meanwhile gets no SIGINT: Ctrl-C reaches all processes of a terminal, and the one that
    has started the others ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pipes(process: subprocess.Popen) -> tuple[IO[str], IO[str]]:
    """The standard input and output of a process that was started with a pipe for each."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout
