"""Several workers that do jobs at the same time."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from queue import Empty, Queue
from typing import TypeVar

from xmae_fast.workers.progress import Progress

Job = TypeVar("Job")
Worker = TypeVar("Worker")
Result = TypeVar("Result")


def run_jobs(
    jobs: Sequence[Job],
    num_workers: int,
    new_worker: Callable[[], AbstractContextManager[Worker]],
    work: Callable[[Worker, Job, Progress | None], Result],
    progress: Progress | None = None,
    finished: Callable[[int], object] | None = None,
) -> list[Result]:
    """Do all jobs, each once, with up to `num_workers` workers at a time.

    Each worker is used by one thread. `progress` and `finished` are called from these threads, never two at a time. An
    error ends the call: no worker begins another job, and the error is raised as soon as the jobs that had begun are
    done. When the caller is interrupted (KeyboardInterrupt), no worker begins another job, and the call ends at once;
    its threads are daemons, which do not keep the program from ending.

    Args:
        jobs: what is to be done; workers take the jobs in this order.
        num_workers: at least 1; never more workers are made than there are jobs.
        new_worker: makes a worker, a context manager that is left after the worker's last job.
        work: does one job with a worker and returns its result. It is given the function that it may call to tell its
            progress, or None if nobody asks for it. An expected error, one that should not end the call, must be
            returned as a result.
        progress: is called with what `work` tells.
        finished: is called after each job with the number of jobs that are done.

    Returns:
        The result of each job, in the order of `jobs`.

    Raises:
        BaseException: the first error that `new_worker`, `work`, `progress` or `finished` has raised.
    """
    waiting: Queue[tuple[int, Job]] = Queue()
    for numbered in enumerate(jobs):
        waiting.put(numbered)
    results: dict[int, Result] = {}
    fatal: list[BaseException] = []
    turn = threading.Lock()

    def tell(stage: str, done: int, total: int | None) -> None:
        with turn:
            if progress is not None:
                progress(stage, done, total)

    def serve() -> None:
        try:
            with new_worker() as worker:
                while not fatal:
                    try:
                        number, job = waiting.get_nowait()
                    except Empty:
                        return
                    result = work(worker, job, None if progress is None else tell)
                    with turn:
                        results[number] = result
                        if finished is not None:
                            finished(len(results))
        except BaseException as error:
            fatal.append(error)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(num_workers, len(jobs)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:
        fatal.append(error)  # so that no thread begins another job
        raise
    if fatal:
        raise fatal[0]
    return [results[number] for number in range(len(jobs))]
