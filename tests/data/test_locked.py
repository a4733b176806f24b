"""Shards that another process has open for writing are waited for, and never left out silently."""

from __future__ import annotations

import fcntl
import threading
from contextlib import contextmanager

import h5py
import pytest

from tests.data.packing import values, write_published
from xmae_fast._messages import said_on_stderr
from xmae_fast.cli import main
from xmae_fast.data import SegmentLoader, repack
from xmae_fast.data.formats import opening


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.h5", "b.h5"):
        write_published(folder / name, values(6, 40))
    return folder


@contextmanager
def locked(path):
    """The lock of a process that has the file open for writing: HDF5 takes it by flock too."""
    with open(path, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_a_locked_shard_is_an_error_and_never_left_out(shards, scanned_here, monkeypatch, capsys, on_bad):
    monkeypatch.setenv(opening.WAIT, "0.2")
    refused = pytest.raises(BlockingIOError, match=r"b\.h5: expected .* another has locked it")
    with said_on_stderr(), locked(shards / "b.h5"), refused:
        SegmentLoader(shards, quality=0, on_bad=on_bad)
    said = capsys.readouterr().err
    assert said.startswith(f"xmae-fast: warning: {shards / 'b.h5'} is locked by another process")
    assert said.endswith("; waiting up to 0.2 s for it\n")
    assert said.count("\n") == 1


def test_a_lock_that_ends_in_time_is_waited_for(shards, scanned_here, monkeypatch):
    monkeypatch.setenv(opening.WAIT, "30")
    with locked(shards / "b.h5") as file:
        timer = threading.Timer(0.3, lambda: fcntl.flock(file, fcntl.LOCK_UN))
        timer.start()
        assert len(SegmentLoader(shards, quality=0).segments) == 12
        timer.join()


def test_a_locked_file_that_a_shard_links_to_is_an_error(shards, scanned_here, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(opening.WAIT, "0")
    with h5py.File(shards / "b.h5") as file:
        subject = next(iter(file))
    with h5py.File(tmp_path / "main.h5", "w") as file:
        file[subject] = h5py.ExternalLink("in/b.h5", subject)
    with locked(shards / "b.h5"):
        assert main(["repack", str(tmp_path / "main.h5"), "-o", str(tmp_path / "out.h5")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"xmae-fast: shard {shards / 'b.h5'}: expected a file that no process writes to")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("wrong", ["x", "-1", "nan", "inf"])
def test_the_time_to_wait_is_a_number(shards, monkeypatch, wrong):
    monkeypatch.setenv(opening.WAIT, wrong)
    with locked(shards / "a.h5"), pytest.raises(ValueError, match="XMAE_FAST_LOCK_WAIT_S: expected seconds"):
        opening.open_hdf5(str(shards / "a.h5"))


def test_repack_again_says_that_it_is_finished(shards, scanned_here, tmp_path, capsys):
    words = ["repack", str(shards), "-o", str(tmp_path / "out.h5"), "--quality", "0"]
    assert main(words) == 0
    first = capsys.readouterr().out
    made = (tmp_path / "out.h5").read_bytes()
    assert main(words) == 0
    again = capsys.readouterr().out
    assert again.endswith("this was finished already, nothing was done\n")
    assert [line for line in first.splitlines() if "sha256" in line] == [
        line for line in again.splitlines() if "sha256" in line
    ]
    for other in (["--quality", "0.5"], ["--dtype", "float32"], ["--subjects", "d_1"]):
        assert main([*words, *other]) == 2
        assert "exists already, made with other settings (--overwrite replaces it)" in capsys.readouterr().err
    write_published(shards / "c.h5", values(6, 40))
    assert main(words) == 2
    assert (tmp_path / "out.h5").read_bytes() == made
    assert repack(shards, tmp_path / "out.h5", overwrite=True).segments == 18


def test_repack_makes_no_shard_in_an_input_folder(shards, tmp_path, capsys):
    (tmp_path / "link").symlink_to(shards)
    for out in (shards / "out.h5", tmp_path / "link" / "out.h5"):
        assert main(["repack", str(shards), "-o", str(out)]) == 2
        assert "--output: expected a file outside the input folder" in capsys.readouterr().err
    assert sorted(path.name for path in shards.iterdir()) == ["a.h5", "b.h5"]
