"""inspect_shards, its report and its picture."""

import json
import os
import sys

import h5py
import numpy as np
import pytest

pytest.importorskip("rich", reason="reports need rich (pip install xmae-fast[eval])")
pytest.importorskip("matplotlib", reason="pictures need matplotlib (pip install xmae-fast[eval])")

from matplotlib import image
from rich.console import Console

from tests.data.packing import values, write_published
from xmae_fast.data import SegmentLoader, draw_examples, inspect_shards, print_report, problems
from xmae_fast.data.inspection import inspect as inspection
from xmae_fast.data.inspection import picture as inspection_picture


@pytest.fixture
def folder(tmp_path):
    """a.h5, published: 60 segments (2 constant, one of them of low quality, and 1 not finite) and 2 malformed records;
    b.h5, packed and compressed: 30 segments of one subject; c.h5: broken."""
    names = write_published(tmp_path / "a.h5", values(60, 40))
    low, constant, non_finite = names[0], *[name for name in names if float(name.split("+++")[4]) >= 0.9][:2]
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file[low][:, 1] = 1.0
        file[constant][:, 2] = 0.5
        file[non_finite][3:5, 1] = np.nan
        file["d_1/oops"] = np.zeros((40, 3), "f2")
        file["d_2/0999+++1+++1+++1+++0.990+++nan"] = np.zeros((7, 3), "f2")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for name, signal in zip(("ppg", "ecg"), values(30, 40, ">f4"), strict=True):
            file.create_dataset(name, data=signal, compression="gzip")
        file["ppg_quality"], file["ecg_quality"] = np.linspace(-0.1, 1.1, 30), np.full(30, 1.0)
    (tmp_path / "c.h5").write_bytes(b"no HDF5")
    return tmp_path


@pytest.fixture
def report(folder):
    return inspect_shards(folder, quality=(0.9, 0.8))


def printed(report, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    print_report(report, console)
    return console.export_text()


def test_shards(folder, report):
    first, second = report.shards
    assert (first.path, first.layout, first.segments, first.samples) == (str(folder / "a.h5"), "published", 62, 40)
    assert (first.sampling_freq, first.dtype, first.mapped, first.why_not) == (100, "float16", True, "")
    assert (second.layout, second.segments, second.sampling_freq) == ("packed", 30, None)
    assert (second.dtype, second.mapped, second.why_not) == ("float32 big-endian", False, "filters: deflate")
    assert first.size == os.path.getsize(folder / "a.h5")
    assert report.size == first.size + second.size
    assert list(report.broken) == [str(folder / "c.h5")]
    assert report.segments == 92
    assert report.subjects == 4
    assert report.segments_per_subject == {"min": 20, "median": 21, "max": 30}


def test_qualities(folder, report):
    with h5py.File(folder / "a.h5") as file:
        keys = [key.split("+++") for group in file.values() for key in group if key != "oops"]
    ppg = np.array([float(key[4]) for key in keys] + np.linspace(-0.1, 1.1, 30).tolist())
    found = report.ppg_quality
    inside = ppg[(ppg >= 0) & (ppg <= 1)]
    assert found.counts == [int(((inside >= i / 10) & (inside < (i + 1) / 10 + (i == 9))).sum()) for i in range(10)]
    assert (found.threshold, found.reached, found.below) == (0.9, (ppg >= 0.9).sum(), (ppg < 0.9).sum())
    assert (found.outside, found.unknown) == (6, 1)
    assert report.ecg_quality.unknown == 2  # the malformed key, and a quality of NaN
    assert report.ecg_quality.counts == [0] * 9 + [90]
    assert report.ecg_quality.threshold == 0.8


def test_what_a_loader_would_use(folder, report):
    with pytest.warns(UserWarning, match="left out"):
        loader = SegmentLoader(folder, quality=(0.9, 0.8))
    assert report.used == len(loader.segments)
    assert report.used_subjects == len(loader.subjects)
    assert report.rejected == dict(loader.rejected)
    assert not report.refused
    assert inspect_shards(folder, quality=2.0).refused == "no segment remains"


def test_problems(folder, report):
    assert report.problems == {"constant": 2, "malformed key": 1, "wrong shape or dtype": 1, "non-finite": 1}
    assert report.rejected["constant"] == 1  # the other one is of low quality
    reasons = {record.record: record.reason for record in report.problem_records}
    assert {record.shard for record in report.problem_records} == {str(folder / "a.h5")}
    assert len(reasons) == 5
    assert reasons["d_1/oops"] == "malformed key"
    assert reasons["d_2/0999+++1+++1+++1+++0.990+++nan"] == "wrong shape or dtype"
    assert sorted(reasons.values()).count("constant") == 2


def test_only_the_first_problems_are_named(tmp_path):
    signals = values(60, 40)
    signals[0, 10:50] = 1.0
    names = write_published(tmp_path / "a.h5", signals)
    report = inspect_shards(tmp_path / "a.h5", quality=0)
    assert report.problems == {"constant": 40}
    assert [record.record for record in report.problem_records] == names[10:30]
    assert "... and 20 more" in printed(report)


def test_json(report):
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["shards"][1]["why_not"] == "filters: deflate"
    assert plain["problem_records"][0].keys() == {"shard", "record", "reason"}


def test_shards_that_do_not_go_together(tmp_path):
    for i, (L, freq) in enumerate([(40, 100), (50, 100), (40, 125)]):
        write_published(tmp_path / f"{i}.h5", values(20, L), freq=freq)
    first, longer, faster = (str(tmp_path / f"{i}.h5") for i in range(3))
    assert inspect_shards([first, longer], quality=0).refused == "segments of 40, 50 samples in different shards"
    report = inspect_shards([first, faster], quality=0)
    assert report.refused == "100, 125 Hz in different shards"
    assert "A loader would raise an error: 100, 125 Hz" in printed(report)
    with pytest.raises(ValueError, match="one sampling frequency"):
        SegmentLoader([first, faster], quality=0)


def test_no_shard_can_be_read(folder):
    with pytest.raises(ValueError, match=r"no readable shard in .*c\.h5 \(shard .*c\.h5: expected"):
        inspect_shards(folder / "c.h5")


@pytest.mark.parametrize("width", [80, 140])
def test_printed(folder, report, width):
    text = printed(report, width)
    assert max(map(len, text.splitlines())) <= width
    lines = [line.split() for line in text.splitlines()]
    assert ["a.h5", "published", "62", "40", "100", "float16"] in [line[:6] for line in lines]
    assert f"cannot be read: shard {folder / 'c.h5'}" in text.replace("\n", "") or width == 80
    assert ["at", "or", "above", str(report.ppg_quality.reached), "90"] in lines
    assert ["used,", "of", "4", "subjects", str(report.used), f"{report.used / 92:.1%}"] in lines
    assert ["malformed", "key", "1", "1.1%"] in lines
    assert ["malformed", "key", "d_1/oops", "a.h5"] in lines
    bars = {line[:3]: line.count("█") for line in text.splitlines() if line[4:6] == "to"}
    assert bars["0.9"] > bars["0.5"] > bars["0.1"]


def test_names_are_no_markup(tmp_path):
    path = tmp_path / "[red]a.h5"
    signals = values(3, 40)
    signals[0, 0] = 1.0
    write_published(path, signals)
    text = printed(inspect_shards(str(path)))
    assert text.count("[red]a.h5") == 2


def size_of(path) -> tuple[int, int]:
    return image.imread(path).shape[:2]


def test_picture(folder, tmp_path, monkeypatch):
    drawn, draw = [], inspection_picture._draw
    monkeypatch.setattr(inspection_picture, "_draw", lambda panel, one: drawn.append(one) or draw(panel, one))
    out = tmp_path / "out" / "examples.png"
    out.parent.mkdir()
    draw_examples(folder, out, count=2, seed=1)
    assert os.listdir(out.parent) == ["examples.png"]
    height, width = size_of(out)
    assert width > 1500
    assert image.imread(out)[..., :3].std() > 0.05
    used, rejected = drawn[:2], drawn[2:]
    assert all(not example.reason and example.quality[0] >= 0.9 for example in used)
    assert len({example.reason for example in rejected}) == 3
    for example in drawn:
        if example.reason == "wrong shape or dtype":
            assert example.signals is None
        else:
            assert all(signal.shape == (40,) for signal in example.signals)
    published = [example for example in used if example.sampling_freq]
    with h5py.File(folder / "a.h5") as file:
        for example in published:
            np.testing.assert_array_equal(example.signals[0], file[example.record][:, 2])
            np.testing.assert_array_equal(example.signals[1], file[example.record][:, 1])
    first = [example.record for example in drawn]
    for seed, same in ((1, True), (2, False)):
        drawn.clear()
        draw_examples(folder, out, count=2, seed=seed)
        assert ([example.record for example in drawn] == first) == same
    draw_examples(folder / "b.h5", out, count=1)
    assert size_of(out) != (height, width)


def test_rejected_examples_are_of_many_reasons(folder):
    index = inspection.index_of(folder, None, None)
    rows = inspection.problem_rows(index, "float16")
    chosen = {tuple(inspection_picture._one_of_each(index, np.roll(rows, k), "float16")) for k in range(len(rows))}
    assert len(chosen) > 1
    for rows in chosen:
        assert list(rows) == sorted(rows)
        assert len({problems.describe(int(index.problem[row]), "float16") for row in rows}) == 3


def test_pictures_that_cannot_be_drawn(folder, tmp_path):
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        draw_examples(folder, tmp_path / "x.png", count=0)
    with pytest.raises(ValueError, match="no segment to draw with quality 2"):
        draw_examples(folder / "b.h5", tmp_path / "x.png", quality=2.0)
    with pytest.raises(FileNotFoundError, match="existing folder"):
        draw_examples(folder, tmp_path / "no" / "x.png")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(("library", "say"), [("rich", "need rich"), ("matplotlib", "need matplotlib")])
def test_missing_libraries_are_named(folder, report, tmp_path, monkeypatch, library, say):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(ImportError, match=rf'{say}: pip install "xmae_fast\[eval\]"'):
        print_report(report) if library == "rich" else draw_examples(folder, tmp_path / "x.png")


@pytest.mark.skipif("XMAE_FAST_REAL_DATA" not in os.environ, reason="XMAE_FAST_REAL_DATA names no shard of real data")
def test_real_recordings(tmp_path):
    report = inspect_shards(os.environ["XMAE_FAST_REAL_DATA"], cache_dir=tmp_path)
    assert (report.segments, report.used, report.subjects) == (78, 67, 2)
    assert report.shards[0].sampling_freq == 100
    draw_examples(os.environ["XMAE_FAST_REAL_DATA"], tmp_path / "x.png", cache_dir=tmp_path)
    assert image.imread(tmp_path / "x.png")[..., :3].std() > 0.05
