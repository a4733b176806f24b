import numpy as np
import pytest

from tests.data.layouts import write_published


@pytest.fixture(scope="session")
def shards(sim, tmp_path_factory):
    """Two shards of the simulated data; one subject has segments in both."""
    return sim.write_shards(tmp_path_factory.mktemp("shards"), segments_per_shard=244)


@pytest.fixture
def shard(tmp_path):
    """400 segments of noise, 500 samples each, for 200 subjects, m_0 to m_199."""
    path = tmp_path / "x.h5"
    write_published(path, np.random.default_rng(0).normal(size=(2, 400, 500)))
    return path
