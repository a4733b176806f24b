"""R peaks of reconstructed ECG against the true ones."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_fast.evaluation.beat_study import beat_scores

pytest.importorskip("scipy")
FS, L = 100.0, 1000


def ecg_of(rows: list[np.ndarray]) -> np.ndarray:
    """[S, L]: narrow beats at the given times."""
    t = np.arange(L) / FS
    return np.stack([sum(np.exp(-((t - r) ** 2) / (2 * 0.012**2)) for r in times) for times in rows])


def test_beats_at_their_places():
    true = [np.arange(0.5, 10, 0.8), np.arange(0.7, 10, 1.0)]
    hidden = np.ones((2, L), bool)
    scores = beat_scores(ecg_of(true), true, hidden, np.array([0, 1]), FS)
    assert (scores.f1, scores.recall, scores.precision, scores.beats) == (1, 1, 1, len(true[0]) + len(true[1]))
    assert scores.error_ms < 2
    late = beat_scores(ecg_of([times + 0.03 for times in true]), true, hidden, np.array([0, 1]), FS)
    assert late.f1 == 1
    assert late.error_ms == pytest.approx(30, abs=3)


def test_missed_and_invented_beats():
    true = [np.arange(0.5, 10, 0.8)]  # 12 beats
    shown = [np.concatenate([true[0][3:], [0.9, 1.7]])]
    scores = beat_scores(ecg_of(shown), true, np.ones((1, L), bool), np.array([0]), FS)
    assert scores.recall == pytest.approx(9 / 12)
    assert scores.precision == pytest.approx(9 / 11)
    assert scores.f1 == pytest.approx(18 / 23)


def test_visible_beats_do_not_count():
    true = [np.arange(0.5, 10, 0.8)]
    hidden = np.ones((1, L), bool)
    hidden[0, 200:800] = False
    scores = beat_scores(ecg_of(true), true, hidden, np.array([0]), FS)
    assert scores.beats == sum(t <= 1.94 or t >= 8.05 for t in true[0])


def test_one_delay_for_each_subject():
    true = [np.arange(0.6, 9.4, 0.8), np.arange(0.7, 9.4, 1.0)]
    shown = ecg_of([true[0] + 0.15, true[1] - 0.1])
    hidden, subject = np.ones((2, L), bool), np.array(["a", "b"])
    assert beat_scores(shown, true, hidden, subject, FS).f1 == 0
    scores = beat_scores(shown, true, hidden, subject, FS, one_delay=True)
    assert scores.f1 == 1
    assert scores.delays_ms == pytest.approx({"a": 150, "b": -100}, abs=3)


def test_nothing_shown_is_no_beat():
    true = [np.arange(0.5, 10, 0.8)]
    scores = beat_scores(np.zeros((1, L)), true, np.ones((1, L), bool), np.array([0]), FS)
    assert (scores.f1, scores.recall, scores.precision) == (0, 0, 0)
    assert np.isnan(scores.error_ms)
