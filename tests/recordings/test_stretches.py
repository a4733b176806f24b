"""Signals of which only stretches were recorded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xmae_fast.recordings import Stretches

GAPS_AND_LENGTHS = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), min_size=1, max_size=6)


@given(GAPS_AND_LENGTHS, st.integers(0, 300), st.integers(5, 50), st.floats(0.7, 80))
def test_windows_near_samples(parts, end, size, hop):
    firsts, lengths = np.cumsum(parts, axis=None).reshape(-1, 2)[:, 0], [length for _, length in parts]
    signal = Stretches(firsts, [np.zeros(length) for length in lengths], firsts[-1] + lengths[-1] + end)
    count = max(int((signal.size - size) / hop) + 1, 0)
    near = signal.windows_near(size, hop, count)
    assert np.array_equal(near, np.unique(near))
    assert not len(near) or (near[0] >= 0 and near[-1] < count)
    recorded = np.flatnonzero(signal.recorded(np.round(np.arange(count) * hop).astype(int), size))
    assert set(recorded) <= set(near)
    assert len(near) <= sum((length + size) / hop + 5 for length in lengths)  # few others beside them
