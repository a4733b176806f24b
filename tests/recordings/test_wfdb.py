"""WFDB records in the layouts that databases have, and windows of recordings with long gaps."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmae_fast.preparation.windows import cut
from xmae_fast.recordings.joining import join
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Recording, RecordingError
from xmae_fast.recordings.sources import find_sources, fingerprint, read_recording
from xmae_fast.recordings.stretches import Stretches

wfdb = pytest.importorskip("wfdb")

LINE = "{file} 16 {gain}(0)/NU 16 0 0 0 0 {name}"


def samples(frames: int = 2000, signals: int = 2, seed: int = 0) -> np.ndarray:
    """[frames, signals] int16 of noise."""
    return np.random.default_rng(seed).integers(-9000, 9000, (frames, signals)).astype("<i2")


def record(folder, name, values, names=("PLETH", "II"), gain=100, rate="125", frames=None, end=""):
    """A record of format 16; `end` follows the number of frames in the first line."""
    (folder / f"{name}.dat").write_bytes(values.tobytes())
    lines = [LINE.format(file=f"{name}.dat", gain=gain, name=label).rstrip() for label in names]
    head = f"{name} {len(names)} {rate} {len(values) if frames is None else frames} {end}".rstrip()
    (folder / f"{name}.hea").write_text("\n".join([head, *lines, "# a comment", ""]))
    return folder / f"{name}.hea"


def layout(folder, name="layout", names=("PLETH", "II"), frames=(1, 1)):
    lines = [f"~ 0x{n} 200/mV 16 0 0 0 0 {label}" for label, n in zip(names, frames, strict=True)]
    (folder / f"{name}.hea").write_text("\n".join([f"{name} {len(names)} 125 0", *lines, ""]))


def several(folder, segments, frames="", name="m", stated=None, signals=2):
    head = f"{name}/{stated or len(segments)} {signals} 125 {frames}"
    (folder / f"{name}.hea").write_text("\n".join([head, *segments, ""]))
    return folder / f"{name}.hea"


def test_signals_without_description_have_numbers(tmp_path):
    values = samples()
    path = record(tmp_path, "n", values, ("", ""))
    with pytest.raises(RecordingError, match=r"expected a channel with a name of PPG, found '0', '1'"):
        read_recording(path)
    found = read_recording(path, Reading(ppg="1", ecg="0"))
    np.testing.assert_array_equal(found.ppg.values[0], values[:, 1] / 100)
    layout(tmp_path)
    both = read_recording(several(tmp_path, ["layout 0", "n 2000"], 2000))
    np.testing.assert_array_equal(both.ecg.values[0], values[:, 1] / 100)
    (tmp_path / "bare.hea").write_text("bare 2 125 2000\nn.dat 16\nn.dat 16 100\n")
    bare = read_recording(tmp_path / "bare.hea", Reading(ppg="0", ecg="1"))
    np.testing.assert_array_equal(bare.ecg.values[0], values[:, 1] / 100)


def test_segments_have_gaps_gains_and_channels_of_their_own(tmp_path):
    a, b, c = samples(2000), samples(1000, 2, 1), samples(500, 1, 2)
    layout(tmp_path, names=("II", "PLETH"))
    record(tmp_path, "a", a)
    record(tmp_path, "b", b, ("II", "PLETH"), gain=50)
    record(tmp_path, "c", c, ("PLETH",))
    found = read_recording(several(tmp_path, ["layout 0", "a 2000", "~ 300", "b 1000", "c 500", "~ 100"], 3900))
    nan = np.full
    ppg = [a[:, 0] / 100, nan(300, np.nan), b[:, 1] / 50, c[:, 0] / 100, nan(100, np.nan)]
    ecg = [a[:, 1] / 100, nan(300, np.nan), b[:, 0] / 50, nan(600, np.nan)]
    np.testing.assert_array_equal(found.ppg.values[0], np.concatenate(ppg))
    np.testing.assert_array_equal(found.ecg.values[0], np.concatenate(ecg))
    assert not found.notes
    whole = wfdb.rdrecord(str(tmp_path / "m"))
    np.testing.assert_array_equal(whole.p_signal, np.stack([found.ecg.values[0], found.ppg.values[0]], 1))


def test_segment_lines_that_are_short(tmp_path):
    values = samples()
    layout(tmp_path)
    record(tmp_path, "a", values)
    found = read_recording(several(tmp_path, ["layout 0", "a 2000", "~ 3000"], 5000, stated=4))
    assert found.notes == ["the header states 4 segments and names 3"]
    assert found.ppg.values.shape == (1, 5000)
    found = read_recording(several(tmp_path, ["a", "~ 10", "a"]))
    np.testing.assert_array_equal(found.ppg.values[0][2010:], values[:, 0] / 100)
    assert len(found.notes) == 2
    with pytest.raises(RecordingError, match="expected the number of frames of segment ~"):
        read_recording(several(tmp_path, ["a 2000", "~"]))
    with pytest.raises(RecordingError, match=r"expected the segment b\.hea beside m\.hea"):
        read_recording(several(tmp_path, ["a 2000", "b 100"]))
    with pytest.raises(RecordingError, match="the header names none"):
        read_recording(several(tmp_path, ["~ 10"]))
    record(tmp_path, "b", samples(), rate="250")
    with pytest.raises(RecordingError, match="segment b: expected 125 Hz as in the record, got 250 Hz"):
        read_recording(several(tmp_path, ["a 2000", "b 2000"]))


def test_a_gap_of_weeks_takes_no_memory(tmp_path):
    values = samples()
    layout(tmp_path)
    record(tmp_path, "a", values)
    path = several(tmp_path, ["layout 0", "a 2000", "~ 249996000", "a 2000"], 250_000_000)
    read_recording(path)  # imports
    tracemalloc.start()
    found = read_recording(path)
    windows = cut(found, 10, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6
    assert isinstance(found.ppg.values, Stretches)
    assert found.ppg.values.shape == (1, 250_000_000)
    assert windows.win_ids == ["1", "2", "3", "199999", "200000"]
    assert windows.starts.tolist() == [0, 10, 20, 1999980, 1999990]
    ppg, _ = windows.signals(slice(None))
    np.testing.assert_array_equal(ppg[[0, 4]], [values[:1250, 0] / 100, values[750:, 0] / 100])
    assert np.isnan(ppg[2]).all()


def test_long_signals_are_read_in_blocks(tmp_path, monkeypatch):
    """As wfdb reads them whole, whatever the format, with more than one sample in a frame, and with skew."""
    signals = [np.round(200 * np.sin(np.arange(3001 * n) / 9 + n)) / 200 for n in (2, 1, 1)]
    monkeypatch.setattr("xmae_fast.recordings.formats.wfdb_samples._BLOCK", 1001)
    for form in ("16", "212", "80", "24", "32", "61", "160", "310", "311", "8", "508", "516", "524"):
        name = f"f{form}"
        wfdb.wrsamp(
            name, fs=125, units=["NU", "mV", "mV"], sig_name=["Pleth", "II", "V"], e_p_signal=[x / 2 for x in signals],
            samps_per_frame=[2, 1, 1], fmt=[form] * 3, write_dir=str(tmp_path),
            **({"adc_gain": [100.0] * 3, "baseline": [0] * 3}),
        ) if form not in ("8", "61", "160", "310", "311") else None  # fmt: skip
        if not (tmp_path / f"{name}.hea").exists():
            raw = np.random.default_rng(1).integers(0, 256, 3001 * 4 * 2 + 8).astype(np.uint8)
            (tmp_path / f"{name}.dat").write_bytes(raw.tobytes())
            lines = [f"{name}.dat {form}x{n} 100(3)/NU 16 0 0 0 0 {s}" for n, s in ((2, "Pleth"), (1, "II"), (1, "V"))]
            (tmp_path / f"{name}.hea").write_text("\n".join([f"{name} 3 125 3001", *lines, ""]))
        for skew in ("", ":7"):
            text = (tmp_path / f"{name}.hea").read_text().replace(f"dat {form} ", f"dat {form}{skew} ", 1)
            (tmp_path / f"{name}.hea").write_text(text)
            whole = wfdb.rdrecord(str(tmp_path / name), smooth_frames=False)
            found = read_recording(tmp_path / f"{name}.hea")
            assert (found.ppg.fs, found.ecg.fs) == (250, 125)
            np.testing.assert_array_equal(found.ppg.values[0], whole.e_p_signal[0], err_msg=name)
            np.testing.assert_array_equal(found.ecg.values[0], whole.e_p_signal[1], err_msg=name)


def test_what_is_whole_of_a_short_signal_file(tmp_path):
    values = samples()
    path = record(tmp_path, "a", values)
    (tmp_path / "a.dat").write_bytes(values.tobytes()[:-1001])
    found = read_recording(path)
    np.testing.assert_array_equal(found.ecg.values[0], values[:1749, 1] / 100)
    assert found.notes == ["the signal file of a ends after 1749 of 2000 frames: what is there is read"]
    both = read_recording(several(tmp_path, ["a 2000", "~ 100"]))
    assert np.isnan(both.ecg.values[0][1749:]).all()
    np.testing.assert_array_equal(both.ecg.values[0][:1749], values[:1749, 1] / 100)
    record(tmp_path, "a", values, frames=1500)
    found = read_recording(path)
    assert found.ecg.values.shape == (1, 1500)
    assert found.notes == ["the signal file of a holds 2000 frames, the header states 1500: these are read"]
    record(tmp_path, "a", values, frames=0)
    assert read_recording(path).ecg.values.shape == (1, 2000)
    (tmp_path / "a.dat").write_bytes(b"")
    with pytest.raises(RecordingError, match="expected samples in the signal file of a, it has none"):
        read_recording(path)
    (tmp_path / "a.dat").unlink()
    with pytest.raises(RecordingError, match=r"expected the signal file a\.dat beside a\.hea"):
        read_recording(path)


def test_numerics_and_headers_without_signals_are_set_aside(tmp_path):
    record(tmp_path, "w", samples())
    numerics = record(tmp_path, "wn", samples(60, 3), ("HR", "PULSE", "SpO2"), rate="1")
    record(tmp_path, "s_1", samples(60, 1), ("HR",), rate="0.0166667")
    several(tmp_path, ["s_1 60"], 60, "sn", signals=1)
    layout(tmp_path)
    (tmp_path / "notes.hea").write_text("notes 0 125 2000\n")
    sources, aside = find_sources(tmp_path)
    assert [source.name for source in sources] == ["w.hea"]
    numbers = {".hea of numerics, at 1 Hz": 1, ".hea of numerics, at 0.0166667 Hz": 1}
    assert aside == {**numbers, ".hea without signals": 2}
    message = r"wn\.hea: WFDB: expected signals, found numerics at 1 Hz \(HR, PULSE, SpO2\): the waveforms are in"
    with pytest.raises(RecordingError, match=message):
        read_recording(numerics)


@pytest.mark.parametrize(
    ("end", "start", "said"),
    [
        ("", "", False),
        ("12:30:00", "", False),
        ("12:30:00 05/02/2024", "2024-02-05T12:30:00", False),
        ("12:30:00.25 05/02/2024", "2024-02-05T12:30:00.250000", False),
        ("9:5:3 5/2/2024", "2024-02-05T09:05:03", False),
        ("30:07 05/02/2024", "2024-02-05T00:30:07", False),
        ("24:00:00 05/02/2024", "2024-02-06T00:00:00", False),
        ("12:30:00.1234567 05/02/2024", "2024-02-05T12:30:00.123457", False),
        ("12:30:00 30/02/2024", "", True),
        ("12:30:00 2024-02-05", "", True),
    ],
)
def test_dates(end, start, said, tmp_path):
    values = samples()
    found = read_recording(record(tmp_path, "a", values, end=end))
    assert (found.start, bool(found.notes)) == (start, said)
    np.testing.assert_array_equal(found.ppg.values[0], values[:, 0] / 100)


def test_matlab_files_and_links(tmp_path):
    values = samples()
    real, links = tmp_path / "real", tmp_path / "links"
    real.mkdir()
    links.mkdir()
    (real / "a.mat").write_bytes(bytes(24) + values.tobytes())
    lines = [f"a.mat 16+24 100(0)/mV 16 0 0 0 0 {name}" for name in ("PLETH", "II")]
    (real / "a.hea").write_text("\n".join(["a 2 125 2000", *lines, ""]))
    (links / "other.hea").symlink_to(real / "a.hea")
    for path in (real / "a.hea", links / "other.hea"):
        found = read_recording(path)
        np.testing.assert_array_equal(found.ecg.values[0], values[:, 1] / 100)
    for folder in (real, links):
        sources, aside = find_sources(folder)
        assert len(sources) == 1
        assert not aside
    before = fingerprint(sources[0])
    (real / "a.mat").write_bytes(bytes(24) + values.tobytes()[:-4])
    assert fingerprint(sources[0]) != before


def test_names_and_units_that_wfdb_does_not_take(tmp_path):
    values = samples()
    (tmp_path / "a.1.dat").write_bytes(values.tobytes())
    lines = [f"a.1.dat 16 100/{unit} 16 7 0 0 0 {name}" for unit, name in (("a.u.", "PLETH (a.u.)"), ("µV", "II (mV)"))]
    (tmp_path / "a.1.hea").write_bytes("\n".join(["a.1 2 125.0/125(0) 2000", *lines, ""]).encode())
    found = read_recording(tmp_path / "a.1.hea")
    assert (found.ppg.name, found.ecg.name) == ("PLETH (a.u.)", "II (mV)")
    np.testing.assert_array_equal(found.ppg.values[0], (values[:, 0] - 7) / 100)


def test_damaged_headers_are_read_or_refused_in_a_sentence(tmp_path):
    rng = random.Random(5)
    path = record(tmp_path, "a", samples(500), end="12:30:00 05/02/2024")
    layout(tmp_path)
    multi = several(tmp_path, ["layout 0", "a 500", "~ 100"], 600)
    read_ones, refused = 0, []
    for good in (path, multi):
        text = good.read_bytes()
        for _ in range(100):
            raw = bytearray(text)
            for _ in range(rng.choice([1, 1, 3])):
                raw[rng.randrange(len(raw))] = rng.choice([32, 45, 47, 57, 10, rng.randrange(256)])
            good.write_bytes(raw[: rng.randrange(len(raw))] if rng.random() < 0.2 else raw)
            try:
                found = read_recording(good, Reading(ppg="0", ecg="1"))
            except RecordingError as error:
                refused.append(str(error))
            else:
                read_ones += 1
                assert found.ppg.values.size
        good.write_bytes(text)
    assert read_ones > 50
    # Of the second kind are exceptions that no one thought of.
    assert not [message for message in refused if "\n" in message or "expected a readable file" in message]


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 900)), max_size=6), st.integers(0, 4000),
    st.sampled_from([10, 2.5, 30]),
)  # fmt: skip
def test_windows_between_stretches(parts, tail, hop_s):
    """Those that are listed are, by number and values, those of the signal with its gaps written out."""
    firsts, pieces, end = [], [], 0
    for k, (gap, size) in enumerate(parts):
        firsts.append(end + gap)
        pieces.append(np.full(size, k + 1.0))
        end += gap + size
    length = end + tail + 100
    dense = np.full((1, length), np.nan)
    for first, piece in zip(firsts, pieces, strict=True):
        dense[0, first : first + len(piece)] = piece
    joined = join(firsts, pieces, length, 10)
    if isinstance(joined, Stretches):
        assert sum(map(len, joined.stretches)) <= sum(map(len, pieces)) + 600 * len(pieces)
    full = cut(Recording(Channel("a", dense, 10), Channel("b", dense, 10)), 10, hop_s)
    short = cut(Recording(Channel("a", joined, 10), Channel("b", joined, 10)), 10, hop_s)
    rows = np.searchsorted([int(k) for k in full.win_ids], [int(k) for k in short.win_ids])
    assert [full.win_ids[row] for row in rows] == short.win_ids
    np.testing.assert_array_equal(full.starts[rows], short.starts)
    every = full.signals(slice(None))[0]
    np.testing.assert_array_equal(every[rows], short.signals(slice(None))[0])
    left_out = np.setdiff1d(np.arange(len(every)), rows)
    assert np.isnan(every[left_out]).all()
    if isinstance(joined, Stretches):
        empty = ~joined.recorded(full.first[0], 100)
        assert not (empty[rows[1:]] & empty[rows[:-1]] & (np.diff(rows) == 1)).any()
    else:
        assert len(left_out) == 0
