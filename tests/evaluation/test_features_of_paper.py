"""The 35 features of the paper's hand-made baseline."""

from __future__ import annotations

import numpy as np
import pytest

from tests.embedding.conftest import pulses
from xmae_fast.evaluation.features_of_paper import PAPER_FEATURES, paper_features

pytest.importorskip("scipy")


def test_there_are_35_and_they_tell_the_pulse():
    segments = np.stack([pulses(10, 100, rate, seed, noise=0) for seed, rate in enumerate((60, 75, 100))])
    found = paper_features(segments, 100)
    assert found.shape == (3, 35)
    assert len(set(PAPER_FEATURES)) == 35
    by_name = dict(zip(PAPER_FEATURES, found.T, strict=True))
    np.testing.assert_allclose(by_name["pulse_rate"], [60, 75, 100], rtol=0.05)
    np.testing.assert_allclose(
        by_name["median_interval"], 60 / by_name["median_heart_rate"], rtol=1e-3
    )  # of two middle ones
    np.testing.assert_allclose(by_name["range"], np.ptp(segments, axis=1))
    np.testing.assert_allclose(by_name["mean"], segments.mean(1))


def test_a_segment_without_pulses_takes_the_median_of_the_others():
    segments = np.stack([*(pulses(10, 100, rate, 1) for rate in (60, 66, 72)), np.zeros(1000)])
    found = paper_features(segments, 100)
    assert np.isfinite(found).all()
    at = PAPER_FEATURES.index("mean_interval")
    assert found[3, at] == np.median(found[:3, at])
    with pytest.raises(ValueError, match="finite segments"):
        paper_features(np.full((1, 1000), np.nan), 100)
