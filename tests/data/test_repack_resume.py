"""repack: interruptions, damage, other processes, and shards that change meanwhile."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import warnings

import h5py
import numpy as np
import pytest

from tests.data.packing import batches, content, flip, same_batches, values, write_published
from xmae_fast.data import open_index, repack, verify_packed
from xmae_fast.data.formats import packed
from xmae_fast.data.repacking import copy as repack_copy
from xmae_fast.data.repacking import journal as repack_journal
from xmae_fast.data.repacking.source import RepackSource

BLOCK, N = 16, 200


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    """Two shards of 100 segments, one compressed, their indexes, and the file that an uninterrupted call makes."""
    folder = tmp_path_factory.mktemp("resume")
    signals = values(N, 40)
    write_published(folder / "a.h5", signals[:, :100])
    write_published(folder / "b.h5", signals[:, 100:], compression="gzip")
    open_index(folder)
    repack([folder / "a.h5", folder / "b.h5"], folder / "expected.out")
    return folder


@pytest.fixture
def paths(_made):
    return [_made / "a.h5", _made / "b.h5"]


@pytest.fixture
def expected(_made):
    return content(_made / "expected.out")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.h5"


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(repack_copy, "_BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(repack_copy, "_JOURNAL_S", 0)


@pytest.fixture
def reads(monkeypatch):
    """The first segments of the blocks that are read from the shards."""
    starts, read = [], RepackSource.read

    def noting(self, start, *rest, **options):
        starts.append(start)
        return read(self, start, *rest, **options)

    monkeypatch.setattr(RepackSource, "read", noting)
    return starts


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(work) -> None:
    """Run `work` in a process that SIGKILL ends."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def killed_at(stage: str, done: int, *arguments, **options) -> None:
    killed(lambda: repack(*arguments, **options, progress=lambda s, d, _: s == stage and d >= done and die()))


def partial(out):
    return out.with_name(f".{out.name}.partial")


def journal(out) -> dict:
    return json.loads(partial(out).with_name(f".{out.name}.partial.json").read_text())


def names(out) -> list[str]:
    """The files beside the output, without indexes."""
    return sorted(name for name in os.listdir(out.parent) if not name.endswith(".index.npz"))


@pytest.mark.parametrize(
    ("stage", "done", "copied"),
    [("copy", 1, 16), ("copy", 96, 96), ("copy", N, N), ("verify", 100, N), ("verify", N, N)],
)
def test_a_killed_call_is_resumed(paths, out, expected, reads, stage, done, copied):
    killed_at(stage, done, paths, out)
    assert names(out) == [".out.h5.partial", ".out.h5.partial.json"]
    assert len(journal(out)["blocks"]) == -(-copied // BLOCK)
    with h5py.File(partial(out)) as file:  # it is a whole HDF5 file at any time
        assert file["ppg"].shape == (N, 40)
    report = repack(paths, out)
    assert reads == list(range(copied, N, BLOCK))[: -(-(N - copied) // BLOCK)]
    assert report.resumed == copied
    assert names(out) == ["out.h5"]
    assert content(out) == expected
    assert verify_packed(out)
    assert same_batches(batches(out), batches(paths))


KILLERS = {
    "the partial file is laid out": (packed, "create_packed"),
    "the journal begins": (repack_journal.Journal, "start"),
    "the journal is written": (repack_journal, "atomic_path"),
    "half a block is written": (packed, "write_at"),
    "the checksums are set": (packed, "set_checksums"),
    "the file is renamed": (os, "replace"),
    "the journal is removed": (repack_copy.Journal, "remove"),
}


@pytest.mark.parametrize(
    ("place", "after"), [(place, after) for place in KILLERS for after in (False, True) if after or "half" not in place]
)
def test_killed_between_steps(paths, out, expected, monkeypatch, place, after):
    home, name = KILLERS[place]
    original = getattr(home, name)

    def stand_in(*arguments, **options):
        if name == "replace" and not str(arguments[1]).endswith("out.h5"):
            return original(*arguments)
        if name == "remove" and not out.exists():
            return original(*arguments)
        if name == "write_at":
            original(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
        elif after:
            original(*arguments, **options)
        die()

    with monkeypatch.context() as patch:
        patch.setattr(home, name, stand_in)
        killed(lambda: repack(paths, out))
    if out.exists():
        assert content(out) == expected
        assert repack(paths, out).segments == N  # what the same call has made is finished
        assert content(out) == expected
    repack(paths, out, overwrite=True)
    assert content(out) == expected
    assert names(out) == ["out.h5"]


def test_checksums_change_no_other_byte(paths, out, monkeypatch):
    seen, original = [], packed.set_checksums

    def between(fd, checksums):
        seen.append(partial(out).read_bytes())
        original(fd, checksums)
        seen.append(partial(out).read_bytes())

    monkeypatch.setattr(packed, "set_checksums", between)
    report = repack(paths, out)
    before, after = (np.frombuffer(one, np.uint8) for one in seen)
    changed = np.flatnonzero(before != after)
    assert 100 < len(changed) <= 2 * 64
    places = [seen[1].index(report.checksums[name].encode()) for name in ("ppg", "ecg")]
    assert all(any(place <= i < place + 71 for place in places) for i in changed)


def test_the_journal_follows_the_data(paths, out, monkeypatch):
    """A power cut must not leave a journal of blocks that never reached the disk."""
    done = []
    write, sync, note = packed.write_at, os.fsync, repack_journal.Journal.write

    def noted_sync(fd):
        sync(fd)
        if partial(out).exists() and os.path.samestat(os.fstat(fd), os.stat(partial(out))):
            done.append("data on disk")

    monkeypatch.setattr(packed, "write_at", lambda *arguments: (write(*arguments), done.append("written")))
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(repack_journal.Journal, "write", lambda self: (done.append("journal"), note(self)))
    repack(paths, out)
    block = ["written", "written", "data on disk", "journal"]
    assert done == ["data on disk", "journal", *(-(-N // BLOCK) * block), "data on disk"]


def test_other_settings_or_shards_start_again(paths, out, reads, tmp_path, monkeypatch):
    killed_at("copy", 96, paths, out)
    repack(paths, out, quality=0.7)
    assert reads[0] == 0
    assert verify_packed(out)
    wide = {"normalize_dtype": "float32", "overwrite": True}  # the same segments, another provenance
    killed_at("copy", 96, paths, out, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(repack_journal.Journal, "start", die)
        killed(lambda: repack(paths, out, **wide))
    assert repack(paths, out, overwrite=True).resumed == 0  # the first call's work is gone
    killed_at("copy", 96, paths, out, overwrite=True)
    assert repack(paths, out, **wide).resumed == 0
    assert json.loads(content(out)["selection"])["normalize_dtype"] == "float32"
    other = tmp_path / "in" / "a.h5"
    other.parent.mkdir()
    other.write_bytes(paths[0].read_bytes())
    again = tmp_path / "again.h5"
    killed_at("copy", 96, [other], again)
    with h5py.File(other, "r+") as file:
        file["d_0"][next(iter(file["d_0"]))][3, 1] = 5.0
    reads.clear()
    assert repack([other], again).resumed == 0
    assert reads[0] == 0
    with h5py.File(again) as file:
        assert file["ppg"][0, 3] == 5.0
    killed_at("copy", 32, paths, tmp_path / "third.h5")
    partial(tmp_path / "third.h5").write_bytes(b"no HDF5")
    assert repack(paths, tmp_path / "third.h5").resumed == 0


def test_damage_between_two_calls_is_repaired(paths, out, expected):
    killed_at("copy", 96, paths, out)
    with h5py.File(partial(out)) as file:
        place = file["ecg"].id.get_offset()
    flip(partial(out), place + 40 * 40 * 2)
    with pytest.warns(UserWarning, match=r"1 block\(s\), the first at segment 32, differ from the shards"):
        report = repack(paths, out)
    assert report.resumed == 96
    assert content(out) == expected


def test_a_disk_that_does_not_hold_its_data(paths, out, monkeypatch):
    read = packed.read_at
    monkeypatch.setattr(packed, "read_at", lambda *arguments: b"\xff" + read(*arguments)[1:])
    with pytest.warns(UserWarning, match="copied again"), pytest.raises(OSError, match="does not hold") as caught:
        repack(paths, out)
    assert caught.value.errno == errno.EIO
    assert not out.exists()


def test_a_full_disk_leaves_what_was_copied(paths, out, expected, monkeypatch):
    write, count = os.pwrite, []

    def full(*arguments):
        count.append(1)
        if len(count) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            repack(paths, out)
    assert not out.exists()
    assert repack(paths, out).resumed == 4 * BLOCK
    assert content(out) == expected


def test_short_writes_are_continued(paths, out, expected, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, place: write(fd, data[:100], place))
    repack(paths, out)
    assert content(out) == expected


def test_one_process_at_a_time(paths, out, expected):
    refused = []

    def second(stage, done, _):
        if stage == "copy" and done == 96:
            with pytest.raises(OSError, match=r"output: another process is writing .*out\.h5") as caught:
                repack(paths, out)
            refused.append(caught.value)

    repack(paths, out, progress=second)
    assert len(refused) == 1
    assert content(out) == expected
    with open(partial(out), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process"):
            repack(paths, out, overwrite=True)
    assert content(out) == expected


def test_nothing_is_written_while_an_old_file_is_replaced(paths, out, expected):
    repack(paths, out, quality=0.7)
    before = out.read_bytes()
    killed_at("verify", N, paths, out, overwrite=True)
    assert out.read_bytes() == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repack(paths, out, overwrite=True)
    assert content(out) == expected
