"""Tables whose rows are numbered: holes in the numbers are gaps, which --fs must not close."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_fast.recordings import Reading, read_recording

pandas = pytest.importorskip("pandas")
ROWS, FS = 400, 100.0
FRAME = pandas.DataFrame({"ppg": np.sin(np.arange(ROWS)), "ecg": np.cos(np.arange(ROWS))})


def missing(path, **options) -> list[int]:
    """The numbers of the missing samples of the PPG."""
    found = read_recording(path, Reading(fs=FS, **options))
    assert found.ppg.fs == FS
    values = found.ppg.cut(np.array([0]), np.array([0]), found.ppg.values.shape[1])[0]
    return np.flatnonzero(np.isnan(values)).tolist()


def write(frame, path) -> None:
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_csv(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_index_with_holes_tells_of_gaps(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write(FRAME.drop(index=range(200, 250)), path)
    assert missing(path) == list(range(200, 250))
    assert missing(path, time="none") == []
    write(FRAME, path)
    assert missing(path) == []


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_index_that_starts_again_is_said(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write(pandas.concat([FRAME, FRAME]), path)
    found = read_recording(path, Reading(fs=FS))
    assert found.ppg.values.shape == (1, 2 * ROWS)
    assert any("samples are taken as even" in note for note in found.notes)


@pytest.mark.parametrize("period", [16, 256, 2**16])
def test_lost_samples_of_a_counter_that_wraps(tmp_path, period):
    """BITalino and OpenSignals count samples from 0 to 15 or to 65535 as nSeq."""
    frame = FRAME.assign(nSeq=np.arange(ROWS) % period).drop(index=[40, 41, 301])
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert missing(tmp_path / "x.csv") == [40, 41, 301]


@pytest.mark.parametrize("name", ["ts", "frame", "seq"])
def test_names_of_times_and_counters(tmp_path, name):
    frame = FRAME.assign(**{name: np.arange(ROWS)}).drop(index=range(100, 150))
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert missing(tmp_path / "x.csv") == list(range(100, 150))
