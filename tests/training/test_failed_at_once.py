"""A run that failed before its first step does not block its name, and Slurm's variables do not concern one process."""

from __future__ import annotations

import pytest
import yaml

from xmae_fast.cli import main

pytest.importorskip("lightning")


@pytest.fixture
def words(cfg, tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(cfg | {"max_steps": 2}))
    return ["pretrain", "-c", str(tmp_path / "tiny.yaml"), "-e", "x", "--runs", str(tmp_path / "runs"), "--quiet"]


def test_the_corrected_command_runs_and_a_finished_run_is_kept(words, tmp_path, capsys, monkeypatch):
    for name, value in {"NTASKS": "4", "PROCID": "1", "LOCALID": "1", "NODEID": "0", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert main([*words, "--set", "data=[/nonexistent]"]) == 2
    assert (tmp_path / "runs" / "x" / "run.json").is_file()
    assert main(words) == 0
    capsys.readouterr()
    made = {path: path.read_bytes() for path in (tmp_path / "runs" / "x").rglob("*.ckpt")}
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.endswith("is finished, after 2 steps; --resume goes on, --overwrite removes it first\n")
    assert {path: path.read_bytes() for path in (tmp_path / "runs" / "x").rglob("*.ckpt")} == made


def test_a_run_that_has_steps_is_not_taken_for_one_that_failed_at_once(words, tmp_path):
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"starts": []}')
    (folder / "metrics.csv").write_text("step,loss\n10,0.5\n")
    assert main(words) == 2
    assert (folder / "metrics.csv").read_text() == "step,loss\n10,0.5\n"


def test_tasks_of_srun_that_do_not_fit_are_one_line(words, monkeypatch, capsys):
    for name, value in {"NTASKS": "4", "PROCID": "1", "STEP_ID": "0", "STEP_NUM_TASKS": "4", "JOB_ID": "7"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert main([*words, "--set", "devices=4"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("xmae-fast: accelerator, devices, num_nodes: ")
    assert said.count("\n") == 1
