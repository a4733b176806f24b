"""`prepare` can be killed at any moment; the next call goes on and writes the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from benchmarks.studies.recording_files import windows, write_mat
from tests.data.test_repack_resume import die, killed
from xmae_fast.data import prepare
from xmae_fast.preparation import making, pool, preparing, shards

FILES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    ppg, ecg = windows(1, 3 * FILES)
    for i in range(FILES):
        write_mat(folder / f"p{i}.mat", ppg[3 * i : 3 * i + 3], ecg[3 * i : 3 * i + 3], f"p{i}")
    (folder / "bad.mat").write_bytes(b"no")
    return folder


OPTIONS = {"segments_per_shard": 5, "processes": 1}


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare(folder, out, **OPTIONS)
    return content(out)


def content(out) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def left(out) -> list[str]:
    return sorted(os.listdir(out.parent))


@pytest.mark.parametrize(("stage", "done", "finished"), [("recordings", 2, None), ("shards", 5, FILES)])
def test_killed_and_resumed(folder, expected, tmp_path, stage, done, finished):
    out = tmp_path / "out"
    killed(lambda: prepare(folder, out, **OPTIONS, progress=lambda s, d, _: s == stage and d >= done and die()))
    assert left(out) == [".out.partial"]
    report = prepare(folder, out, **OPTIONS)
    assert report.resumed == finished if finished else 0 < report.resumed < FILES
    assert content(out) == expected
    assert left(out) == ["out"]
    again = prepare(folder, out, **OPTIONS)  # finished: nothing to do, the same report
    assert again.to_dict() | {"resumed": 0, "seconds": 0} == report.to_dict() | {"resumed": 0, "seconds": 0}


PLACES = {
    "a part is written": (making.np, "savez"),
    "a shard's checksums are set": (shards.packed, "set_checksums"),
    "the report is written": (preparing.json, "dumps"),
    "the folder is renamed": (preparing.os, "rename"),
    "what is left is removed": (preparing.replacing, "clear"),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_killed_between_steps(folder, expected, tmp_path, in_process, monkeypatch, place, after):
    home, name = PLACES[place]
    original, out, seen = getattr(home, name), tmp_path / "out", []

    def stand_in(*arguments, **options):
        due = {"dumps": options.get("indent"), "clear": out.exists()}.get(name, True)
        seen.append(due)
        if not due or (name == "savez" and len(seen) < 3):
            return original(*arguments, **options)
        if after:
            original(*arguments, **options)
        return die()

    with monkeypatch.context() as patch:
        patch.setattr(home, name, stand_in)
        killed(lambda: prepare(folder, out, **OPTIONS))
    prepare(folder, out, **OPTIONS)
    assert content(out) == expected
    assert left(out) == ["out"]


def test_killed_at_random_moments(folder, expected, tmp_path):
    """Workers are other processes: when the caller is killed, they must end by themselves and disturb nothing."""
    out = tmp_path / "out"
    for delay in np.random.default_rng(0).uniform(0.2, 1.2, 2):
        process = multiprocessing.get_context("fork").Process(target=lambda: prepare(folder, out, **OPTIONS))
        process.start()
        time.sleep(delay)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    prepare(folder, out, **OPTIONS)
    assert content(out) == expected


def test_other_settings_and_overwriting(folder, expected, tmp_path, in_process):
    out = tmp_path / "out"
    killed(lambda: prepare(folder, out, **OPTIONS, progress=lambda s, d, _: s == "shards" and die()))
    with pytest.raises(ValueError, match=r"holds unfinished work with other settings \(hop_s\)"):
        prepare(folder, out, hop_s=5, **OPTIONS)
    part = next((tmp_path / ".out.partial" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:1000])
    assert prepare(folder, out, **OPTIONS).resumed == FILES - 1
    assert content(out) == expected
    with pytest.raises(FileExistsError, match="is not what this call makes"):
        prepare(folder, out, quality=0.9, **OPTIONS)
    other = OPTIONS | {"quality": 0.9, "overwrite": True}
    killed(lambda: prepare(folder, out, **other, progress=lambda s, *_: s == "shards" and die()))
    assert content(out) == expected  # the old one, until the new one is whole
    assert prepare(folder, out, **other).settings["quality"] == [0.9, 0.9]
    assert json.loads((out / "prepare.json").read_text())["settings"]["quality"] == [0.9, 0.9]
    assert left(out) == ["out"]


def test_a_rate_is_the_same_number_as_an_integer(tmp_path, in_process):
    ppg, ecg = windows(1, 2)
    np.savez(tmp_path / "a.npz", ppg=ppg, ecg=ecg)
    made = prepare(tmp_path / "a.npz", tmp_path / "out", fs=125)
    again = prepare(tmp_path / "a.npz", tmp_path / "out", fs=125.0)
    assert (again.seconds, again.settings) == (0, made.settings)


def test_a_changed_recording_is_done_again(folder, tmp_path, in_process):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("p0.mat", "p1.mat"):
        (source / name).write_bytes((folder / name).read_bytes())
    killed(lambda: prepare(source, out, **OPTIONS, progress=lambda s, *_: s == "shards" and die()))
    os.utime(source / "p1.mat", ns=(1, 1))
    assert prepare(source, out, **OPTIONS).resumed == 1
    os.utime(source / "p1.mat", ns=(2, 2))
    with pytest.raises(FileExistsError, match="is not what this call makes"):
        prepare(source, out, **OPTIONS)


def test_a_crash_of_a_worker_is_the_recordings_error(folder, tmp_path, monkeypatch):
    ask, count = pool.PrepareWorker._ask, []

    def crashing(self, request, *rest):
        count.append(1)
        if len(count) != 2:
            return ask(self, request, *rest)
        process = self._started()
        process.kill()
        process.wait()
        with monkeypatch.context() as patch:
            patch.setattr(self, "_started", lambda: process)
            return ask(self, request, *rest)

    monkeypatch.setattr(pool.PrepareWorker, "_ask", crashing)
    report = prepare(folder, tmp_path / "out", **OPTIONS)
    assert "p0.mat: MATLAB: expected a readable file, but reading it ended" in report.errors["p0.mat"]
    assert report.segments == 3 * (FILES - 1)
