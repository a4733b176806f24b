"""Choosing among channels that can be meant, and the rates of those that were chosen."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_fast.recordings import Channel, Pieces, Reading, Stretches
from xmae_fast.recordings.choosing import best, read_channels, set_rates
from xmae_fast.recordings.recording import Content, Loaded

pytest.importorskip("scipy")
FS = 100.0


def pulse(seconds: float = 60) -> np.ndarray:
    """A PPG of 72 pulses a minute, [samples]."""
    phase = np.arange(round(seconds * FS)) / FS * 1.2 % 1
    width = np.where(phase < 0.2, 0.07, 0.16)
    return np.exp(-(((phase - 0.2) / width) ** 2)) + 0.3 * np.exp(-(((phase - 0.55) / 0.12) ** 2))


def noise(seed: int, seconds: float = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=round(seconds * FS))


def content(*signals, fs: float = FS, **options) -> Content:
    channels = [Channel(f"group/ppg {i}", np.asarray(x)[None], fs) for i, x in enumerate(signals)]
    return Content([c.name for c in channels], lambda numbers: Loaded([channels[i] for i in numbers]), **options)


def test_the_better_one_is_taken_and_said():
    found = read_channels(content(noise(1), pulse()), Reading(signals="ppg"))
    np.testing.assert_array_equal(found.ppg.values[0], pulse())
    [note] = found.notes
    assert "number 1 is taken, which has the best quality; --ppg NUMBER takes another" in note
    asked = read_channels(content(noise(1), pulse()), Reading(ppg="0", signals="ppg"))
    np.testing.assert_array_equal(asked.ppg.values[0], noise(1))
    assert asked.notes == []


def test_of_noise_the_first_is_taken_and_said():
    found = read_channels(content(*(noise(seed) for seed in range(6))), Reading(signals="ppg"))
    np.testing.assert_array_equal(found.ppg.values[0], noise(0))
    assert "number 0 is taken, the first, as none has a good quality" in found.notes[0]


def test_a_name_may_leave_out_its_group():
    found = read_channels(content(noise(1), pulse()), Reading(ppg="PPG 1", signals="ppg"))
    assert found.ppg.name == "group/ppg 1"


def test_quality_is_that_of_what_was_recorded():
    """A channel with long gaps, and one in pieces, are judged by their samples alone."""
    gaps = Channel("a", Stretches([0, 10_000_000], [pulse(30), pulse(30)]), FS)
    pieces = Channel("b", Pieces([pulse(30), pulse(4), noise(2, 12)]), FS)
    bad = Channel("c", noise(3)[None], FS)
    assert best("PPG", {0: bad, 1: gaps}) == (1, True)
    assert best("PPG", {0: bad, 1: pieces}) == (1, True)
    piece, first = pieces.spread(1000, 50)
    assert set(piece.tolist()) == {0, 2}  # a piece of 4 s has no window of 10 s
    assert (first + 1000 <= pieces.lengths[piece]).all()
    piece, first = gaps.spread(1000, 50)
    assert np.isfinite(gaps.cut(piece, first, 1000)).all()


def test_light_is_turned_round():
    found = read_channels(content(pulse(), light=[0]), Reading(signals="ppg"))
    np.testing.assert_array_equal(found.ppg.values[0], -pulse())
    assert found.notes == ["group/ppg 0: it is the light that comes back, so it is turned round"]


@pytest.mark.parametrize("values", [Stretches([3], [pulse(1)]), Pieces([pulse(1), pulse(2)]), pulse(1)[None]])
def test_every_kind_of_values_can_be_turned_round(values):
    channel = Channel("a", values, FS)
    before = channel.cut(np.zeros(1, int), np.array([3]), 50)
    channel.turn_round()
    np.testing.assert_array_equal(channel.cut(np.zeros(1, int), np.array([3]), 50), -before)


def test_a_given_rate_goes_before_the_files():
    one = {"PPG": Channel("a", pulse()[None], 250.0), "ECG": Channel("b", pulse()[None], 250.0)}
    assert set_rates(one, 125) == ["--fs 125 is taken, the file states 250 Hz for the PPG and 250 Hz for the ECG"]
    assert [channel.fs for channel in one.values()] == [125, 125]
    two = {"PPG": Channel("a", pulse()[None], 62.5), "ECG": Channel("b", pulse()[None], 250.0)}
    assert "these are kept" in set_rates(two, 250)[0]
    assert [channel.fs for channel in two.values()] == [62.5, 250]
    with pytest.raises(ValueError, match=r"--fs 125 can correct, the file states 62.5 Hz for the PPG and 250 Hz"):
        set_rates(two, 125)
    with pytest.raises(ValueError, match="which the file does not state: --fs HZ"):
        set_rates({"PPG": Channel("a", pulse()[None], np.nan)}, None)


def two_kinds(names, signals) -> Content:
    channels = [Channel(name, np.asarray(x)[None], FS) for name, x in zip(names, signals, strict=True)]
    return Content(names, lambda numbers: Loaded([channels[i] for i in numbers]))


@pytest.mark.parametrize(
    "names",
    [
        ("a/ppg", "a/ecg", "b/ppg", "b/ecg"),
        ("a/ppg/raw", "a/ecg/raw", "b/ppg/raw", "b/ecg/raw"),
        ("ppg[0]", "ecg[0]", "ppg[1]", "ecg[1]"),
    ],
)
def test_persons_and_windows_are_not_mixed(names):
    """The ECG belongs to the PPG that was chosen, though that of another person looks better."""
    options = {"ppg": "*ppg*", "ecg": "*ecg*"}
    first = two_kinds(names, (pulse(), noise(1), noise(2), pulse()))
    found = read_channels(first, Reading(**options))
    assert (found.ppg.name, found.ecg.name) == names[:2]
    second = two_kinds(names, (noise(1), noise(3), pulse(), pulse()))
    found = read_channels(second, Reading(**options))
    assert (found.ppg.name, found.ecg.name) == names[2:]
    found = read_channels(first, Reading(**options | {"ppg": "2"}))
    assert (found.ppg.name, found.ecg.name) == names[2:]


def test_notes_and_messages_list_some_names_only():
    found = read_channels(content(*[pulse(12)] * 30), Reading(signals="ppg"))
    assert "and 22 others: number 0 is taken" in found.notes[0]
    with pytest.raises(ValueError, match="'group/ppg 23' and 6 others; --ecg"):
        read_channels(content(*[pulse(12)] * 30), Reading(signals="ecg"))
