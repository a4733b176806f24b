"""Readers of recordings, and cutting them into windows."""

from __future__ import annotations

import os
import re

import h5py
import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, continuous, windows
from xmae_fast.data import Channel, Reading, Recording, RecordingError, read_recording
from xmae_fast.preparation.windows import cut
from xmae_fast.recordings.channels import candidates
from xmae_fast.recordings.grid import place
from xmae_fast.recordings.sources import find_sources, fingerprint


@pytest.fixture(scope="module")
def signal():
    return continuous()


def test_multi_segment_wfdb_and_its_gaps(signal, tmp_path):
    wfdb = pytest.importorskip("wfdb")

    for name, (start, stop) in {"m_1": (0, 2000), "m_2": (2000, 5000)}.items():
        both = np.stack([x[start:stop] for x in signal], 1)
        form = {"units": ["NU", "mV"], "sig_name": ["Pleth", "II"], "fmt": ["16", "16"], "write_dir": str(tmp_path)}
        wfdb.wrsamp(name, fs=FS, p_signal=both, **form)
    (tmp_path / "m_layout.hea").write_text("m_layout 2 125 0\n~ 0 200/NU 16 0 0 0 0 Pleth\n~ 0 200/mV 16 0 0 0 0 II\n")
    (tmp_path / "m.hea").write_text("m/4 2 125 5500\nm_layout 0\nm_1 2000\n~ 500\nm_2 3000\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "fixed.hea").write_text("fixed/2 2 125 5000\nm_1 2000\nm_2 3000\n")
    sources, aside = find_sources(tmp_path)
    assert [source.name for source in sources] == ["fixed.hea", "m.hea"]
    assert not aside
    fixed, variable = (read_recording(source.path) for source in sources)
    for k, (a, b) in enumerate(((fixed.ppg, variable.ppg), (fixed.ecg, variable.ecg))):
        np.testing.assert_allclose(a.values[0], signal[k], atol=1e-4)
        np.testing.assert_array_equal(b.values[0], np.insert(a.values[0], 2000, np.full(500, np.nan)))
    before = fingerprint(sources[1])
    os.utime(tmp_path / "m_2.dat", ns=(1, 1))
    assert fingerprint(sources[1]) != before


def test_mat_of_matrices_and_tables_of_dates(tmp_path):
    pytest.importorskip("pandas")
    ppg, ecg = windows(1, 3)
    with h5py.File(tmp_path / "x.mat", "w") as file:
        for name, x in (("PPG_Raw", ppg), ("ECG_Raw", ecg), ("PPG_F", ppg)):
            file[f"Data/{name}"] = x.T
        file["Data/WinID"] = np.array([[4.0, 5.0, 6.0]])
    found = read_recording(tmp_path / "x.mat")
    np.testing.assert_array_equal(found.ecg.values, ecg)
    assert (found.ppg.fs, found.ids[2]) == (125, ("1", "6", "3"))
    rows = [f"2026-01-01 00:00:{i / 50:09.6f}\t{x}\t{x}\n" for i, x in enumerate(range(100))]
    (tmp_path / "x.tsv").write_text("".join(["timestamp\tPPG (NU)\tECG lead I\n", *rows]))
    found = read_recording(tmp_path / "x.tsv")
    assert (found.ppg.fs, found.start, found.ecg.name) == (50, "2026-01-01T00:00:00", "ECG lead I")
    assert found.ecg.values[0].tolist() == list(range(100))
    with pytest.raises(RecordingError, match=r"x\.tsv: CSV: expected a channel 'z' for the ECG, found 'timestamp', "):
        read_recording(tmp_path / "x.tsv", Reading(ecg="z"))


def test_windows_overlap_and_cut_pieces(signal):
    piece = Recording(Channel("a", signal[0][None], FS), Channel("b", np.repeat(signal[1], 2)[None], 2 * FS))
    cuts = cut(piece, 10, 2.5)
    assert cuts.starts.tolist() == [2.5 * k for k in range(13)]
    ppg, ecg = cuts.signals(slice(1, 3))
    np.testing.assert_array_equal(ppg[1], signal[0][625:1875])
    np.testing.assert_array_equal(ecg[0, ::2], signal[1][312:1562])
    pieces = [Channel("a", x.reshape(2, -1), FS) for x in signal]
    cuts = cut(Recording(*pieces, subjects=["p", "q"], ids=[("1", "7", "8")] * 2, starts=np.array([0, 100])), 10, 10)
    assert cuts.starts.tolist() == [0, 10, 100, 110]
    assert (cuts.subjects, cuts.win_ids) == (["p", "p", "q", "q"], ["7-1", "7-2", "7-1", "7-2"])
    np.testing.assert_array_equal(cuts.signals(slice(2, 4))[1], signal[1].reshape(4, -1)[2:])
    slow = Channel("a", np.zeros((1, 24987)), 62.4725)  # the last window's end depends on rounding
    assert len(cut(Recording(slow, slow), 10, 10).starts) == 39


def test_channels_by_name():
    assert candidates(["I", "II", "ECG"], "ECG") == [1]
    assert candidates([" PLETH_HR", "x/Pleth [NU]"], "PPG") == [1]
    assert candidates(["V", " AVR", "MCL1"], "ECG") == [0, 1, 2]
    assert candidates(["a", "B"], "PPG", "b") == [1]
    assert candidates(["b", "a", "b "], "ECG", "b") == [0, 2]
    assert candidates(["a", "b", "1"], "ECG", "1") == [2]  # a name goes before a number
    assert candidates(["a", "b"], "ECG", "1") == [1]
    assert candidates(["PPG green", "PPG ir", "ecg"], "PPG", "ppg*") == [0, 1]
    for wanted in ("c", "2", "x*"):
        with pytest.raises(ValueError, match=rf"expected a channel '{re.escape(wanted)}' for the ECG, found 'a', 'B'"):
            candidates(["a", "B"], "ECG", wanted)


def test_times_with_gaps():
    t = np.round(np.arange(10000) / 124.945, 3)
    [x], fs, *_ = place(t, [t])
    assert fs == pytest.approx(124.945, rel=1e-4)
    assert x is t
    [x], fs, *_ = place(np.delete(t, slice(10, 20)), [np.delete(t, slice(10, 20))])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(x)), np.arange(10, 20))
    coarse = np.round(np.arange(3000) / 125, 2)  # as in BIDMC's files, where neighbours share a time
    assert place(coarse, [])[1] == 125
    with pytest.raises(ValueError, match="evenly spaced"):
        place(np.array([0, 1, 1.4, 1e6]), [np.zeros(4)])
