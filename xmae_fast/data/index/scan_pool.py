"""Scans several shards at once, each in a process that may crash without harm."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import Empty, Queue

from xmae_fast.data.formats.layout import Layout
from xmae_fast.workers.process import WorkerProcess

_ERRORS = {"FileNotFoundError": FileNotFoundError, "PermissionError": PermissionError, "OSError": OSError}
Progress = Callable[[str, int, int | None], None]  # shard, records done, records in all if known


class ScanWorker(WorkerProcess):
    """One scanning process."""

    module = "xmae_fast.data.index.scan_worker"

    def scan(self, path: str, layout: Layout, targets: Sequence[Path], progress: Progress | None = None) -> Path:
        """Scan a shard and write its index to the first of `targets` that can be written; that one is returned.
        Raises what `scan_shard` raises, and ValueError where the process ended in the middle."""
        request = {"path": path, "layout": asdict(layout), "targets": [str(target) for target in targets]}
        try:
            tell = None if progress is None else partial(progress, path)
            answer = self._ask(request, ("target", "error"), tell)
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
