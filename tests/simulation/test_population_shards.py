"""Shards of the simulated population: the same segments and truth as the stream has, and nothing else is replaced."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_fast.cli import main
from xmae_fast.data import SegmentDataset, inspect_shards
from xmae_fast.evaluation import load_held_out
from xmae_fast.simulation.population import PopulationCfg, simulate_population, write_population

pytest.importorskip("scipy")
CFG = PopulationCfg(seg_len=5, segments_per_subject=2)


def test_shards_hold_the_stream(tmp_path):
    paths = write_population(tmp_path, 150, seed=4, cfg=CFG, segments_per_shard=200)
    assert [path.name for path in paths] == ["patients_0000.h5", "patients_0001.h5"]
    made = simulate_population(300, seed=4, cfg=CFG)
    data = SegmentDataset(paths, quality=0.0, normalize_dtype="float32")
    assert (len(data), len(data.segments.subjects)) == (300, 150)
    assert data.segments.sampling_freq == 100
    names = np.concatenate([np.load(path.with_suffix(".truth.npz"))["key"] for path in paths])
    order = {data.segments.index.name(int(row)).rpartition(":")[2].strip(): row for row in data.segments.rows}
    assert len(order) == len(set(names.tolist())) == 300
    for number in (0, 1, 199, 200, 299):
        assert names[number].startswith(f"patients_{number // 2:06d}/")
    truth = {name: np.concatenate([np.load(path.with_suffix(".truth.npz"))[name] for path in paths])
             for name in ("rhythm", "r_times", "heart_rate", "has_pvc", "pat_mean")}  # fmt: skip
    for name in ("rhythm", "r_times", "heart_rate"):
        np.testing.assert_array_equal(truth[name], made[name])
    pvc = np.isin(made["rhythm"], (1,))
    assert truth["has_pvc"][pvc].mean() > 0.8
    assert 0.1 < np.nanmedian(truth["pat_mean"]) < 0.5
    report = inspect_shards(paths, quality=0.9)
    assert 0.5 < report.used / 300 <= 1


def test_an_evaluation_takes_the_truth(tmp_path):
    paths = write_population(tmp_path, 40, seed=4, cfg=CFG)
    held_out = load_held_out(str(paths[0]), split="all", max_segments=None)
    assert {"heart_rate", "pat", "pvc"} <= held_out.truth.keys()


def test_the_command(tmp_path, capsys):
    command = ["simulate", "--rhythms", "-o", str(tmp_path / "out"), "--subjects", "20", "--seed", "3"]
    assert main(command) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "patients_0000.h5")
    before = (tmp_path / "out" / "patients_0000.h5").read_bytes()
    assert main(command) == 0
    assert "this was finished already" in capsys.readouterr().out
    assert main([*command, "--segments", "8"]) == 2
    assert "is there already (--overwrite replaces an earlier simulation)" in capsys.readouterr().err
    assert (tmp_path / "out" / "patients_0000.h5").read_bytes() == before
    assert main([*command, "--segments", "8", "--overwrite"]) == 0
    assert len(SegmentDataset(tmp_path / "out", quality=0.0)) == 160
    capsys.readouterr()
    assert main([*command, "--pat-coupling", "0.5"]) == 2
    assert "--pat-coupling: expected none with --rhythms" in capsys.readouterr().err
    assert main([*command, "--segments", "3"]) == 2
    assert "a divisor of 256" in capsys.readouterr().err


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    from xmae_fast.simulation.population import shards

    def fail(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr(shards.np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        write_population(tmp_path, 2, cfg=CFG)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
