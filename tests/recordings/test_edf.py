"""EDF and BDF files as devices write them, and damaged ones."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.studies.recording_files import continuous, write_edf
from tests.recordings.edf_files import digital, header, timed, with_times, write
from xmae_fast.recordings.formats.edf import open_edf
from xmae_fast.recordings.formats.edf_dates import start_of
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import RecordingError
from xmae_fast.recordings.sources import read_recording
from xmae_fast.recordings.stretches import Stretches

EVERY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def physical(values: np.ndarray) -> np.ndarray:
    """[records, samples] digital to [1, records * samples] in -2 to 2."""
    gain = 4 / 65535
    return (gain * (2 / gain - 32767 + values.astype(float))).reshape(1, -1)


@pytest.fixture(scope="module")
def values():
    return digital()


@pytest.fixture
def plain(values):
    return [record.tobytes() for record in values]


def read(path, **options):
    return read_recording(path, Reading(ppg="0", ecg="1", **options))


FORGIVEN = {
    "version": {"version": b"0\xb5"},
    "version of another": {"version": b"1.0"},
    "dimension in Latin-1": {"dimensions": [b"\xb5V", "mV"]},
    "dimension in UTF-8": {"dimensions": ["µV".encode(), "mV"]},
    "label": {"labels": [b"PLETH \xb5V", "II"]},
    "patient": {"patient": "Müller, Jörg".encode()},
    "zeros instead of blanks": {"patient": bytes(80), "recording": bytes(80), "labels": [b"PLETH\0\0", b"II\0\0"]},
    "size of another": {"size": 0},
    "no number of signals": {"count": "x"},
    "comma as decimal mark": {"duration": "1,000", "physical_min": ["-2,0"] * 2, "physical_max": ["2,0"] * 2},
}


@pytest.mark.parametrize("changes", FORGIVEN.values(), ids=FORGIVEN)
def test_headers_that_are_forgiven(changes, values, plain, tmp_path):
    found = read(write(tmp_path / "x.edf", plain, **changes))
    np.testing.assert_array_equal(found.ppg.values, physical(values[:, 0]))
    np.testing.assert_array_equal(found.ecg.values, physical(values[:, 1]))
    assert (found.ppg.fs, found.ecg.fs, found.start) == (125, 125, "2024-01-01T00:00:00")


@pytest.mark.parametrize(
    ("stated", "end", "whole", "note"),
    [
        (30, -100, 29, "the file is cut: 29 of 30 records are whole and read, the last 400 bytes are part of another"),
        (40, None, 30, "the file is cut: 30 of 40 records are whole and read"),
        (20, None, 30, "the header states 20 records, the file holds 30: all are read"),
        (-1, None, 30, "the header states -1 records: the 30 that the file holds are read"),
        ("many", -501, 28, "the header states many records: the 28 that the file holds are read, the last 499 bytes"),
    ],
)
def test_records_that_are_not_as_stated(stated, end, whole, note, values, plain, tmp_path):
    path = write(tmp_path / "x.edf", plain, records=stated)
    path.write_bytes(path.read_bytes()[:end])
    found = read(path)
    np.testing.assert_array_equal(found.ecg.values, physical(values[:whole, 1]))
    assert found.notes[0].startswith(note)


def test_no_record_is_whole(plain, tmp_path):
    path = write(tmp_path / "x.edf", plain)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        RecordingError, match=r"x\.edf: EDF: expected records of 500 bytes, the file holds none that is"
    ):
        read(path)


@given(
    limits=st.lists(st.decimals(-9999, 9999, places=2).map(str), min_size=2, max_size=2, unique=True),
    digital_limits=st.lists(st.integers(-32768, 32767), min_size=2, max_size=2, unique=True).map(sorted),
    duration=st.sampled_from(["1", "0.5", "0.1", "2.000", "0.333333", "10", "1.0000"]),
    samples=st.integers(1, 40),
    bdf=st.booleans(),
)
@EVERY
def test_values_and_rates_are_those_of_pyedflib(limits, digital_limits, duration, samples, bdf, tmp_path):
    pyedflib = pytest.importorskip("pyedflib")
    path = tmp_path / ("x.bdf" if bdf else "x.edf")
    raw = np.random.default_rng(samples).bytes(samples * 2 * (3 if bdf else 2) * 4)
    form = {
        "physical_min": [limits[0][:8]] * 2, "physical_max": [limits[1][:8]] * 2, "digital_min": digital_limits[:1] * 2,
        "digital_max": digital_limits[1:] * 2, "duration": duration, "samples": [samples] * 2, "recording": "X",
    }  # fmt: skip
    if bdf:
        form |= {"version": b"\xffBIOSEMI", "reserved": "24BIT"}
    path.write_bytes(header(records=4, **form) + raw)
    with pyedflib.EdfReader(str(path)) as file:
        expected = [file.readSignal(i) for i in (0, 1)]
        rate, start = file.getSampleFrequency(1), file.getStartdatetime().isoformat()
    found = read(path)
    assert (found.ecg.fs, found.start) == (rate, start)
    for channel, x in zip(found.channels, expected, strict=True):
        np.testing.assert_array_equal(channel.values[0], x)


def test_a_file_that_pyedflib_wrote(tmp_path):
    pyedflib = pytest.importorskip("pyedflib")
    ppg, ecg = continuous()
    write_edf(tmp_path / "x.edf", np.ascontiguousarray(ppg[::5]), ecg, 25, 125)
    with pyedflib.EdfReader(str(tmp_path / "x.edf")) as file:
        expected, start = [file.readSignal(i) for i in (0, 1)], file.getStartdatetime().isoformat()
    found = read_recording(tmp_path / "x.edf")
    assert (found.ppg.name, found.ecg.name, found.ppg.fs, found.ecg.fs) == ("Pleth", "ECG II", 25, 125)
    assert found.start == start
    assert not found.notes
    for channel, x in zip(found.channels, expected, strict=True):
        np.testing.assert_array_equal(channel.values[0], x)


def test_times_of_records_place_them(values, tmp_path):
    onsets = [r + (20 if r >= 10 else 0) for r in range(30)]
    path = write(tmp_path / "x.edf", timed(values, onsets), **with_times())
    found = read(path)
    expected = physical(values[:, 0])
    np.testing.assert_array_equal(found.ppg.values, np.insert(expected, 1250, np.full(2500, np.nan))[None])
    assert found.notes == ["the recording has 1 gap(s) of 20 s in all: samples are missing there"]
    assert len(open_edf(str(path), Reading()).names) == 2  # annotations are no channel
    contiguous = read(write(tmp_path / "c.edf", timed(values, onsets), **with_times(reserved="EDF+C")))
    np.testing.assert_array_equal(contiguous.ppg.values, found.ppg.values)
    assert "though its header calls it contiguous" in contiguous.notes[0]
    useless = read(write(tmp_path / "u.edf", timed(values, [0] * 30), **with_times(reserved="EDF+C")))
    np.testing.assert_array_equal(useless.ppg.values, expected)


def test_a_gap_of_days_takes_no_memory(values, tmp_path):
    onsets = [r + 0.5 + (10**7 if r >= 10 else 0) for r in range(30)]
    path = write(tmp_path / "x.edf", timed(values, [f"+{onset:.1f}" for onset in onsets]), **with_times())
    tracemalloc.start()
    found = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    assert isinstance(found.ecg.values, Stretches)
    assert found.ecg.values.firsts.tolist() == [0, 1250 + 125 * 10**7]
    assert found.ecg.values.size == 125 * (10**7 + 30)
    np.testing.assert_array_equal(np.concatenate(found.ecg.values.stretches)[None], physical(values[:, 1]))
    assert found.start == "2024-01-01T00:00:00.500000"


def test_times_that_drift_a_little_are_no_gaps(values, tmp_path):
    onsets = [f"+{r * 1.0005:.4f}" for r in range(30)]
    found = read(write(tmp_path / "x.edf", timed(values, onsets), **with_times()))
    missing = np.isnan(found.ppg.values[0])
    assert missing.sum() == pytest.approx(29 * 0.0005 * 125, abs=1)
    np.testing.assert_array_equal(found.ppg.values[0][~missing], physical(values[:, 0])[0])


@pytest.mark.parametrize(
    ("onset", "message"),
    [
        (3.5, "got overlapping times: record 6 begins at 4.5 s and record 5 at 4 s, each lasts 1 s"),
        (1, "got falling times: record 6 begins at 2 s and record 5 at 4 s"),
        ("x", "expected the time of each record, as there are gaps between some, record 6 has none"),
    ],
)
def test_times_that_cannot_be(onset, message, values, tmp_path):
    onsets = [*range(5), *([onset] * 25 if onset == "x" else [r + onset - 4 for r in range(5, 30)])]
    path = write(tmp_path / "x.edf", timed(values, onsets), **with_times())
    with pytest.raises(RecordingError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("date", "time", "recording", "start", "said"),
    [
        ("02.03.24", "11.22.33", "", "2024-03-02T11:22:33", False),
        ("02.03.85", "11.22.33", "", "1985-03-02T11:22:33", False),
        ("02/03/24", "11:22:33", "", "2024-03-02T11:22:33", False),
        ("2-3-24", "1:2:3", "", "2024-03-02T01:02:03", False),
        ("2.3.2024", "112233", "", "2024-03-02T11:22:33", False),
        ("2024-3-2", "11.22.33", "", "2024-03-02T11:22:33", False),
        ("020324", "11.22.33", "", "2024-03-02T11:22:33", False),
        ("02.03.30", "11.22.33", "Startdate 02-MAR-2130 X X X", "2130-03-02T11:22:33", False),
        ("", "11.22.33", "Startdate 02-MAR-2024 X X X", "2024-03-02T11:22:33", True),
        ("00.00.00", "11.22.33", "startdate 02-mar-2024", "2024-03-02T11:22:33", True),
        ("00.00.00", "00.00.00", "Startdate X X X X", "", True),
        ("30.02.24", "11.22.33", "", "", True),
        ("02.03.24", "24.00.00", "", "", True),
        ("02.yy.24", "11.22.33", "", "", True),
        ("02.03.24", "", "", "", True),
    ],
)
def test_dates(date, time, recording, start, said, plain, tmp_path):
    notes: list[str] = []
    assert start_of(date, time, recording, notes) == start
    assert bool(notes) == said
    found = read(write(tmp_path / "x.edf", plain, date=date, time=time, recording=recording))
    assert (found.start, found.notes) == (start, notes)


def test_limits_that_are_of_no_use_and_channels_of_one_name(values, plain, tmp_path):
    found = read(write(tmp_path / "x.edf", plain, physical_min=[2, -2]))
    np.testing.assert_array_equal(found.ppg.values[0], values[:, 0].ravel())
    np.testing.assert_array_equal(found.ecg.values, physical(values[:, 1]))
    assert "limits of channel 0, 'PLETH', are of no use" in found.notes[0]
    found = read(write(tmp_path / "y.edf", plain, digital_max=[-32768, 32767], labels=["PLETH", "PLETH"]))
    np.testing.assert_array_equal(found.ppg.values[0], values[:, 0].ravel())
    assert found.ecg.name == "PLETH"


def test_many_signals_and_one_without_samples(tmp_path):
    values = digital(10, 600, 20)
    labels = ["", *(f"c{i}" for i in range(1, 600)), "PLETH"]
    path = write(
        tmp_path / "x.edf", [v.tobytes() for v in values], 601, samples=[*[20] * 600, 0], labels=labels, duration="0.16"
    )
    found = read_recording(path, Reading(ppg="c599", ecg="1"))
    np.testing.assert_array_equal(found.ppg.values, physical(values[:, 599]))
    assert found.ppg.fs == 125
    with pytest.raises(RecordingError, match="expected samples of channel 'PLETH', the header states none"):
        read_recording(path, Reading(signals="ppg"))


def test_no_duration_asks_for_the_rate(values, plain, tmp_path):
    path = write(tmp_path / "x.edf", plain, duration=0)
    with pytest.raises(RecordingError, match="expected the sampling rate, which the file does not state: --fs HZ"):
        read(path)
    assert read(path, fs=125).ppg.fs == 125


def test_only_a_block_of_the_file_is_in_memory(tmp_path):
    values = digital(40, 100, 2500)
    path = write(tmp_path / "x.edf", [v.tobytes() for v in values], 100, samples=[2500] * 100)
    del values
    tracemalloc.start()
    read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6 < path.stat().st_size


def test_damaged_headers_are_read_or_refused_in_a_sentence(values, tmp_path):
    """Bytes flipped and files cut, as a damaged card leaves them."""
    rng = random.Random(3)
    fields = with_times()
    good = header(fields.pop("signals"), records=30, **fields) + b"".join(timed(values, list(range(30))))
    path = tmp_path / "x.edf"
    read_ones, refused = 0, []
    for _ in range(400):
        raw = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = rng.randrange(256) if rng.random() < 0.5 else rng.randrange(1024)
            raw[place] = rng.choice([0, 32, 45, 48, 57, 255, rng.randrange(256)])
        if rng.random() < 0.2:
            del raw[rng.randrange(len(raw)) :]
        path.write_bytes(raw)
        try:
            found = read(path, fs=rng.choice([None, 125.0]))
        except RecordingError as error:
            refused.append(str(error))
        else:
            read_ones += 1
            assert found.ppg.values.size
    assert read_ones > 100
    # Of the second kind are exceptions that no one thought of.
    assert not [message for message in refused if "\n" in message or "expected a readable file" in message]
