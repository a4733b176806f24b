"""`prepare`, `repack`, `simulate`, `inspect`: no option of theirs removes recordings, shards or other files."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest

from benchmarks.studies.recording_files import windows, write_mat
from tests.data.layouts import write_packed, write_published
from tests.data.test_repack_resume import die, killed
from xmae_fast.cli import main
from xmae_fast.data import open_index, prepare, repack, simulate
from xmae_fast.preparation import replacing

pytestmark = pytest.mark.usefixtures("scanned_here")


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    ppg, ecg = windows(1, 4)
    for i in range(2):
        write_mat(folder / f"p{i}.mat", ppg[2 * i : 2 * i + 2], ecg[2 * i : 2 * i + 2], f"p{i}")
    (folder / "thesis.tex").write_text("precious")
    return folder


def content(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OPTIONS = {"processes": 1, "overwrite": True}


@pytest.mark.parametrize("output", ["in", "in/.", ".", "link", "in/out", "in/p0.mat"])
def test_prepare_never_touches_its_inputs(recordings, tmp_path, capsys, output):
    (tmp_path / "link").symlink_to(recordings)
    before = content(tmp_path)
    assert main(["prepare", str(recordings), "-o", str(tmp_path / output), "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("xmae-fast: --output: ")
    assert error.count("\n") == 1
    assert content(tmp_path) == before
    if output != "in/out":
        with pytest.raises((ValueError, FileExistsError), match="output: "):
            prepare([recordings / "p0.mat", recordings / "p1.mat"], tmp_path / output, **OPTIONS)
    assert content(tmp_path) == before


def test_prepare_replaces_its_own_files_alone(recordings, tmp_path, in_process):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"holds 'notes.txt' and no prepare.json, so it is no folder of prepare"):
        prepare(recordings, out, **OPTIONS)
    (out / "notes.txt").unlink()  # an empty folder is taken
    prepare(recordings, out, segments_per_shard=2, **OPTIONS)
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    open_index(out)  # leaves indexes beside the shards, which are removed with them
    (out / "notes.txt").write_text("precious")
    (out / "labels").mkdir()
    (out / "labels" / "a.csv").write_text("precious")
    prepare(recordings, out, **OPTIONS)
    made = {"data_0000.h5", "prepare.json", "records.csv", "rejected.csv"}
    assert set(content(out)) == made | {"notes.txt", "labels/a.csv"}
    assert (out / "notes.txt").read_text() == (out / "labels" / "a.csv").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    (out / "data_0001.h5").write_text("precious")  # where the next call is to write
    before = content(out)
    with pytest.raises(FileExistsError, match=r"data_0001\.h5 is in the way and prepare did not write it"):
        prepare(recordings, out, segments_per_shard=2, **OPTIONS)
    assert content(out) == before
    (out / "data_0001.h5").unlink()
    (out / "data_0000.h5").write_text("precious")  # in place of what prepare wrote
    with pytest.raises(FileExistsError, match=r"data_0000\.h5 is not what prepare wrote there"):
        prepare(recordings, out, **OPTIONS)
    with pytest.raises(FileExistsError, match=r"data_0000\.h5 was changed since it was made"):
        prepare(recordings, out, processes=1)
    (out / "data_0000.h5").unlink()
    with pytest.raises(FileExistsError, match=r"data_0000\.h5 is gone since it was made"):
        prepare(recordings, out, processes=1)
    prepare(recordings, out, **OPTIONS)
    assert (out / "notes.txt").read_text() == "precious"


@pytest.mark.parametrize("rename", range(1, 4))
def test_foreign_files_come_back_after_a_kill(recordings, tmp_path, in_process, monkeypatch, rename):
    """The process is killed after the old folder was moved, after the new one came, and after other files followed."""
    out = tmp_path / "out"
    prepare(recordings, out, processes=1)
    for name in ("notes.txt", "more.txt"):
        (out / name).write_text("precious")
    original, count = os.rename, []

    def stand_in(*arguments):
        original(*arguments)
        count.append(1)
        if len(count) == rename:
            die()

    with monkeypatch.context() as patch:
        patch.setattr(replacing.os, "rename", stand_in)
        killed(lambda: prepare(recordings, out, quality=0.5, **OPTIONS))
    prepare(recordings, out, quality=0.5, **(OPTIONS if rename == 1 else {"processes": 1}))
    made = {"prepare.json", "records.csv", "rejected.csv", "data_0000.h5"}
    assert set(content(out)) == made | {"notes.txt", "more.txt"}
    assert (out / "notes.txt").read_text() == (out / "more.txt").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_a_linked_output_is_replaced_where_it_is(recordings, tmp_path, in_process):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for _ in range(2):
        prepare(recordings, tmp_path / "out", **OPTIONS)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "data_0000.h5").is_file()


def test_foreign_files_among_unfinished_work_stay(recordings, tmp_path, in_process):
    partial = tmp_path / ".out.partial"
    (partial / "output").mkdir(parents=True)
    for name in ("mine.txt", "output/mine.txt"):
        (partial / name).write_text("precious")
    with pytest.raises(FileExistsError, match=r"mine\.txt is in the way and prepare did not write it"):
        prepare(recordings, tmp_path / "out", processes=1)
    (partial / "output" / "mine.txt").unlink()
    prepare(recordings, tmp_path / "out", processes=1)
    assert content(partial) == {"mine.txt": b"precious"}


def test_two_calls_at_once(recordings, tmp_path, in_process):
    """A second call stops, whatever it wants, even if it would only say that all is done."""
    out, seen = tmp_path / "out", []
    prepare(recordings, out, processes=1)

    def second(stage, *_):
        if not seen:
            seen.append(stage)
            with pytest.raises(BlockingIOError, match="another process is writing"):
                prepare(recordings, out, **OPTIONS)
            prepare(recordings, out, processes=1)  # the finished one, which is still there

    prepare(recordings, out, quality=0.5, **OPTIONS, progress=second)
    assert seen
    assert json.loads((out / "prepare.json").read_text())["settings"]["quality"] == [0.5, 0.5]


def test_repack_replaces_packed_files_of_its_own_alone(tmp_path):
    signals = np.random.default_rng(0).normal(size=(2, 4, 50))
    write_published(tmp_path / "shard.h5", signals)
    write_published(tmp_path / "other.h5", signals)
    write_packed(tmp_path / "packed.h5", signals)
    with h5py.File(tmp_path / "linking.h5", "w") as file:
        file["m_9"] = h5py.ExternalLink("other.h5", "/m_0")
    os.link(tmp_path / "shard.h5", tmp_path / "hard.h5")
    (tmp_path / "precious.txt").write_text("precious")
    before = content(tmp_path)
    for shard, out, message in (
        ("shard.h5", "precious.txt", "is there and is not a packed file of xmae-fast"),
        ("shard.h5", "other.h5", "is there and is not a packed file of xmae-fast"),
        ("shard.h5", "packed.h5", "is there and is not a packed file of xmae-fast"),
        ("shard.h5", "hard.h5", "is there and is not a packed file of xmae-fast"),
        ("linking.h5", "other.h5", "is there and is not a packed file of xmae-fast"),
    ):
        with pytest.raises(FileExistsError, match=message):
            repack(tmp_path / shard, tmp_path / out, overwrite=True, cache_dir=tmp_path / "cache")
    assert {name: data for name, data in content(tmp_path).items() if not name.startswith("cache")} == before
    repack(tmp_path / "shard.h5", tmp_path / "out.h5")
    with h5py.File(tmp_path / "linking.h5", "a") as file:
        file["m_8"] = h5py.ExternalLink("out.h5", "/")
        file["m_7/0000+++1+++0+++0+++0.950+++0.950"] = h5py.ExternalLink("out.h5", "/ppg")
    os.link(tmp_path / "out.h5", tmp_path / "again.h5")
    for shard, out in (("again.h5", "out.h5"), ("linking.h5", "out.h5")):
        with pytest.raises(ValueError, match="output: expected another file than the input"):
            repack(tmp_path / shard, tmp_path / out, overwrite=True)


def test_simulate_replaces_simulations_alone(tmp_path, capsys):
    arguments = ["simulate", "-o", str(tmp_path), "--subjects", "3", "--segments", "2"]
    assert main(arguments) == 0
    before = content(tmp_path)
    assert main(arguments) == 0  # it is finished already
    assert content(tmp_path) == before
    assert main([*arguments, "--seed", "78"]) == 2
    assert "sim_0000.h5 is there already (--overwrite replaces an earlier simulation)" in capsys.readouterr().err
    assert content(tmp_path) == before
    simulation = simulate(4, 2, seed=3)
    names = ["sim_0000.h5", "sim_0000.truth.npz", "sim_0001.h5", "sim_0001.truth.npz"]
    simulation.write_shards(tmp_path, segments_per_shard=4, overwrite=True)
    assert sorted(content(tmp_path)) == names
    assert main([*arguments, "--overwrite"]) == 0
    assert sorted(content(tmp_path)) == names[:2]  # nothing of the larger one is left to mix with it
    simulation.write_shards(tmp_path, dataset="other")
    write_published(tmp_path / "sim_0001.h5", np.random.default_rng(0).normal(size=(2, 4, 50)))
    before = content(tmp_path)
    assert main([*arguments, "--overwrite"]) == 2
    assert "sim_0001.h5 is there and is not a simulated shard with its truth beside it" in capsys.readouterr().err
    assert content(tmp_path) == before


def test_inspect_writes_over_its_own_files_alone(tmp_path, capsys):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    shard = tmp_path / "shard.h5"
    write_published(shard, np.random.default_rng(0).normal(size=(2, 4, 50)))
    before = shard.read_bytes()
    for option in ("--json", "--picture"):
        assert main(["inspect", str(shard), option, str(shard)]) == 2
        assert "shard.h5 is there and is not" in capsys.readouterr().err
        assert shard.read_bytes() == before
        for _ in range(2):
            assert main(["inspect", str(shard), option, str(tmp_path / option)]) == 0
