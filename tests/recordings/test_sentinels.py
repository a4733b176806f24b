"""Values that stand for missing samples are found where they behave so, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.studies.recording_files import FS, continuous
from xmae_fast.recordings import Channel, Stretches
from xmae_fast.recordings.sentinels import USUAL, mark_missing

SIGNALS = {"ppg": continuous(20)[0], "ecg": continuous(20)[1]}
SCALES = {
    "as it is": lambda x: x,
    "integers": lambda x: np.round(2000 * x),
    "counts": lambda x: np.round(30000 + 3000 * x),
    "from 0 on": lambda x: x - x.min(),
    "integers around 0": lambda x: np.round(30 * (x - np.median(x))),
    "clipped above": lambda x: np.minimum(x, np.percentile(x, 90)),
    "clipped to int16": lambda x: np.clip(np.round(60000 * x), -32768, 32767),
    "clipped at 0": lambda x: np.maximum(x - np.percentile(x, 30), 0),
    "8 bits": lambda x: np.clip(np.round(128 + 150 * (x - 0.5)), 0, 255),
}


def marked(values) -> np.ndarray:
    channel = Channel("PLETH", np.array(values, float), FS)
    mark_missing(channel)
    return np.isnan(channel.values)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_keep_their_samples(name, scale):
    x = SCALES[scale](SIGNALS[name])[None]
    channel = Channel(name, x, FS)
    assert mark_missing(channel) == []
    assert channel.values is x
    assert not marked(-x).any()
    assert not marked(x.reshape(4, -1)).any()


@settings(max_examples=60, deadline=None)
@given(
    value=st.sampled_from(sorted(USUAL - {0.0, -1.0})),
    scale=st.sampled_from(["as it is", "integers around 0", "from 0 on"]),
    name=st.sampled_from(sorted(SIGNALS)),
    runs=st.lists(st.tuples(st.integers(0, 2400), st.integers(1, 300)), min_size=1, max_size=4),
    pieces=st.sampled_from([1, 4]),
)
def test_values_far_outside_are_found_wherever_they_are(value, scale, name, runs, pieces):
    x = SCALES[scale](SIGNALS[name]).copy()
    where = np.zeros(len(x), bool)
    for begin, length in runs:
        where[begin : begin + length] = True
    x[where] = value
    np.testing.assert_array_equal(marked(x.reshape(pieces, -1)).ravel(), where)


@settings(max_examples=40, deadline=None)
@given(
    value=st.sampled_from([0.0, -9999.0, 65535.0]),
    begins=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
    shift=st.integers(0, 60),
    length=st.integers(5, 200),
)
@example(value=0.0, begins=[3], shift=0, length=60)  # they end at the foot of a pulse, twice its steepest step away
@example(value=0.0, begins=[2], shift=33, length=100)
@example(value=0.0, begins=[2], shift=39, length=200)
def test_runs_between_jumps_are_found(value, begins, shift, length):
    """The signal spans 10,000 to 50,000, so that none of the values lies farther away than that."""
    x = SIGNALS["ppg"]
    x = np.round(10000 + 40000 * (x - x.min()) / np.ptp(x))
    where = np.zeros(len(x), bool)
    for k in begins:
        where[400 * k + shift : 400 * k + shift + length] = True
    x[where] = value
    np.testing.assert_array_equal(marked(x[None])[0], where)


def test_long_runs_of_zeros_within_a_signal_and_other_limits():
    x = SIGNALS["ecg"] - np.median(SIGNALS["ecg"])
    x[1000:1040] = 0
    assert np.flatnonzero(marked(x[None])[0]).tolist() == list(range(1000, 1040))
    x[1000:1040] = -3276.8  # the least value that a file's scale can state
    assert marked(x[None]).sum() == 40
    pulses = np.where(np.arange(2500) % 125 < 6, SIGNALS["ppg"] + 5, 0)
    assert not marked(pulses[None]).any()  # 0 between pulses is the signal


def test_what_is_said_and_stretches():
    x = SIGNALS["ppg"][:1000].copy()
    x[100:110] = -32768
    channel = Channel("PLETH", Stretches([0, 5000], [x, x], 7000), FS)
    [note] = mark_missing(channel)
    assert note == "PLETH: the value -32768 stands for missing here: 20 samples (1.00%)"
    found = channel.values.cut(np.array([0, 5000]), 1000)
    assert np.isnan(found).sum() == 20
    assert channel.values.size == 7000
    several = np.concatenate([SIGNALS["ppg"], [-9999.0, -9999.0, 32767.0, np.nan]])[None]
    channel = Channel("a", several, np.nan)
    assert len(mark_missing(channel)) == 2
    assert mark_missing(Channel("a", np.full((1, 500), -9999.0), FS)) == []
    assert mark_missing(Channel("a", np.full((2, 0), 0.0), FS)) == []
