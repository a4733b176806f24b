"""Text tables of every layout, and tables of Parquet."""

from __future__ import annotations

import gzip
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmae_fast.recordings import Reading, RecordingError, find_sources, read_recording

pandas = pytest.importorskip("pandas")

FS, ROWS = 50, 80
TIMES = [f"{i / FS:.2f}" for i in range(ROWS)]
PPG = [f"{v / 1000:.3f}" for v in np.random.default_rng(1).integers(-2000, 2000, ROWS)]
ECG = [f"{v / 1000:.3f}" for v in np.random.default_rng(2).integers(-2000, 2000, ROWS)]
COLUMNS = list(zip(TIMES, PPG, ECG, strict=True))
NAMES = ("time", "PPG", "ECG")


def table(names=NAMES, rows=COLUMNS, separator=",", above=(), end="\n"):
    """The text of a table."""
    lines = [*above, *([separator.join(names)] if names else []), *(separator.join(row) for row in rows)]
    return "".join(f"{line}{end}" for line in lines)


def check(found, ppg=PPG, ecg=ECG):
    """These are the numbers of the table, at its rate."""
    np.testing.assert_array_equal(found.ppg.values[0], np.array(ppg, np.float64))
    np.testing.assert_array_equal(found.ecg.values[0], np.array(ecg, np.float64))
    assert (found.ppg.fs, found.ecg.fs) == (FS, FS)


@st.composite
def layouts(draw):
    """Tables of one content in all layouts: their bytes, whether they are compressed, and whether they have names."""
    separator = draw(st.sampled_from([",", ";", "\t", "|", " ", "   "]))
    decimal = draw(st.sampled_from([".", ","]))
    quoting = draw(st.sampled_from(["", "names", "all"])) if decimal != separator else "all"
    quote = draw(st.sampled_from(['"', "'"])) if quoting != "all" else '"'
    blanks = draw(st.booleans()) and separator.strip() != ""
    encoding = draw(
        st.sampled_from(
            ["ascii", "utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]
        )
    )
    header, units = draw(st.booleans()), draw(st.booleans())
    trailing = draw(st.booleans()) and separator.strip() != ""
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    mark = draw(st.sampled_from(["#", "%", "//"]))

    def line(cells, quoted):
        cells = [f"{quote}{cell}{quote}" for cell in cells] if quoted else cells
        return (separator + " " * blanks).join(cells) + separator * trailing

    above = draw(st.sampled_from([[], ["Device: X100", "Rate: 50 Hz", ""], [f"{mark} device, X", f"{mark} rate, 50"]]))
    above = [*above, *(["Temperature: 30 °C"] if encoding == "cp1252" else [])]
    lines = [*above]
    if header:
        lines += [line(NAMES, quoting != "")] + ([line(("s", "NU", "mV"), quoting != "")] if units else [])
    lines += [line([cell.replace(".", decimal) for cell in row], quoting == "all") for row in COLUMNS]
    text = "".join(f"{one}{end}" for one in lines)
    return text.encode(encoding), draw(st.booleans()), header


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layouts())
def test_the_same_numbers_from_every_layout(tmp_path, layout):
    content, packed, header = layout
    path = tmp_path / ("x.csv.gz" if packed else "x.csv")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    check(read_recording(path, Reading() if header else Reading(ppg="1", ecg="2")))


def test_what_was_guessed_is_said(tmp_path):
    path = tmp_path / "x.txt"
    rows = [[cell.replace(".", ",") for cell in row] for row in COLUMNS]
    path.write_bytes(table(rows=rows, separator=";", above=["Gerät: Ü"]).encode("cp1252"))
    found = read_recording(path)
    check(found)
    text = "; ".join(found.notes)
    assert "cp1252" in text
    assert "semicolons between columns, a decimal comma, names in line 2" in text
    path.write_text(table())
    assert read_recording(path).notes == []


def test_options_go_before_guesses(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(table(above=["0.1,0.2,0.3", "0.1,0.2,0.3", "Ø"]).encode("cp850"))
    check(read_recording(path, Reading(skip_rows=3, encoding="cp850")))
    path.write_text(table(names=("PPG", "t2", "ECG"), rows=[(p, t, e) for t, p, e in COLUMNS]))
    check(read_recording(path, Reading(time="t2")))
    check(read_recording(path, Reading(time="1")))
    assert read_recording(path, Reading(time="none", fs=25)).ppg.fs == 25
    with pytest.raises(RecordingError, match=r"expected a column 'x' for the times, found 'PPG', 't2', 'ECG'"):
        read_recording(path, Reading(time="x"))
    with pytest.raises(RecordingError, match=r"found no time column in 'PPG', 't2', 'ECG': --fs HZ says it"):
        read_recording(path)
    path.write_text("PPG\n" + "".join(f"{i},{i}\n" for i in range(10, 90)))
    found = read_recording(path, Reading(signals="ppg", fs=FS, decimal=","))
    assert found.ppg.values[0][:2].tolist() == [10.1, 11.11]


def test_words_among_numbers_are_missing(tmp_path):
    path = tmp_path / "x.csv"
    rows = [list(row) for row in COLUMNS]
    for row, word in enumerate(("lost", "-", "null", "", "NaN", "lost", "#N/A", "inf", "0x1F", "lead off")):
        rows[3 * row + 2][1] = word
    path.write_text(table(rows=rows))
    found = read_recording(path)
    missing = [3 * row + 2 for row in range(10)]
    assert np.flatnonzero(np.isnan(found.ppg.values[0])).tolist() == missing
    kept = np.delete(np.arange(ROWS), missing)
    np.testing.assert_array_equal(found.ppg.values[0][kept], np.array(PPG, np.float64)[kept])
    [note] = found.notes
    assert note.startswith("10 of 80 values of 'PPG' are missing: 'lost'")
    for row in rows[:50]:
        row[2] = "bad"
    path.write_text(table(rows=rows))
    with pytest.raises(RecordingError, match=r"column 'ECG': expected numbers, found words such as 'bad'"):
        read_recording(path)


def test_remarks_in_the_place_of_rows_and_between_them(tmp_path):
    path = tmp_path / "x.csv"
    rows = [list(row) for row in COLUMNS]
    rows[30] = ["16.00", "lead off", ""]
    path.write_text(table(rows=[*rows[:50], ("99", "lead on", ""), *rows[50:]]))
    found = read_recording(path)
    assert found.ppg.fs == FS
    assert np.flatnonzero(np.isnan(found.ppg.values[0])).tolist() == [30]
    np.testing.assert_array_equal(found.ecg.values[0][31:], np.array(ECG, float)[31:])
    assert any(note.startswith("2 rows without values have times out of order") for note in found.notes)


def test_comments_cut_lines_and_prose(tmp_path):
    path = tmp_path / "x.csv"
    text = table(above=["# time,PPG,ECG"], names=())  # as numpy.savetxt writes names
    lines = text.splitlines(keepends=True)
    path.write_text("".join([*lines[:20], "# event, 3\n", "\n", *lines[20:], "1.6,0."]))
    found = read_recording(path)
    check(found)
    assert "the last line was cut off and is left out" in found.notes
    path.write_text("time;PPG;ECG\n" * 2 + "".join(f"{';'.join(row)}\n" for row in COLUMNS))
    check(read_recording(path))
    path.write_text(" | ".join(NAMES) + "\n-----|----|----\n" + "".join(f"{' | '.join(row)}\n" for row in COLUMNS))
    check(read_recording(path))
    commas = table().replace(".", ",").encode()
    for content, message in (
        (commas, "found 3 names above 6 columns: commas cannot be both between columns and decimal marks"),
        (b"", "expected a table, found an empty file"),
        (b"time,PPG,ECG\n", "expected a table of numbers, found 'time,PPG,ECG'"),
        (b"Dear reader,\nthis is a letter.\n", "expected a table of numbers, found 'Dear reader,'"),
        (b"\n\n\n", "expected a table of numbers, found an empty file"),
        (bytes(range(256)) * 40, "found bytes that are no text"),
        (b"0.1,0.2,0.3", "expected a channel with a name of PPG, found '0', '1', '2'"),
        (b"\x00\x00", "expected"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecordingError, match=message):
            read_recording(path)


def test_names_that_repeat_and_names_that_are_missing(tmp_path):
    path = tmp_path / "x.csv"
    noise = [f"{v:.2f}" for v in np.random.default_rng(3).normal(size=ROWS)]
    path.write_text(
        table(("time", "PPG", "PPG", "ECG"), [(t, n, p, e) for (t, p, e), n in zip(COLUMNS, noise, strict=True)])
    )
    check(read_recording(path, Reading(ppg="2")))
    check(read_recording(path, Reading(ppg="1")), ppg=noise)
    path.write_text(table(names=(), rows=[row[:2] for row in COLUMNS]))
    found = read_recording(path, Reading(signals="ppg"))
    assert (found.ppg.name, found.ppg.fs, found.ppg.values[0].tolist()) == ("1", FS, np.array(PPG, float).tolist())
    assert any("column '1' is taken for the PPG" in note for note in found.notes)
    path.write_text("\n".join(PPG))
    found = read_recording(path, Reading(signals="ppg", fs=FS))
    np.testing.assert_array_equal(found.ppg.values[0], np.array(PPG, float))
    path.write_text(table(("timestamp", "value"), [row[:2] for row in COLUMNS]))
    found = read_recording(path, Reading(signals="ppg"))
    np.testing.assert_array_equal(found.ppg.values[0], np.array(PPG, float))
    frame = pandas.DataFrame({"PPG": np.array(PPG, float), "ECG": np.array(ECG, float)})
    frame.to_csv(path)  # numbers of rows in a column without a name are no times
    check(read_recording(path, Reading(fs=FS)))
    frame.index = pandas.Timestamp("2024-03-01 10:00") + pandas.to_timedelta(np.arange(ROWS) * 20, unit="ms")
    frame.to_csv(path)
    found = read_recording(path)
    check(found)
    assert found.start == "2024-03-01T10:00:00"
    frame.columns = [0, 1]
    frame.to_csv(path)
    check(read_recording(path, Reading(ppg="0", ecg="1")))


def test_times_of_several_kinds(tmp_path):
    path = tmp_path / "x.csv"
    ms = [(str(20 * i), *row[1:]) for i, row in enumerate(COLUMNS)]
    path.write_text(table(rows=ms, above=(), names=()).replace("", ""))
    path.write_text("time,PPG,ECG\nms,NU,mV\n" + table(rows=ms, names=()))
    check(read_recording(path))
    gap = [row for i, row in enumerate(COLUMNS) if not 30 <= i < 60]
    path.write_text(table(rows=gap))
    found = read_recording(path, Reading(fs=FS))
    values = found.ppg.cut(np.array([0]), np.array([0]), ROWS)[0]
    assert np.flatnonzero(np.isnan(values)).tolist() == list(range(30, 60))


def test_texts_in_a_folder_count_if_they_are_tables(tmp_path):
    (tmp_path / "a.txt").write_text(table(separator="\t"))
    (tmp_path / "README.txt").write_text("Heart rates of 3 people.\nRecorded in 2024, 10 minutes each.\n")
    (tmp_path / "RR.txt").write_text("1203 1124 974 1168")
    (tmp_path / "notes.txt").write_text("x")
    sources, aside = find_sources(tmp_path)
    assert [source.name for source in sources] == ["a.txt"]
    assert aside == {".txt": 3}
    check(read_recording(sources[0].path))


@pytest.mark.parametrize("rows", [1000, 200_000])
def test_values_are_those_of_pandas(tmp_path, rows):
    """All digits are read as pandas reads them, also over several blocks."""
    rng = np.random.default_rng(rows)
    frame = pandas.DataFrame(
        {"time": np.arange(rows) / 64, "PPG": rng.normal(size=rows), "ECG": rng.normal(size=rows) * 1e-7}
    )
    text = frame.to_csv(index=False)
    (tmp_path / "x.csv").write_text(text)
    expected = pandas.read_csv(io.StringIO(text))
    found = read_recording(tmp_path / "x.csv")
    assert found.ppg.fs == 64
    for channel, name in ((found.ppg, "PPG"), (found.ecg, "ECG")):
        np.testing.assert_array_equal(channel.values[0], expected[name].to_numpy())


def frame_of(index=None):
    frame = pandas.DataFrame({"PPG": np.array(PPG, float), "ECG": np.array(ECG, float)})
    return frame if index is None else frame.set_index(index)


DATES = pandas.Timestamp("2024-03-01 10:00") + pandas.to_timedelta(np.arange(ROWS) * 20, unit="ms")
SECONDS = np.arange(ROWS) / FS


@pytest.mark.parametrize(
    "frame",
    [
        frame_of(DATES),
        frame_of(DATES.rename("moment")),
        frame_of(pandas.Index(SECONDS, name="time")),
        frame_of(pandas.Index(SECONDS)),
        frame_of(pandas.to_timedelta(SECONDS, unit="s")),
        frame_of().assign(elapsed=pandas.to_timedelta(SECONDS, unit="s")),
        frame_of().assign(elapsed=DATES.astype(str)),
        frame_of().assign(time=SECONDS, PPG=pandas.Categorical(np.array(PPG, float))),
    ],
    ids=["unnamed", "named", "time", "floats", "timedelta", "timedelta column", "texts", "dictionary"],
)
def test_parquet_times(tmp_path, frame):
    pytest.importorskip("pyarrow")
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=30)
    check(read_recording(tmp_path / "x.parquet"))
    frame = frame.drop(frame.index[20:40])
    frame.to_parquet(tmp_path / "x.parquet")
    for fs in (None, FS):
        found = read_recording(tmp_path / "x.parquet", Reading(fs=fs))
        values = found.ppg.cut(np.array([0]), np.array([0]), ROWS)[0]
        assert np.flatnonzero(np.isnan(values)).tolist() == list(range(20, 40))


def test_parquet_of_lists(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    ppg, ecg = np.random.default_rng(1).normal(size=(2, 5, 100))
    frame = pandas.DataFrame({"subject": list("abcde"), "ppg": list(ppg), "ecg": list(ecg), "fs": 25})
    frame.to_parquet(path)
    found = read_recording(path)
    np.testing.assert_array_equal(found.ppg.values, ppg)
    np.testing.assert_array_equal(found.ecg.values, ecg)
    assert (found.ppg.fs, list(found.subjects), found.ids[4]) == (25, list("abcde"), ("1", "5", "5"))
    frame.assign(ppg=[x[:90] if i == 2 else x for i, x in enumerate(ppg)]).to_parquet(path)
    with pytest.raises(
        RecordingError, match="expected lists of one length, a row for each recording, found 90 and 100"
    ):
        read_recording(path)
