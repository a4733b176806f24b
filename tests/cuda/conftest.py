"""What tests of the CUDA C++ kernels share."""

from __future__ import annotations

import pytest

from tests.cuda.stem_host import COMPILER, HostStem


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostStem:
    """The stem's inference kernel on the host."""
    if COMPILER is None:
        pytest.skip("no C++ compiler here")
    return HostStem(tmp_path_factory.mktemp("stem_host"))
