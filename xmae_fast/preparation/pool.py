"""Prepares several recordings at once, each in a process that may crash without harm."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xmae_fast.preparation.again import AGAIN
from xmae_fast.preparation.settings import Settings
from xmae_fast.recordings.names import ADDED
from xmae_fast.recordings.saying import printable
from xmae_fast.recordings.sources import Source
from xmae_fast.workers.pool import run_jobs
from xmae_fast.workers.process import WorkerProcess
from xmae_fast.workers.progress import Progress


class Job(NamedTuple):
    """A recording to prepare, the identity of the work (see `load_part`), and the file that its part is written to."""

    source: Source
    identity: str
    part: Path


class PrepareWorker(WorkerProcess):
    """A process that prepares one recording after the other."""

    module = "xmae_fast.preparation.worker"

    def prepare(self, job: Job, settings: Settings, progress: Progress | None) -> str:
        """Read a recording and write its part.

        Args:
            job: the recording.
            settings: what `prepare` was asked for.
            progress: is called with (the recording's name, windows that are done, windows in all).

        Returns:
            "" if the part is written, else what is wrong with the recording.

        Raises:
            OSError: the part cannot be written, or a package is missing.
        """

        def tell(done: int, total: int | None) -> None:
            if progress is not None:
                progress(printable(job.source.name), done, total)

        request = {
            "source": list(job.source),
            "settings": settings.to_json(),
            "identity": job.identity,
            "part": str(job.part),
            "names": ADDED,
        }
        answer = self._ask(request, ("part", "error", "fatal"), tell)
        if answer is None:
            code, form = self._stop(), job.source.form.name
            what = f"expected a readable file, but reading it ended the process (code {code})"
            again = f"; {AGAIN}" if code == -signal.SIGKILL else ""  # as the system does when memory runs out
            return f"{job.source.path}: {form}: {what}{again}"
        if "fatal" in answer:
            raise OSError(answer["fatal"])
        return answer.get("error", "")


def run_all(
    jobs: Sequence[Job], settings: Settings, processes: int, done: int, total: int, progress: Progress
) -> dict[str, str]:
    """Prepare recordings, each on one of `processes` processes.

    Args:
        jobs: the recordings that are not prepared yet.
        settings: what `prepare` was asked for.
        processes: how many processes work at the same time, at least 1.
        done: the number of recordings that were prepared before.
        total: the number of all recordings.
        progress: is called with ("recordings", recordings that are done, total), and for the windows of each recording
            with (its name, windows that are done, windows in all).

    Returns:
        What is wrong with the recordings that could not be prepared, by their names.

    Raises:
        OSError: a part cannot be written, or a package is missing. It ends the call; see `run_jobs`.
    """

    def finished(count: int) -> None:
        progress("recordings", done + count, total)

    def prepare(worker: PrepareWorker, job: Job, tell: Progress | None) -> str:
        return worker.prepare(job, settings, tell)

    progress("recordings", done, total)
    problems = run_jobs(jobs, processes, PrepareWorker, prepare, progress, finished)
    return {job.source.name: problem for job, problem in zip(jobs, problems, strict=True) if problem}
