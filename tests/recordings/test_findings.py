"""What looks wrong with a recording is said, and nothing is said of one that is right."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, windows
from xmae_fast.recordings.findings import cleaned, measure, problems
from xmae_fast.signals.beats import ecg_beats, ppg_beats, template_quality


@pytest.fixture(scope="module")
def signals() -> dict[str, np.ndarray]:
    ppg, ecg = windows(4, 4, motion_probability=0.0)
    rng = np.random.default_rng(0)
    ecg = ecg + 0.01 * rng.normal(size=ecg.shape)
    return {"ppg": ppg, "ecg": ecg, "noise": rng.normal(size=ppg.shape)}


def told(ppg: np.ndarray, ecg: np.ndarray, ppg_fs: float = FS, ecg_fs: float = FS) -> list[str]:
    measured = {}
    for kind, x, fs in (("PPG", ppg, ppg_fs), ("ECG", ecg, ecg_fs)):
        clean = cleaned(kind, x, fs)
        beats = (ppg_beats if kind == "PPG" else ecg_beats)(clean, fs)
        measured[kind] = measure(kind, x, fs, None, fs, template_quality(clean, beats, fs)[0])
    return problems(measured)


def test_a_good_recording_gives_no_sentence(signals):
    ppg, ecg = signals["ppg"], signals["ecg"]
    assert told(ppg, ecg) == []
    assert told(ppg[:, ::2], ecg, FS / 2) == []
    assert told(1e5 + 3000 * ppg, -5 + 1e-3 * ecg) == []
    gone = ppg.copy()
    gone[3, 100:120] = np.nan
    assert told(gone, ecg) == []


def test_each_fault_is_named(signals):
    ppg, ecg, noise = signals["ppg"], signals["ecg"], signals["noise"]
    assert told(-ppg, ecg) == [
        "the PPG looks upside down, it falls faster than it rises: --polarity auto,keep turns it round"
    ]
    assert told(ppg, -ecg) == [
        "the ECG looks upside down, it has its peaks downwards: --polarity keep,auto turns it round"
    ]
    assert told(ecg, ppg) == ["PPG and ECG look exchanged: --ppg NAME and --ecg NAME say which is which"]
    assert told(ecg, ecg) == ["the PPG looks like ECG: --ppg NAME takes another channel"]
    assert told(ppg, ppg) == ["the ECG looks like PPG: --ecg NAME takes another channel"]
    power, quality, *_ = told(noise, ecg)
    assert power.endswith(
        "of the power of the PPG lies above its band: is its rate of 125 Hz right (--fs), and is it PPG?"
    )
    assert quality.startswith("the PPG has a median quality of ")
    clipped = np.minimum(ppg, np.percentile(ppg, 85, axis=1, keepdims=True))
    assert "the PPG is clipped in 16 of 16 windows looked at" in told(clipped, ecg)
    flat = ecg.copy()
    flat[::4, 300:700] = 0.1
    assert "the ECG is flat in 4 of 16 windows looked at" in told(ppg, flat)


def test_a_wrong_rate_is_said(signals):
    ppg, ecg = signals["ppg"], signals["ecg"]
    fast = np.repeat(np.concatenate(list(ppg[:5]))[::4][None, :1560], 5, axis=0)  # 50 s at 31 Hz, said to be 10 s
    assert any("the PPG has" in sentence for sentence in told(fast, ecg[:5], 156.0))
    twice = np.repeat(ppg[:, :625], 2, axis=1)  # half the time at the rate of the whole: pulses come half as often
    sentences = told(twice, ecg)
    assert any("beats per minute in the PPG and" in sentence for sentence in sentences)


def test_few_windows_give_none(signals):
    assert told(-signals["ppg"][:2], signals["ecg"][:2]) == []
    assert told(np.zeros((4, 1250)), np.ones((4, 1250))) == []
