"""`xmae-fast embed --html` and `write_embedding_page`: the page says what the files say."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tests.embedding.conftest import pulses
from tests.reports.reading import read
from xmae_fast import embed_files, read_embeddings
from xmae_fast.cli import main
from xmae_fast.embedding import write_embedding_page
from xmae_fast.embedding.page_pictures import components_of

pytest.importorskip("matplotlib")
FS = 64.0
OPTIONS = {"batch_size": 4, "part_rows": 4, "device": "cpu"}
EVIL = "<script>alert(1)<script>"


@pytest.fixture
def recordings(tmp_path):
    """A table of 60 s that lacks 29 s, a recording whose second half is noise, and one that cannot be read."""
    pytest.importorskip("pandas")
    folder = tmp_path / "in"
    folder.mkdir()
    gap, noisy = pulses(60, FS, seed=3), pulses(33, FS, seed=4)
    there = np.ones(len(gap), bool)
    there[round(12 * FS) : round(41 * FS)] = False
    noisy[1000:] += np.random.default_rng(0).normal(0, 400, len(noisy) - 1000)
    rows = np.stack([np.arange(len(gap)) / FS, gap], 1)[there]
    np.savetxt(folder / f"{EVIL}.csv", rows, delimiter=",", header="time,ppg", comments="", fmt="%.9g")
    np.savez(folder / "noisy.npz", ppg=noisy, fs=FS)
    np.savez(folder / "bad.npz", hr=np.arange(9.0), fs=FS)
    return folder


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_the_command_writes_a_page(model, recordings, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    out, file = tmp_path / "out", tmp_path / "out" / "report.html"
    command = ["embed", str(recordings), "-o", str(out), "-m", str(tmp_path / "model"), "--html", str(file)]
    assert main(command) == 1  # one recording cannot be read
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    page, stored = read(file), read_embeddings(out)
    assert page.tags.count("script") == 1
    assert str(tmp_path) not in page.text
    assert "xmae-fast embed in -o out -m model --html report.html" in page.text
    quality = stored.columns["ppg_quality"]
    assert f"{(quality >= 0.9).sum()} of {len(stored)} windows" in page.text
    assert "1 of 3 recordings could not be embedded at all" in page.text
    histogram = [int(count) for _, count in texts(page.table_below("Quality of the PPG"))]
    assert histogram[0] == (quality >= 0.9).sum()
    assert sum(histogram) == np.isfinite(quality).sum()
    with open(out / "recordings.csv", newline="") as rows:
        known = {row["recording"]: row for row in csv.DictReader(rows)}
    shown = texts(page.table_below("Recordings"))
    assert [[row[0], row[1], row[6]] for row in shown] == [
        [name, row["windows"], row["channel"]] for name, row in known.items() if not row["error"]
    ]
    left_out = [table for table in page.tables if table.heading == "Left out, and why"]
    reasons, spans, by_recording, failed = map(texts, left_out)
    assert dict((row[0], row[1]) for row in reasons) == {
        "window without any sample": "5", "window that misses more than half of its samples": "1",
    }  # fmt: skip
    assert spans == [[f"{EVIL}.csv", "10.0", "40.0", "30.0"]]
    assert [row[0] for row in by_recording] == [f"{EVIL}.csv"]
    assert failed[0][0] == "bad.npz"
    assert len(page.images) == 3  # two recordings and the map
    before = file.read_bytes()
    (recordings / "bad.npz").unlink()
    assert main([*command, "--overwrite"]) == 0
    assert file.read_bytes() != before


def test_a_page_can_be_written_again_of_finished_embeddings(model, packed, tmp_path):
    embed_files(packed, tmp_path / "out", model, output="tokens", device="cpu", part_rows=40)
    write_embedding_page(tmp_path / "out", tmp_path / "page.html", model="a<b>")
    page = read(tmp_path / "page.html")
    assert "90 segments of 45 subject(s), output tokens, 10 x 16 numbers each" in " ".join(page.text.split())
    assert "a<b>, sha256:" in page.text
    assert "Nothing was left out." in page.text
    assert "Along time" not in page.headings
    assert len(page.images) == 1


def test_rows_of_an_array_are_parts(model, tmp_path):
    signals = np.stack([pulses(16, FS, seed=seed) for seed in range(3)])
    np.save(tmp_path / "x.npy", signals)
    embed_files(tmp_path / "x.npy", tmp_path / "out", model, fs=FS, **OPTIONS)
    write_embedding_page(tmp_path / "out", tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert [image.alt.split(":")[0] for image in page.images[:3]] == [f"x.npy, part {k}" for k in (1, 2, 3)]
    assert "Where there is no window" not in page.text


def test_unfinished_embeddings_have_no_page(model, packed, tmp_path, monkeypatch, capsys):
    model.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = tmp_path / "page.html"
    command = ["embed", str(packed), "-o", str(tmp_path / "out"), "-m", str(tmp_path / "model"), "--part-rows", "50"]
    assert main([*command, "--html", str(file)]) == 0
    assert "the page is not written, as parts of other processes are still missing" in capsys.readouterr().err
    assert not file.exists()
    monkeypatch.setenv("RANK", "1")
    assert main([*command, "--html", str(file)]) == 0
    assert read(file).tables


def test_pages_that_cannot_be_written_are_refused_before_the_work(model, recordings, tmp_path, capsys):
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    command = ["embed", str(recordings / "noisy.npz"), "-o", str(tmp_path / "out")]
    for file, message in (
        (mine, "mine.html is there and is not a page of xmae-fast"),
        (tmp_path / "no" / "x.html", "--html: expected a file in an existing folder"),
        (recordings / "noisy.npz", "--html: expected another file than the input"),
    ):
        assert main([*command, "--html", str(file)]) == 2
        assert message in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_components():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(50, 4)) * [9, 3, 1, 0]
    embeddings[7] = np.nan
    good = np.ones(50, bool)
    good[40:] = False
    embeddings[40:] *= 100
    found = components_of(embeddings, good)
    assert found is not None
    scores = found.of(embeddings)
    assert scores.shape == (50, 3)  # the fourth number never varies
    np.testing.assert_allclose(np.nanstd(scores[:40], axis=0, ddof=1), 1, rtol=1e-9)
    assert np.isnan(scores[7]).all()
    assert found.share[0] > 0.8
    assert components_of(embeddings[:5], good[:5]) is None
    assert components_of(np.ones((20, 3)), np.ones(20, bool)) is None
