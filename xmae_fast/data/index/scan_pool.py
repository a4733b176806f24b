"""Scans several shards at once, each in a process that may crash without harm."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from xmae_fast.data.formats.layout import Layout
from xmae_fast.workers.pool import run_jobs
from xmae_fast.workers.process import WorkerProcess
from xmae_fast.workers.progress import Progress

_ERRORS = {kind.__name__: kind for kind in (FileNotFoundError, PermissionError, BlockingIOError, OSError)}


class ScanWorker(WorkerProcess):
    """A process that scans one shard after the other."""

    module = "xmae_fast.data.index.scan_worker"

    def scan(self, path: str, layout: Layout, targets: Sequence[Path], progress: Progress | None = None) -> Path:
        """Scan a shard and write its index.

        Args:
            path: the shard.
            layout: the shard's layout.
            targets: where the index may be written; the first one that can be written is taken.
            progress: is called with (path, records that are done, records in all or None).

        Returns:
            The path of the index.

        Raises:
            FileNotFoundError, ValueError: as `scan_shard` raises them; ValueError also where the process ended before
                it had an answer.
            OSError: none of `targets` can be written.
        """
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
    """Scan several shards, each on one of `num_workers` processes.

    Args:
        jobs: pairs of a shard and the places where its index may be written; each shard comes once.
        layout: the layout of all shards.
        num_workers: how many processes work at the same time, at least 1.
        progress: is called with (shard, records that are done, records in all or None).

    Returns:
        By shard the path of its index, or the ValueError or OSError that says why it has none.

    Raises:
        Exception: any other error ends the call; see `run_jobs`.
    """

    def scan(worker: ScanWorker, job: tuple[str, Sequence[Path]], tell: Progress | None) -> Path | Exception:
        path, targets = job
        try:
            return worker.scan(path, layout, targets, tell)
        except (ValueError, OSError) as error:
            return error

    outcomes = run_jobs(jobs, num_workers, ScanWorker, scan, progress)
    return {path: outcome for (path, _), outcome in zip(jobs, outcomes, strict=True)}
