"""The loop that keeps several workers busy: order, errors, interruption and progress."""

import threading
import time

import pytest

from xmae_fast.workers.pool import run_jobs


class Worker:
    """Counts how many workers there are, and were."""

    made, left = 0, 0
    lock = threading.Lock()

    def __enter__(self):
        with self.lock:
            type(self).made += 1
        return self

    def __exit__(self, *_):
        with self.lock:
            type(self).left += 1


@pytest.fixture
def worker():
    """A class of workers with counts of its own."""
    return type("Counted", (Worker,), {})


def test_each_job_is_done_once_and_results_are_in_order(worker):
    done = []

    def work(_, job, tell):
        assert tell is None
        time.sleep(0.002 * (job % 3))
        done.append(job)
        return -job

    assert run_jobs(range(40), 4, worker, work) == [-job for job in range(40)]
    assert sorted(done) == list(range(40))
    assert worker.made == worker.left == 4


@pytest.mark.parametrize(("jobs", "num_workers", "made"), [(3, 8, 3), (8, 1, 1), (0, 4, 0)])
def test_there_are_no_more_workers_than_jobs(worker, jobs, num_workers, made):
    assert run_jobs(range(jobs), num_workers, worker, lambda _, job, tell: job) == list(range(jobs))
    assert (worker.made, worker.left) == (made, made)


def test_a_worker_is_used_by_one_thread(worker):
    threads = {}

    def work(one, job, tell):
        threads.setdefault(id(one), set()).add(threading.get_ident())
        time.sleep(0.001)

    run_jobs(range(30), 3, worker, work)
    assert [len(found) for found in threads.values()] == [1] * len(threads)


def test_progress_and_finished_are_never_called_at_the_same_time(worker):
    inside, heard, counts = [], [], []

    def alone(what, value):
        inside.append(1)
        time.sleep(0.0005)
        what.append(value)
        assert len(inside) == 1
        inside.pop()

    def work(_, job, tell):
        for step in (1, 2):
            tell(f"job {job}", step, 2)

    run_jobs(range(20), 5, worker, work, lambda *told: alone(heard, told), lambda count: alone(counts, count))
    assert counts == list(range(1, 21))
    assert sorted(heard) == sorted((f"job {job}", step, 2) for job in range(20) for step in (1, 2))


@pytest.mark.parametrize("where", ["work", "progress", "finished"])
def test_an_error_ends_the_call_and_no_other_job_begins(worker, where):
    begun, done = [], []
    other_waits = threading.Event()

    def fail():
        other_waits.wait(10)
        raise LookupError(where)

    def work(_, job, tell):
        begun.append(job)
        if job == 0:
            if where == "work":
                fail()
            tell("job", 1, 1)
        else:
            other_waits.set()
            while worker.left < 1:  # this job had begun before the error, and is finished after it
                time.sleep(0.001)
            time.sleep(0.1)
        done.append(job)

    def progress(*_):
        if where == "progress":
            fail()

    def finished(_):
        if where == "finished" and 1 not in done:
            fail()

    with pytest.raises(LookupError, match=where):
        run_jobs(range(50), 2, worker, work, progress, finished)
    assert len(begun) < 10  # of 50; a busy machine may let one or two begin before the error is known
    assert 1 in done
    assert worker.made == worker.left == 2


def test_a_worker_that_cannot_be_made_ends_the_call():
    def none():
        raise OSError("no process")

    with pytest.raises(OSError, match="no process"):
        run_jobs(range(5), 2, none, lambda _, job, tell: job)


def test_an_interruption_ends_the_call_at_once(worker, monkeypatch):
    begun, go_on, main = [], threading.Event(), threading.current_thread()
    join = threading.Thread.join

    def interrupted(thread, timeout=None):
        if threading.current_thread() is main and not go_on.is_set():
            while len(begun) < 2:
                time.sleep(0.001)
            raise KeyboardInterrupt
        join(thread, timeout)

    def work(_, job, tell):
        begun.append(job)
        go_on.wait(10)

    before = set(threading.enumerate())
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(range(50), 2, worker, work)
    threads = set(threading.enumerate()) - before
    assert len(threads) == 2
    assert all(thread.daemon for thread in threads)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert sorted(begun) == [0, 1]
    assert worker.left == 2
