"""Recordings to parts, several at once, each in a process that may crash without harm."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import NamedTuple

from xmae_fast.data.formats.packed import Progress
from xmae_fast.preparation.settings import Settings
from xmae_fast.preparation.sources import FORMATS, Source
from xmae_fast.workers.process import WorkerProcess


class Job(NamedTuple):
    """A recording to prepare, and where its part goes."""

    source: Source
    identity: str
    part: Path


class PrepareWorker(WorkerProcess):
    """One preparing process."""

    module = "xmae_fast.preparation.worker"

    def prepare(self, job: Job, settings: Settings, progress: Progress) -> str:
        """Write the part of a recording; "" or what is wrong with the recording. OSError where the part cannot be
        written, or a package is missing."""
        request = {
            "source": list(job.source),
            "settings": settings.to_json(),
            "identity": job.identity,
            "part": str(job.part),
        }
        answer = self._ask(request, ("part", "error", "fatal"), lambda done, n: progress(job.source.name, done, n))
        if answer is None:
            code, form = self._stop(), FORMATS[job.source.suffix].name
            what = f"expected a readable file, but reading it ended the process (code {code})"
            return f"{job.source.path}: {form}: {what}"
        if "fatal" in answer:
            raise OSError(answer["fatal"])
        return answer.get("error", "")


def run_all(
    jobs: Sequence[Job], settings: Settings, processes: int, done: int, total: int, progress: Progress
) -> dict[str, str]:
    """Do all jobs on `processes` processes; what is wrong with which recording, by its name. `progress` hears
    ("recordings", done, total) from `done` on, and of the windows of each recording by its name. An error that is not
    the recording's ends the call."""
    waiting: Queue[Job] = Queue()
    for job in jobs:
        waiting.put(job)
    errors: dict[str, str] = {}
    fatal: list[BaseException] = []
    lock, finished = threading.Lock(), [done]

    def tell(stage: str, done: int, n: int | None) -> None:
        with lock:
            progress(stage, done, n)

    def serve() -> None:
        with PrepareWorker() as worker:
            while not fatal:
                try:
                    job = waiting.get_nowait()
                except Empty:
                    return
                try:
                    if error := worker.prepare(job, settings, tell):
                        errors[job.source.name] = error
                    with lock:
                        finished[0] += 1
                        progress("recordings", finished[0], total)
                except BaseException as error:
                    fatal.append(error)

    progress("recordings", done, total)
    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(processes, len(jobs)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:
        fatal.append(error)  # so that no thread begins another recording
        raise
    if fatal:
        raise fatal[0]
    return errors
