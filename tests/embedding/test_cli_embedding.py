"""`xmae-fast embed`, `probe` and `reconstruct`, end to end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from xmae_fast import read_embeddings
from xmae_fast._messages import said_on_stderr
from xmae_fast.cli import main, progress


def test_from_shard_to_report_and_picture(model, packed, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    pytest.importorskip("markdown_it")
    model.save_pretrained(tmp_path / "model")
    where = ["-m", str(tmp_path / "model")]
    out = str(tmp_path / "out")
    arguments = ["embed", str(packed), "-o", out, *where, "--part-rows", "50", "--device", "cpu"]
    assert main([*arguments, "--format", "npy"]) == 0
    assert "90 segments in 2 part(s); 90 embedded" in capsys.readouterr().out
    found = read_embeddings(out)
    assert main(arguments) == 2
    assert "holds other embeddings (file_format differ)" in capsys.readouterr().err
    table = tmp_path / "labels.csv"
    table.write_text("key,x\n" + "\n".join(f"{k},{x[0]}" for k, x in zip(found.key, found.embeddings, strict=True)))
    report = str(tmp_path / "report")
    compare = ["--compare", f"again={out}", "--resamples", "20", "--folds", "2"]
    assert main(["probe", out, str(table), "--label", "x", "-o", report, *compare]) == 0
    said = capsys.readouterr().out
    assert "- `embeddings`: R2 " in said
    assert "`embeddings` gains 0.000 [0.000, 0.000] on it" in said
    assert main(["probe", out, str(table), "--label", "y", "-o", report]) == 2
    assert capsys.readouterr().err.startswith("xmae-fast: --label: expected a column of")
    picture = str(tmp_path / "x.png")
    drawing = ["reconstruct", str(packed), "-o", picture, *where, "--quality", "0", "--segments", "3,8"]
    assert main([*drawing, "--visible", "0-1,4-5"]) == 0
    assert "segment 8: mean squared error where hidden" in capsys.readouterr().out
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert main([*drawing, "--visible", "x"]) == 2
    assert "--visible: expected numbers separated by '-', got 'x'" in capsys.readouterr().err
    for text in ("3", "1-2-3"):
        assert main([*drawing, "--visible", text]) == 2
        assert f"--visible: expected spans S-S, from one second to another, got '{text}'" in capsys.readouterr().err
    assert main([*drawing, "--segments", "90"]) == 2
    assert "--segments: expected numbers from 0 to 89" in capsys.readouterr().err


def test_speed_and_time_left_are_told(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 30.0, 31.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setenv("RANK", "1")
    with said_on_stderr(), progress.progress_with_speed() as tell:
        for done in (100, 200, 400, 500):
            tell("embed", done, 7900)
    assert capsys.readouterr().err == "rank 1: embed: 400 of 7,900, 10 segments/s, 0:12:30 left\n"


@pytest.mark.skipif("XMAE_FAST_REAL_RAW" not in os.environ, reason="XMAE_FAST_REAL_RAW names no folder of recordings")
def test_a_real_recording(model, tmp_path, capsys):
    path = Path(os.environ["XMAE_FAST_REAL_RAW"]) / "bidmc_01_Signals.csv.gz"
    np.save(tmp_path / "bidmc_01.npy", np.loadtxt(path, delimiter=",", skiprows=1, usecols=2))
    model.save_pretrained(tmp_path / "model")
    arguments = ["embed", str(tmp_path / "bidmc_01.npy"), "--fs", "125", "-o", str(tmp_path / "out")]
    assert main([*arguments, "-m", str(tmp_path / "model"), "--hop", "2.5"]) == 0
    found = read_embeddings(tmp_path / "out")
    assert len(found) == 191
    assert np.median(found.columns["ppg_quality"]) > 0.9
    assert 80 < np.nanmedian(found.columns["pulse_rate"]) < 100
