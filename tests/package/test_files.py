"""What this library did not write is never replaced or removed: the helpers, and the functions that save models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import xmae_fast
from xmae_fast import _files as written
from xmae_fast._files import Lock, atomic_path, remains
from xmae_fast.evaluation.pages import check_report_folder


@pytest.mark.parametrize(
    ("output", "inputs", "message"),
    [
        ("in", ["in"], "expected another folder than the input"),
        ("in/../in/.", ["in"], "expected another folder than the input"),
        ("link", ["in"], "expected another folder than the input"),
        ("in", ["link"], "expected another folder than the input"),
        (".", ["in"], "expected a folder that holds no input"),
        ("in/out", ["in"], "expected a folder outside the input"),
        ("link/deep/out", ["in"], "expected a folder outside the input"),
        ("inner", ["in"], ""),
        ("out", ["in"], ""),
    ],
)
def test_folders_that_are_apart(tmp_path, monkeypatch, output, inputs, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    if not message:
        written.check_apart(output, inputs)
        return
    with pytest.raises(ValueError, match=f"output: {message}"):
        written.check_apart(output, inputs)


def test_input_files_and_an_output(tmp_path):
    (tmp_path / "in").mkdir()
    file, link, hard = tmp_path / "in" / "a.csv", tmp_path / "soft.csv", tmp_path / "hard.csv"
    file.write_text("precious")
    link.symlink_to(file)
    os.link(file, hard)
    written.check_apart(tmp_path / "in" / "out", [], [file])  # beside a file that is given by its name
    for folder in (tmp_path, tmp_path / "in"):
        with pytest.raises(ValueError, match="expected a folder that holds no input"):
            written.check_apart(folder, [], [link])
    for other in (link, hard, Path(os.path.relpath(file)), tmp_path / "in" / ".." / "in" / "a.csv"):
        with pytest.raises(ValueError, match="output: expected another file than the input"):
            written.check_not_input(other, [file])
    written.check_not_input(tmp_path / "b.csv", [file])


def test_only_own_files_are_removed(tmp_path):
    own = written.matching(r"a\.txt", r"sub/b\.txt")
    kept = ["c.txt", "sub/a.txt", "b.txt", ".a.txt.backup.tmp", ".c.txt.0123abcd.tmp", "sub/deep/b.txt", "xa.txt"]
    for name in (*kept, "a.txt", "sub/b.txt", ".a.txt.0123abcd.tmp", "sub/.b.txt.00000000.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("precious")
    written.remove_own(tmp_path, own)
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted([*kept, "elsewhere/b.txt"])
    assert (tmp_path / "empty").is_dir()
    written.remove_own(tmp_path / "elsewhere", written.matching(r"b\.txt"))  # which becomes empty by that
    assert not (tmp_path / "elsewhere").exists()
    written.remove_own(tmp_path, written.matching("empty/"))
    assert not (tmp_path / "empty").exists()


def test_links_are_not_followed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.txt").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sub").symlink_to(tmp_path / "data")
    written.remove_own(tmp_path / "run", written.matching(r"sub/b\.txt"))
    assert (tmp_path / "data" / "b.txt").read_text() == "precious"


def test_remains_are_those_of_one_file(tmp_path):
    for name in (".a.01234567.tmp", ".a.b.01234567.tmp", ".a.backup.tmp", ".a.0123456.tmp"):
        (tmp_path / name).touch()
    assert [path.name for path in remains(tmp_path / "a")] == [".a.01234567.tmp"]
    with atomic_path(tmp_path / "a") as temporary:
        temporary.touch()
        assert temporary in remains(tmp_path / "a")
    assert len(remains(tmp_path / "a")) == 1


def test_a_lock_is_one_process_alone_or_shared(tmp_path):
    first = Lock(tmp_path, shared=True)
    second = Lock(tmp_path, shared=True)
    with pytest.raises(BlockingIOError, match="another process is writing to") as caught:
        Lock(tmp_path)
    assert "\n" not in str(caught.value)
    first.release()
    assert (tmp_path / ".lock").exists()
    second.release()
    assert not list(tmp_path.iterdir())
    with Lock(tmp_path) as alone:
        for shared in (False, True):
            with pytest.raises(BlockingIOError):
                Lock(tmp_path, shared=shared)
        alone.share()
        with Lock(tmp_path, shared=True):
            pass
    assert not list(tmp_path.iterdir())


def test_a_killed_holder_of_a_lock_blocks_nobody(tmp_path):
    code = f"import sys; from xmae_fast._files import Lock; lock = Lock({str(tmp_path)!r}); print(); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(BlockingIOError, match="it holds the lock on"):
            Lock(tmp_path, shared=True)
        holder.kill()
    assert (tmp_path / ".lock").exists()
    with Lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_pictures_are_known(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(1, 1))
    mine = tmp_path / "mine.png"
    figure.savefig(mine)
    before = mine.read_bytes()
    with pytest.raises(FileExistsError, match=r"mine\.png is there and is not a picture of xmae-fast"):
        written.write_picture(figure, mine)
    assert mine.read_bytes() == before
    for _ in range(2):
        written.write_picture(figure, tmp_path / "its.png")
    with pytest.raises(FileExistsError, match="/dev/null is there"):
        written.write_picture(figure, "/dev/null")


def test_a_reports_folder(tmp_path):
    check_report_folder(tmp_path / "new", ["probe.png"])
    (tmp_path / "thesis.tex").write_text("precious")
    check_report_folder(tmp_path, ["probe.png"])
    (tmp_path / "report.md").write_text("precious")
    with pytest.raises(FileExistsError, match=r"report\.md is there and is not of a report"):
        check_report_folder(tmp_path, ["probe.png"])
    (tmp_path / "results.json").write_text(json.dumps({"mine": 1}))
    with pytest.raises(FileExistsError, match=r"results\.json is there and is not the results of a report"):
        check_report_folder(tmp_path, ["probe.png"])
    (tmp_path / "results.json").write_text(json.dumps({"about": {}, "probes": {}}))
    check_report_folder(tmp_path, ["probe.png"])


@pytest.fixture
def model() -> xmae_fast.xMAE:
    cfg = xmae_fast.ModelCfg(
        seq_len=100, patch_len=50, d_model=8, nhead=1, depth_ecg=1, depth_ppg=1, depth_bridge=1, stem_ch=4, proj_dim=4
    )
    return xmae_fast.xMAE(cfg).eval()


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_a_checkpoint_replaces_checkpoints_alone(model, tmp_path, ending):
    path = tmp_path / f"model{ending}"
    for write in (lambda: np.savez(path.open("wb"), ppg=np.ones(3)), lambda: path.write_text("precious")):
        write()
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match="is there and is not a checkpoint"):
            xmae_fast.save_checkpoint(model, path)
        assert path.read_bytes() == before
    torch.save({"state_dict": {}}, path)
    for _ in range(2):
        xmae_fast.save_checkpoint(model, path)
    assert xmae_fast.load_checkpoint(path).cfg == model.cfg


def test_save_pretrained_leaves_other_models_alone(model, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(FileExistsError, match=r"folder: .*config\.json is there and is not of an xMAE"):
        model.save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]
    for _ in range(2):
        model.save_pretrained(tmp_path / "mine")
