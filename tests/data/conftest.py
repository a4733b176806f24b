import numpy as np
import pytest

from tests.data.layouts import write_published
from xmae_fast.data import SimulationCfg, simulate


@pytest.fixture(scope="session")
def sim():
    return simulate(60, 8, seed=3, cfg=SimulationCfg(pvc_probability=0.02))


@pytest.fixture(scope="session")
def clean_sim():
    """No noise, no wander, no motion, no PVC: what the waveforms alone do."""
    quiet = dict.fromkeys(
        ("ppg_wander", "ecg_wander", "ppg_noise", "ecg_noise", "powerline_amplitude", "motion_probability"), 0.0
    )
    return simulate(60, 4, seed=4, cfg=SimulationCfg(**quiet))


@pytest.fixture(scope="session")
def shards(sim, tmp_path_factory):
    """Two shards of the simulated data; a subject lies across the boundary."""
    return sim.write_shards(tmp_path_factory.mktemp("shards"), segments_per_shard=244)


@pytest.fixture
def shard(tmp_path):
    """400 segments of noise, 500 samples each, of 200 subjects m_0 to m_199."""
    path = tmp_path / "x.h5"
    write_published(path, np.random.default_rng(0).normal(size=(2, 400, 500)))
    return path


@pytest.fixture
def in_process(monkeypatch):
    """Recordings are prepared in this process, which saves starting another one."""
    from xmae_fast.data.preparation import making, pool, recording

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
    """As of the fixture `scanned_here`."""
    from xmae_fast.data import scan_pool, scan_worker

    def ask(self, request, ends, progress=None):
        answers = []
        scan_worker.scan_and_write(request, lambda **answer: answers.append(answer))
        return answers[-1]

    monkeypatch.setattr(scan_pool.ScanWorker, "_ask", ask)
