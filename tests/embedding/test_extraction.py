"""`embed_files`: what is written and read back, resuming after SIGKILL, several processes, damage."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time

import h5py
import numpy as np
import pytest
import torch

from tests.data.layouts import write_packed, write_published
from tests.embedding.conftest import pulses
from xmae_fast import Embedder, embed_files, read_embeddings
from xmae_fast.data import SegmentLoader
from xmae_fast.data.segments import Segments
from xmae_fast.embedding import iter_embeddings

OPTIONS = {"batch_size": 4, "part_rows": 10, "device": "cpu"}


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def expected(model, packed):
    """The embeddings of the shard's segments, computed by the loader and the model."""
    (batch,) = SegmentLoader(packed, 90, quality=0, shuffle=False)
    with torch.no_grad():
        return model.ppg_path.encode(batch["ppg"][:, None], None, inference=True).numpy()


@pytest.mark.parametrize("file_format", ["h5", "npy", "parquet"])
@pytest.mark.parametrize("output", ["pooled", "tokens"])
def test_written_and_read_back(model, packed, expected, tmp_path, file_format, output):
    if file_format == "parquet":
        pytest.importorskip("pyarrow")
    told = []
    report = embed_files(
        packed, tmp_path / "out", model, output=output, file_format=file_format, progress=lambda *x: told.append(x),
        **OPTIONS,
    )  # fmt: skip
    assert (report.rows, report.parts, report.written, report.resumed, report.unusable) == (90, 9, 90, 0, 0)
    assert report.complete
    assert [x for x in told if x[0] == "embed"][-1] == ("embed", 90, 90)
    found = read_embeddings(tmp_path / "out")
    np.testing.assert_allclose(found.embeddings, expected.mean(1) if output == "pooled" else expected, atol=1e-5)
    assert found.embeddings.dtype == np.float32
    assert found.subject.tolist() == [str(i // 2) for i in range(90)]
    assert len(set(found.key)) == 90
    assert (found.columns["ppg_quality"] == 1).all()
    assert sum(map(len, iter_embeddings(tmp_path / "out"))) == 90
    before = content(tmp_path / "out")
    again = embed_files(packed, tmp_path / "out", model, output=output, file_format=file_format, **OPTIONS)
    assert (again.written, again.resumed) == (0, 90)
    assert content(tmp_path / "out") == before


def test_published_shards_quality_and_segments_that_went_bad(model, tmp_path, monkeypatch):
    ppg = np.stack([pulses(5, 100, 60 + i, i) for i in range(12)])
    ppg = (ppg - ppg.mean(1, keepdims=True)) / 500
    names = write_published(tmp_path / "a.h5", np.stack([ppg, ppg]))
    shard = tmp_path / "a.h5"
    found_in = embed_files(shard, tmp_path / "first", model, quality=0.9, dtype="float16", **OPTIONS)
    assert found_in.rejected == {}
    first = read_embeddings(tmp_path / "first")
    assert first.key.tolist() == sorted(names)
    assert first.embeddings.dtype == np.float16
    np.testing.assert_allclose(first.columns["ecg_quality"], 0.95, rtol=1e-6)
    with pytest.raises(FileExistsError, match=r"holds other embeddings \(.*quality.* differ\); overwrite"):
        embed_files(shard, tmp_path / "first", model, quality=0.8, dtype="float16", **OPTIONS)
    embed_files(shard, tmp_path / "first", model, output="projected", overwrite=True, **OPTIONS)
    assert read_embeddings(tmp_path / "first").embeddings.shape == (12, 8)
    read = Segments.read
    monkeypatch.setattr(Segments, "read", lambda self, items, *rest: read(self, items, *rest) & (items != 3))
    report = embed_files(shard, tmp_path / "second", model, **OPTIONS)
    assert report.unusable == 1
    assert "1 could not be embedded: NaN" in report.describe()
    second = read_embeddings(tmp_path / "second")
    assert np.isnan(second.embeddings).any(1).tolist() == [key == sorted(names)[3] for key in second.key]


def test_another_precision_is_other_work(model, packed, tmp_path):
    halves = {**OPTIONS, "autocast": torch.bfloat16}
    for name, first, second in (("whole", OPTIONS, halves), ("half", halves, OPTIONS)):
        embed_files(packed, tmp_path / name, model, **first)
        before = content(tmp_path / name)
        with pytest.raises(FileExistsError, match=r"holds other embeddings \(autocast differ\); overwrite"):
            embed_files(packed, tmp_path / name, model, **second)
        assert content(tmp_path / name) == before
        assert embed_files(packed, tmp_path / name, model, **first).resumed == 90


def test_recordings(model, tmp_path):
    one, two = pulses(33, 125, seed=1), np.stack([pulses(21, 125, seed=s) for s in (2, 3)]).astype(np.float32)
    two[1, 700:1400] = two[1, 700]
    np.save(tmp_path / "p1.npy", one)
    np.save(tmp_path / "p2.npy", two)
    np.save(tmp_path / "p3.npy", one[:100])
    report = embed_files(str(tmp_path / "p*.npy"), tmp_path / "out", model, fs=125, hop=2.5, **OPTIONS)
    assert report.rejected == {"recording shorter than a window": 1}
    found = read_embeddings(tmp_path / "out")
    direct = Embedder(model, hop=2.5, check=False)([one, two[0].astype(float), two[1].astype(float)], 125)
    np.testing.assert_allclose(found.embeddings, direct.embeddings, atol=1e-5)
    np.testing.assert_allclose(found.columns["time"], direct.times)
    np.testing.assert_allclose(found.columns["ppg_quality"], direct.quality, atol=1e-6)
    assert found.key[0] == "p1+++0.000"
    assert found.key[-1] == "p2/1+++15.000"
    assert sorted(set(found.subject)) == ["p1", "p2"]
    np.savez(tmp_path / "p4.npz", ppg=one, fs=125)
    assert embed_files(tmp_path / "p4.npz", tmp_path / "npz", model, **OPTIONS).rows == 6


def _extract(shard, folder, model, seconds, place):
    """Embed in a process of its own, slowly."""
    torch.set_num_threads(1)
    options = OPTIONS | ({} if place is None else {"rank": place[0], "world_size": place[1]})
    embed_files(shard, folder, model, progress=lambda *_: time.sleep(seconds), **options)


@pytest.fixture(scope="module")
def processes():
    """Starts processes quickly, because a server imports what they need once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "xmae_fast.embedding.embed", __name__])
    return context


def test_killed_ten_times_and_resumed(processes, model, packed, tmp_path):
    embed_files(packed, tmp_path / "whole", model, **OPTIONS)
    folder = str(model.save_pretrained(tmp_path / "model"))
    rng, killed = random.Random(0), 0
    for attempt in range(10):
        process = processes.Process(target=_extract, args=(packed, tmp_path / "killed", folder, 0.02, None))
        process.start()
        deadline = time.monotonic() + 20
        while attempt == 0 and not (tmp_path / "killed").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.join(rng.uniform(0.05, 0.35))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
    assert killed > 0
    (tmp_path / "killed" / ".part-00008.h5.0badc0de.tmp").write_bytes(b"half")
    last = tmp_path / "killed" / "part-00008.h5"
    last.unlink(missing_ok=True)
    report = embed_files(packed, tmp_path / "killed", model, **OPTIONS)
    assert report.written + report.resumed == 90
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_two_processes_share_the_work(processes, model, packed, tmp_path):
    embed_files(packed, tmp_path / "one", model, **OPTIONS)
    folder = str(model.save_pretrained(tmp_path / "model"))
    both = [
        processes.Process(target=_extract, args=(packed, tmp_path / "two", folder, 0, (rank, 2))) for rank in (0, 1)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_torchruns_place_is_taken(model, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    report = embed_files(packed, tmp_path / "out", model, **OPTIONS)
    assert (report.written, report.complete) == (20, False)
    assert "parts of other processes are still missing" in report.describe()
    with pytest.raises(ValueError, match=r"7 of 9 parts are missing, number 0 for one; the same command again goes on"):
        read_embeddings(tmp_path / "out")
    with pytest.raises(ValueError, match="overwrite: expected False with several processes"):
        embed_files(packed, tmp_path / "out", model, overwrite=True, **OPTIONS)


def test_what_is_not_embeddings_is_refused(model, packed, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match="expected a new folder, or one of embeddings, it holds 'thesis.tex'"):
        embed_files(packed, tmp_path / "mine", model, overwrite=True, **OPTIONS)
    with pytest.raises(FileNotFoundError, match="expected a folder of embeddings"):
        read_embeddings(tmp_path / "mine")
    out = tmp_path / "out"
    embed_files(packed, out, model, **OPTIONS)
    good = (out / "part-00003.h5").read_bytes()
    for bad in (good[:200], b"", (out / "part-00003.h5").read_bytes()[:-40] + b"x" * 40):
        (out / "part-00003.h5").write_bytes(bad)
        if bad[:200] == good[:200] and len(bad) == len(good):
            continue  # HDF5 does not notice every byte
        with pytest.raises(ValueError, match=r"part-00003.h5: expected a whole part"):
            read_embeddings(out)
    (out / "embeddings.json").write_text(json.dumps({"kind": "other", "version": 1}))
    with pytest.raises(ValueError, match="expected 'xmae_fast embeddings' of version 1, got 'other'"):
        read_embeddings(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file_format": "csv"}, "file_format: expected one of 'h5', 'npy', 'parquet', got 'csv'"),
        ({"dtype": "int8"}, "dtype: expected one of 'float32', 'float16', got 'int8'"),
        ({"part_rows": 0}, "part_rows: expected at least 1 or None, got 0"),
        ({"output": "x"}, "output: expected one of"),
        ({"fs": 125}, "fs: expected None with shards"),
        ({"rank": 1}, "rank, world_size: expected both or neither"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to world_size - 1 = 1, got 2"),
    ],
)
def test_errors_name_the_argument(model, packed, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        embed_files(packed, tmp_path / "out", model, **(OPTIONS | options))
    assert not (tmp_path / "out").exists()


def test_inputs_that_do_not_fit(model, packed, tmp_path):
    write_packed(tmp_path / "short.h5", np.random.default_rng(0).normal(size=(2, 4, 300)))
    with pytest.raises(ValueError, match=r"paths: expected segments of 500 samples at 100 Hz.*, got 300"):
        embed_files(tmp_path / "short.h5", tmp_path / "out", model, **OPTIONS)
    np.save(tmp_path / "x.npy", np.zeros((2, 2, 2)))
    for paths, options, message in (
        (
            [packed, tmp_path / "x.npy"],
            {},
            r"paths: expected shards or recordings, got both: .*shard.h5 is a shard",
        ),
        (tmp_path / "x.npy", {"fs": 100}, r"paths: expected real numbers \[T\] or \[R, T\] in .*x.npy"),
        ([tmp_path / "x.npy", tmp_path / "x.npy"], {"fs": 100}, "paths: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            embed_files(paths, tmp_path / "out", model, **(OPTIONS | options))
    np.save(tmp_path / "y.npy", np.zeros(100))
    with pytest.raises(ValueError, match="fs: expected the rate of .*y.npy in Hz, got None"):
        embed_files(tmp_path / "y.npy", tmp_path / "out", model, **OPTIONS)
    with pytest.raises(ValueError, match="paths: no window of 5 s in"):
        embed_files(tmp_path / "y.npy", tmp_path / "out", model, fs=100, **OPTIONS)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        embed_files(tmp_path / "none.npy", tmp_path / "out", model, fs=100, **OPTIONS)


def test_overwriting_leaves_other_files_alone(model, packed, tmp_path):
    out = tmp_path / "out"
    embed_files(packed, out, model, file_format="npy", **OPTIONS)
    foreign = ["part-list.txt", "part-00000.csv", ".part-00000.npy.backup.tmp", "part-00090.npy", "notes.txt"]
    for name in foreign:
        (out / name).write_text(name)
    (out / ".part-00001.npy.0123abcd.tmp").touch()  # left by a killed process
    embed_files(packed, out, model, output="tokens", overwrite=True, **OPTIONS)
    parts = [f"part-{number:05d}.h5" for number in range(9)]
    assert sorted(content(out)) == sorted([*foreign, *parts, "embeddings.json"])
    assert [(out / name).read_text() for name in foreign] == foreign
    assert read_embeddings(out).embeddings.shape[1:] == (10, 16)


def test_nothing_is_replaced_under_another_process(model, packed, tmp_path):
    """Its parts would lie among those of the new model."""
    out, refused = tmp_path / "out", []

    def replace(stage, *_):
        if stage == "embed":
            with pytest.raises(BlockingIOError, match="another process is writing to"):
                embed_files(packed, out, model, output="tokens", overwrite=True, **OPTIONS)
            refused.append(stage)
            assert embed_files(packed, out, model, **OPTIONS).complete  # the same work may be shared

    embed_files(packed, out, model, progress=replace, **OPTIONS)
    assert refused
    embed_files(packed, out, model, output="tokens", overwrite=True, **OPTIONS)
    assert ".lock" not in content(out)


def test_another_file_behind_a_link_is_another_input(model, packed, tmp_path):
    (tmp_path / "other.h5").write_bytes(packed.read_bytes())
    with h5py.File(tmp_path / "shard.h5", "w") as file:
        for name in ("ppg", "ecg"):
            file[name] = h5py.ExternalLink("other.h5", f"/{name}")
    embed_files(tmp_path / "shard.h5", tmp_path / "out", model, **OPTIONS)
    with h5py.File(tmp_path / "other.h5", "r+") as file:
        file["ppg"][0] = -file["ppg"][0]
        file.attrs["changed"] = 1  # near the beginning, where the file is probed
    with pytest.raises(FileExistsError, match=r"holds other embeddings \(inputs differ\)"):
        embed_files(tmp_path / "shard.h5", tmp_path / "out", model, **OPTIONS)


def test_the_first_of_two_plans_counts(model, packed, tmp_path, monkeypatch):
    """Two processes begin at the same time in a new folder, with different options: one of them is refused."""
    out, link = tmp_path / "out", os.link

    def quicker(*arguments):
        monkeypatch.setattr(os, "link", link)
        embed_files(packed, out, model, output="tokens", **OPTIONS)
        link(*arguments)

    monkeypatch.setattr(os, "link", quicker)
    with pytest.raises(FileExistsError, match=r"holds other embeddings \(output, shape differ\)"):
        embed_files(packed, out, model, **OPTIONS)
    assert read_embeddings(out).embeddings.shape == (90, 10, 16)
