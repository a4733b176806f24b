"""Scans several shards at once, each in a process that may crash without harm."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, Queue

from xmae_fast.data.layout import Layout

_ERRORS = {"FileNotFoundError": FileNotFoundError, "PermissionError": PermissionError, "OSError": OSError}
Progress = Callable[[str, int, int | None], None]  # shard, records done, records in all if known


class ScanWorker:
    """One scanning process, started when needed and again after a crash. Use as a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "ScanWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def scan(self, path: str, layout: Layout, targets: Sequence[Path], progress: Progress | None = None) -> Path:
        """Scan a shard and write its index to the first of `targets` that can be written; that one is returned.
        Raises what `scan_shard` raises, and ValueError where the process ended in the middle."""
        request = {"path": path, "layout": asdict(layout), "targets": [str(target) for target in targets]}
        try:
            answer = self._ask(request, progress)
        except BaseException:
            self._stop()  # its next answer would still be to this request
            raise
        if answer is None:
            code = self._stop()
            raise ValueError(
                f"shard {path}: expected a readable HDF5 file, but reading it ended the process (code {code})"
            )
        if "error" in answer:
            raise _ERRORS.get(answer["kind"], ValueError)(answer["error"])
        return Path(answer["target"])

    def _ask(self, request: dict, progress: Progress | None) -> dict | None:
        """The last answer to a request; None where the process ended before."""
        process = self._started()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        for line in process.stdout:
            answer = json.loads(line)
            if "target" in answer or "error" in answer:
                return answer
            if progress is not None and "done" in answer:
                progress(request["path"], answer["done"], answer["total"])
        return None

    def _started(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            script = str(Path(__file__).with_name("scan_worker.py"))
            # One BLAS thread: nothing is multiplied, and idle ones would spin.
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", script],
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


def scan_all(
    jobs: Sequence[tuple[str, Sequence[Path]]], layout: Layout, num_workers: int, progress: Progress | None = None
) -> dict[str, Path | Exception]:
    """Scan (shard, targets) pairs on `num_workers` processes; what became of each shard: its index, or the error."""
    waiting: Queue[tuple[str, Sequence[Path]]] = Queue()
    for job in jobs:
        waiting.put(job)
    outcome: dict[str, Path | Exception] = {}

    def serve() -> None:
        with ScanWorker() as worker:
            while True:
                try:
                    path, targets = waiting.get_nowait()
                except Empty:
                    return
                try:
                    outcome[path] = worker.scan(path, layout, targets, progress)
                except (ValueError, OSError) as error:
                    outcome[path] = error

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(num_workers, len(jobs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome
