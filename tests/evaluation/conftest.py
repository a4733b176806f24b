import pytest
import torch

import xmae_fast
from xmae_fast.data import SimulationCfg, simulate

pytest.importorskip("sklearn")
CFG = xmae_fast.ModelCfg(
    seq_len=500, patch_len=50, d_model=16, nhead=2, depth_ecg=1, depth_ppg=1, depth_bridge=1, stem_ch=4, proj_dim=8
)


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return xmae_fast.xMAE(xmae_fast.ModelCfg(**(CFG.to_dict() | changes))).eval()


@pytest.fixture(scope="package", autouse=True)
def _one_thread_of_blas():
    """For matrices this small, a second thread costs several times the time that it saves."""
    from threadpoolctl import threadpool_limits  # scikit-learn needs it

    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session")
def sim5():
    """12 subjects, 6 segments of 5 s each, with premature beats and pulses that tell about PAT."""
    cfg = SimulationCfg(seg_len=5.0, pvc_probability=0.08, pat_coupling=0.8)
    return simulate(12, 6, seed=31, cfg=cfg)


@pytest.fixture(scope="session")
def shards5(sim5, tmp_path_factory):
    """The same segments as two shards with their truth files beside them."""
    return sim5.write_shards(tmp_path_factory.mktemp("evaluation"), segments_per_shard=40)


@pytest.fixture
def model():
    return tiny()
