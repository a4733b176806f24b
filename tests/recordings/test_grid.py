import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_fast.recordings.grid import place
from xmae_fast.recordings.stretches import Stretches

pytest.importorskip("scipy")
RATES = st.sampled_from([25.0, 30.0, 31.25, 50.0, 62.4725, 64.0, 100.0, 125.0, 250.0, 512.0])


def dense(values):
    if isinstance(values, Stretches):
        return values.cut(np.array([0]), values.size)[0]
    return values


def wave(t):
    return np.sin(2 * np.pi * 1.2 * t)


@settings(max_examples=25, deadline=None)
@given(
    RATES,
    st.floats(0, 0.19),
    st.lists(
        st.tuples(st.floats(0.1, 0.9), st.integers(3, 20_000)), max_size=3, unique_by=lambda gap: round(gap[0], 1)
    ),
    st.integers(0, 2**32 - 1),
)
def test_jitter_and_gaps(fs, jitter, gaps, seed):
    """Each sample is at its place, and gaps are where they were and as long as they were."""
    noise = np.random.default_rng(seed)
    count = 3000
    true = np.arange(count)
    for share, length in gaps:
        true = true + (np.arange(count) >= int(share * count)) * length
    t = true / fs + np.clip(noise.normal(0, jitter, count), -0.45, 0.45) / fs
    t = np.maximum.accumulate(t)
    [x], found, _, _ = place(t, [true.astype(float)])
    x = dense(x)
    assert found == pytest.approx(fs, rel=1e-3)
    at = np.flatnonzero(~np.isnan(x))
    assert len(at) == count
    np.testing.assert_array_equal(x[at], true)
    off = np.abs((at - at[0]) * fs / found - (true - true[0]))
    assert np.mean(off > 0.6) <= 0.01
    assert off.max() < 1.6


@settings(max_examples=25, deadline=None)
@given(RATES, st.integers(2, 40), st.sampled_from([0, 1, 5]), st.integers(0, 2**32 - 1))
def test_packets_are_spread(fs, size, lost, seed):
    """Rows that share a time follow each other evenly; lost packets are gaps of their length."""
    half = 60 + 1000 // size
    numbers = np.arange(size * 2 * half).reshape(2 * half, size)
    kept = np.r_[0:half, half + lost : 2 * half]
    true = numbers[kept].ravel()
    t = np.repeat(numbers[kept, 0] / fs + np.random.default_rng(seed).normal(0, 1e-4, len(kept)), size)
    [x], found, _, _ = place(np.maximum.accumulate(t), [true.astype(float)])
    assert found == pytest.approx(fs, rel=1e-3)
    assert len(x) == len(true) + lost * size
    at = np.flatnonzero(~np.isnan(x))
    np.testing.assert_array_equal(at, true)


@pytest.mark.parametrize("begin", [0, 40, 124])
def test_whole_seconds(begin):
    """Times that were cut to whole seconds: the first and the last second are not whole."""
    rows = np.arange(begin, begin + 3333)
    [x], fs, _, notes = place(np.floor(rows / 125), [rows.astype(float)])
    assert (fs, x.tolist()) == (125, rows.tolist())
    assert "packets of 125 rows share a time" in notes[0]


def test_lost_samples_are_missing():
    noise = np.random.default_rng(1)
    true = np.flatnonzero(noise.random(8000) > 0.02)
    t = true / 64 + noise.normal(0, 0.003, len(true))
    t.sort()
    [x], fs, _, notes = place(t, [true.astype(float)])
    assert (fs, len(x)) == (64, true[-1] - true[0] + 1)
    at = np.flatnonzero(~np.isnan(x))
    assert np.mean(at != true - true[0]) < 0.03
    assert np.abs(at - (true - true[0])).max() <= 1
    assert f"{len(x) - len(true)} samples are missing" in notes[-1]


def test_long_gaps_take_no_memory():
    t = np.concatenate([np.arange(2000) / 50, 30 * 86400 + np.arange(2000) / 50])
    [x], fs, _, _ = place(t, [np.arange(4000.0)])
    assert isinstance(x, Stretches)
    assert (fs, x.firsts.tolist(), x.size) == (50, [0, 30 * 86400 * 50], 30 * 86400 * 50 + 2000)
    assert x.stretches[1].tolist() == list(range(2000, 4000))
    [x], *_ = place(np.concatenate([np.arange(2000) / 50, 100 + np.arange(2000) / 50]), [np.arange(4000.0)])
    assert (len(x), np.flatnonzero(np.isnan(x)).tolist()) == (7000, list(range(2000, 5000)))


def test_fs_wins_and_closes_no_gap():
    t = np.concatenate([np.arange(500), 1500 + np.arange(500)]) / 250
    x = np.arange(1000.0)
    [found], fs, _, notes = place(t, [x], 125)
    assert fs == 125
    assert np.flatnonzero(np.isnan(found)).tolist() == list(range(500, 1000))  # 1000 intervals of 4 ms
    assert "250 samples per second" in notes[0]
    assert "--fs 125" in notes[0]
    [found], fs, _, notes = place(t[:500], [x[:500]], 125)
    assert (fs, len(found)) == (125, 500)
    assert notes
    assert not place(t[:500], [x[:500]], 251)[3]
    for wrong in (1250.0, 25.0):
        with pytest.raises(ValueError, match=rf"250 samples per second, .* got {wrong:g} Hz"):
            place(t, [x], wrong)


@settings(max_examples=15, deadline=None)
@given(st.floats(25, 31), st.integers(0, 2**32 - 1))
def test_uneven_samples_are_interpolated(fs, seed):
    """Samples that were taken at uneven times go to an even grid by these times."""
    steps = np.random.default_rng(seed).uniform(0.5, 1.5, 3000) / fs
    t = np.cumsum(steps) - steps[0]
    [x], found, first, notes = place(t, [wave(t)])
    assert found == pytest.approx((len(t) - 1) / t[-1], rel=0.02)
    assert "uneven" in notes[0]
    at = first + np.arange(len(x)) / found
    assert np.nanmax(np.abs(x - wave(at))) < 0.06
    assert np.isnan(x).mean() < 0.01
    late = (
        np.arange(3000) / fs + np.random.default_rng(seed).uniform(-0.4, 0.4, 3000) / fs
    )  # the times alone are uneven
    assert not any("uneven" in note for note in place(late, [wave(np.arange(3000) / fs)])[3])


def test_rows_out_of_order():
    t = np.arange(1000) / 100
    x = np.arange(1000.0)
    order = np.r_[0:500, 510:520, 500:510, 520:1000]
    [found], fs, _, notes = place(t[order], [x[order]])
    assert (fs, found.tolist()) == (100, x.tolist())
    assert "sorted" in notes[0]
    assert "row 511" in notes[0]
    order = np.r_[0:500, 490:1000]
    [found], fs, _, notes = place(t[order], [x[order]])
    assert (fs, found.tolist()) == (100, x.tolist())
    assert "10 repeated rows are left out" in notes[0]
    [found], fs, _, notes = place(t[::-1], [x[::-1]])
    assert (fs, found.tolist()) == (100, x.tolist())
    with pytest.raises(ValueError, match="row 501 of 1000 goes back by 3600 s"):
        place(np.where(np.arange(1000) < 500, t, t - 3600 - 0.01), [x])
    with pytest.raises(ValueError, match="all 10 rows have one time"):
        place(np.zeros(10), [x[:10]])


def test_rows_without_a_time():
    t = np.arange(1000) / 100
    t[[5, 700]] = np.nan
    [found], fs, _, notes = place(t, [np.arange(1000.0)])
    assert (fs, found.tolist()) == (100, list(range(1000)))
    assert "2 of 1000 rows have no time" in notes[0]
    t[:100] = np.nan
    with pytest.raises(ValueError, match="101 of 1000 rows have no time, the first is row 1"):
        place(t, [np.arange(1000.0)])


def test_no_grid():
    with pytest.raises(ValueError, match="evenly spaced"):
        place(np.array([0, 1, 1.4, 1e6]), [np.zeros(4)])
    noise = np.random.default_rng(0)
    t = np.flatnonzero(noise.random(2000) > 0.5) * 1.0
    t = np.sort(t + noise.normal(0, 0.3, len(t)))
    with pytest.raises(ValueError, match=r"evenly spaced .*--time none"):
        place(t, [noise.normal(size=len(t))])


def test_even_times_keep_their_rows():
    t = np.round(np.arange(10000) / 124.945, 3)
    [x], fs, first, notes = place(t, [t])
    assert x is t
    assert (fs, first, notes) == (pytest.approx(124.945, rel=1e-4), 0, [])
    kept = np.delete(t, slice(10, 20))
    [x], *_ = place(kept, [kept])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(x)), np.arange(10, 20))
    coarse = np.round(np.arange(3000) / 125, 2)  # as in BIDMC's files, where neighbours share a time
    assert place(coarse, []).fs == 125


def test_short_gaps_in_even_times_stay():
    """A straight line is within 1.5 samples of such times; the two missing samples are missing all the same."""
    true = np.delete(np.arange(1500), [700, 701])
    [x], fs, *_ = place(true / 62.4725, [true.astype(float)])
    assert (fs, len(x), np.flatnonzero(np.isnan(x)).tolist()) == (pytest.approx(62.4725), 1500, [700, 701])


@pytest.mark.parametrize("pause", [0, 37])
def test_packets_of_uneven_sizes_that_arrive_late(pause):
    noise = np.random.default_rng(3)
    sizes = noise.integers(5, 16, 2000)
    arrival = np.cumsum(sizes) / 52 + noise.exponential(0.02, 2000) + pause * (np.arange(2000) > 900)
    t = np.repeat(np.maximum.accumulate(arrival), sizes)
    [x], fs, *_ = place(t, [np.arange(float(len(t)))])
    assert fs == pytest.approx(52, rel=1e-3)
    assert len(x) == pytest.approx(len(t) + 52 * pause, abs=16)


def test_sorting_where_rows_are_gives_the_same():
    rng = np.random.default_rng(5)
    seconds = np.arange(2000) / 100
    order = np.arange(2000)
    order[500:506] = order[500:506][::-1]
    order = np.insert(order, 900, order[900])  # a repeated row
    signals = [rng.standard_normal(2000)[order] for _ in range(2)]
    kept = [x.copy() for x in (seconds[order], *signals)]
    expected = place(kept[0], kept[1:])
    np.testing.assert_array_equal(kept[1], signals[0])  # the values of the caller stay without `reuse`
    times = seconds[order]
    found = place(times, signals, reuse=True)
    assert (found.fs, found.first, found.notes) == (expected.fs, expected.first, expected.notes)
    assert "repeated" in " ".join(found.notes)
    np.testing.assert_array_equal(found.values, expected.values)
    assert (np.diff(times[:2000]) > 0).all()  # the rows were sorted in their own memory
