"""Fixtures that several folders of tests share; tests/conftest.py brings them to all."""

import pytest

from xmae_fast.data import SimulationCfg, simulate


@pytest.fixture(scope="session")
def sim():
    return simulate(60, 8, seed=3, cfg=SimulationCfg(pvc_probability=0.02))


@pytest.fixture(scope="session")
def clean_sim():
    """A simulation without noise, wander, motion and PVCs, to test the waveforms alone."""
    quiet = dict.fromkeys(
        ("ppg_wander", "ecg_wander", "ppg_noise", "ecg_noise", "powerline_amplitude", "motion_probability"), 0.0
    )
    return simulate(60, 4, seed=4, cfg=SimulationCfg(**quiet))


@pytest.fixture
def in_process(monkeypatch):
    """Recordings are prepared in this process, which saves starting another one."""
    from xmae_fast.preparation import making, pool
    from xmae_fast.recordings import recording

    class Here(pool.PrepareWorker):
        def prepare(self, job, settings, progress) -> str:
            try:
                making.make_part(job.source, settings, job.identity, job.part)
            except recording.RecordingError as error:
                return str(error)
            return ""

    monkeypatch.setattr(pool, "PrepareWorker", Here)


@pytest.fixture
def scanned_here(monkeypatch):
    """Shards are scanned in this process, which saves starting another one."""
    scan_here(monkeypatch)


def scan_here(monkeypatch) -> None:
    """Do what the fixture `scanned_here` does."""
    from xmae_fast.data.index import scan_pool, scan_worker

    def ask(self, request, ends, progress=None):
        answers = []
        scan_worker.scan_and_write(request, lambda **answer: answers.append(answer))
        return answers[-1]

    monkeypatch.setattr(scan_pool.ScanWorker, "_ask", ask)
