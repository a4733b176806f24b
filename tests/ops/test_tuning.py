"""Choosing configurations: measured once, kept on disk, never inside a capture. The GPU's clock is pretended."""

from __future__ import annotations

import json

import pytest
import torch

from xmae_fast import tuning

DEVICE = torch.device("cuda", 0)
CANDIDATES = ({"BLOCK_M": 64, "num_warps": 4}, {"BLOCK_M": 128, "num_warps": 8})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tuning.importlib.metadata, "version", lambda name: "3.6.0")
    monkeypatch.setattr(tuning, "_time", lambda run, config: run(config))
    tuning.forget()
    yield tmp_path / "xmae_fast" / "tuning" / "NVIDIA-H200-triton-3.6.0.json"
    tuning.forget()


def choose(milliseconds, key=(25, 256)):
    return tuning.choose("kernel", key, CANDIDATES, DEVICE, lambda config: milliseconds[config["BLOCK_M"]])


def test_the_first_candidate_unless_tuned(cache):
    assert choose({64: 2, 128: 1}) == CANDIDATES[0]
    assert not cache.exists()


def test_measured_once_kept_on_disk_and_used_in_later_processes(cache):
    with tuning.tune():
        assert choose({64: 2, 128: 1}) == CANDIDATES[1]
        assert choose({64: 1, 128: 2}) == CANDIDATES[1]  # known by now
        assert choose({64: 1, 128: 2}, key=(5, 256)) == CANDIDATES[0]
    tuning.forget()
    assert choose({}) == CANDIDATES[1]
    assert len(json.loads(cache.read_text())) == 2


def test_never_measures_inside_a_capture(cache, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with tuning.tune():
        assert choose({}) == CANDIDATES[0]


def test_what_is_no_candidate_any_more_is_not_used(cache):
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({'["kernel", 25, 256]': {"BLOCK_M": 32, "num_warps": 1}}))
    assert choose({}) == CANDIDATES[0]


def test_a_damaged_file_is_said_and_not_used(cache):
    cache.parent.mkdir(parents=True)
    cache.write_text("{")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert choose({}) == CANDIDATES[0]


def test_choices_of_two_processes_are_merged(cache):
    with tuning.tune():
        choose({64: 2, 128: 1})
        tuning._save(cache, {"other": CANDIDATES[0]})
    assert set(json.loads(cache.read_text())) == {"other", '["kernel", 25, 256]'}
