"""Windows of recordings with gaps of decades, as a clock that starts in 1970 leaves them."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_fast.embedding.windows import Windows
from xmae_fast.model.recipe import Recipe
from xmae_fast.recordings import Stretches


@pytest.mark.parametrize("tail", ["drop", "align"])
@pytest.mark.parametrize("hop", [None, 3.3, 0.7])
def test_windows_are_those_of_the_whole_signal(hop, tail):
    x = np.random.default_rng(0).normal(size=9000)
    whole = np.full(60_000, np.nan)
    firsts, parts = [7, 20_011, 47_000], [x[:2500], x[2500:2777], x[2777:]]
    for first, part in zip(firsts, parts, strict=True):
        whole[first : first + len(part)] = part
    found = Windows([Stretches(firsts, parts, 60_000)], 125, Recipe(), hop, tail)
    expected = Windows([whole], 125, Recipe(), hop, tail)
    assert found.unused_s == expected.unused_s
    assert found.leave_out(0.5) == expected.leave_out(0.5)
    np.testing.assert_array_equal(found.start, expected.start)


def test_a_gap_of_decades_takes_no_memory():
    windows = Windows([Stretches([0, 2 * 10**11], [np.ones(2500), np.ones(2500)])], 125, Recipe())
    assert len(windows) < 20
    assert windows.leave_out(0.5) == (160_000_002 - 4, 0)
