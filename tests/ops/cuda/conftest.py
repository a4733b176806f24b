"""What tests of the CUDA C++ kernels share."""

from __future__ import annotations

import pytest

from tests.ops.cuda import predict
from tests.ops.cuda.stem_host import COMPILER, Banks, HostStem
from tests.ops.cuda.train_host import HostTrain


@pytest.fixture(scope="session")
def host() -> HostStem:
    """The stem's inference kernel on the host."""
    if COMPILER is None:
        pytest.skip("no C++ compiler here")
    return HostStem()


@pytest.fixture(scope="session")
def host_train() -> HostTrain:
    """The stem's training kernels on the host."""
    if COMPILER is None:
        pytest.skip("no C++ compiler here")
    return HostTrain()


@pytest.fixture(scope="session")
def full_banks(host: HostStem) -> list[Banks]:
    """Accesses to shared memory by a sample in which all lanes of every access take part."""
    return predict.run(host, predict.FULL)
