"""PPG and ECG at different rates keep their times against each other."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_fast.data import apply_recipe
from xmae_fast.preparation.windows import cut
from xmae_fast.recordings.recording import Channel, Recording

SECONDS, HOP, PERIOD, DELAY = 80, 10.0, 1.037, 0.25


def pulses(fs: float, delay: float, width: float) -> np.ndarray:
    """A pulse `delay` s after each beat, sampled at `fs` Hz, [1, samples]."""
    t = np.arange(round(SECONDS * fs)) / fs
    since = (t - delay - 0.4 + PERIOD / 2) % PERIOD - PERIOD / 2
    return np.exp(-0.5 * (since / width) ** 2)[None]


def recording(ppg_fs: float, ecg_fs: float) -> Recording:
    return Recording(
        Channel("PPG", pulses(ppg_fs, DELAY, 0.07), ppg_fs), Channel("ECG", pulses(ecg_fs, 0, 0.05), ecg_fs)
    )


def top(signal: np.ndarray, near: float) -> float:
    """When the signal, [1000] at 100 Hz, has its maximum near `near` s, between samples."""
    first = round(100 * near) - 6
    middle = first + int(np.argmax(signal[first : first + 13]))
    c, b, _ = np.polyfit(np.arange(-3, 4), signal[middle - 3 : middle + 4].astype(float), 2)
    return (middle - b / (2 * c)) / 100


def errors_ms(ppg_fs: float, ecg_fs: float, **options) -> tuple[np.ndarray, int]:
    """Errors of the arrival time at the start and at the end of each window, [windows, 2] in ms, and how many windows
    there are."""
    windows = cut(recording(ppg_fs, ecg_fs), HOP, HOP)
    delays = {"ecg_delay_s": windows.ecg_delay_s}
    made = apply_recipe(*windows.signals(slice(None)), ppg_fs=ppg_fs, ecg_fs=ecg_fs, **delays, **options)
    assert set(made.reason) == {""}
    ends = []
    for ppg, ecg, start in zip(made.ppg, made.ecg, windows.starts, strict=True):
        beats = np.arange(0.4, SECONDS, PERIOD) - start
        beats = beats[(beats > 0.6) & (beats < 9)]
        late = [1000 * (top(ppg, beat + DELAY) - top(ecg, beat) - DELAY) for beat in beats]
        ends.append(np.polyval(np.polyfit(beats, late, 1), [0, HOP]))
    return np.array(ends), len(windows.starts)


@pytest.mark.parametrize(
    ("ppg_fs", "ecg_fs"),
    [(62.5, 250), (31.25, 1000), (125, 500), (64, 700), (62.4725, 250), (249.89, 62.4725), (100, 125), (62.4725, 62.5)],
)
def test_different_rates_do_not_shift_signals_within_a_window(ppg_fs, ecg_fs):
    equal, count = errors_ms(125, 125)
    found, same = errors_ms(ppg_fs, ecg_fs)
    assert count == same == 8
    # At 31.25 Hz the published rule stretches 9.952 s to 10 s, which makes a delay of 250 ms 1 ms longer.
    assert np.abs(found.mean(0)).max() < 1
    assert np.abs(found).max() < np.abs(equal).max() + 0.6  # equal rates have the errors of cleaning


def test_the_published_rule_shifts_them():
    windows = cut(recording(62.5, 250), HOP, HOP)
    pytest.importorskip("neurokit2")
    made = apply_recipe(*windows.signals(slice(0, 2)), ppg_fs=62.5, ecg_fs=250, recipe="neurokit2")
    beats = np.arange(0.4, 9, PERIOD)[1:]
    late = [1000 * (top(made.ppg[0], beat + DELAY) - top(made.ecg[0], beat) - DELAY) for beat in beats]
    assert 11 < np.polyval(np.polyfit(beats, late, 1), HOP) < 13


def test_windows_of_equal_rates_are_cut_as_before():
    windows = cut(recording(62.4725, 62.4725), HOP, 0.9)
    expected = np.round(np.arange(len(windows.starts)) * 0.9 * 62.4725)
    for first in windows.first:
        np.testing.assert_array_equal(first, expected)
    assert not windows.ecg_delay_s.any()
    assert expected[-1] + 625 <= 4998 < np.round((len(expected)) * 0.9 * 62.4725) + 625
    one = cut(Recording(recording(62.4725, 250).ppg), HOP, 0.9)
    np.testing.assert_array_equal(one.first[0], expected)


def test_a_faster_signal_begins_within_a_sample_before_the_slower_one():
    windows = cut(recording(62.4725, 250), HOP, 0.9)
    slow, fast = windows.first
    assert ((slow / 62.4725 <= windows.starts + 1e-6) & (slow / 62.4725 > windows.starts - 1 / 62.4725)).all()
    np.testing.assert_allclose(windows.ecg_delay_s, fast / 250 - slow / 62.4725)
    assert ((windows.ecg_delay_s <= 1e-6) & (windows.ecg_delay_s > -1 / 250)).all()
    assert windows.ecg_delay_s.min() < -0.003


def test_windows_do_not_know_each_other():
    windows = cut(recording(62.4725, 250), HOP, 0.9)
    rates = {"ppg_fs": 62.4725, "ecg_fs": 250}
    signals, delay = windows.signals(slice(None)), windows.ecg_delay_s
    whole = apply_recipe(*signals, **rates, ecg_delay_s=delay)
    for row in (0, 7, 40):
        some = slice(row, row + 1)
        single = apply_recipe(*(x[some] for x in signals), **rates, ecg_delay_s=delay[some])
        np.testing.assert_array_equal(single.ppg[0], whole.ppg[row])
        np.testing.assert_array_equal(single.ecg[0], whole.ecg[row])
