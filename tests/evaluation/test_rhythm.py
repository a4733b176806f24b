"""Probes of rhythms: the readers of labelled segments, and the study on simulated patients."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from xmae_fast import ModelCfg, xMAE
from xmae_fast.cli import main
from xmae_fast.evaluation import evaluate_rhythm, read_labelled, rhythm_study
from xmae_fast.evaluation.probes.linear import few_subjects_auroc, subjects_of
from xmae_fast.evaluation.rhythms import HAND_MADE, RANDOM, table_of
from xmae_fast.simulation.population import RHYTHMS, PopulationCfg, simulate_population

pytest.importorskip("sklearn")
scipy_io = pytest.importorskip("scipy.io")
CFG = ModelCfg(patch_len=40, d_model=16, nhead=2, depth_ppg=1, stem_ch=4, proj_dim=8, dropout=0.0)


@pytest.fixture(scope="module")
def simulated() -> dict:
    """192 segments of 48 subjects: 4 in a row of each."""
    made = simulate_population(192, seed=21, cfg=PopulationCfg(shares=(0.5, 0, 0, 0.25, 0, 0.25)))
    return {"ppg": made["ppg"], "rhythm": made["rhythm"], "subject": made["subject"] % 12}


@pytest.fixture(scope="module")
def file(simulated, tmp_path_factory):
    path = tmp_path_factory.mktemp("rhythm") / "labelled.npz"
    np.savez(path, **simulated)
    return path


def test_all_formats_are_read_alike(simulated, file, tmp_path):
    scipy_io.savemat(tmp_path / "labelled.mat", simulated)
    with open(tmp_path / "labelled.csv", "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["subject", *range(1000), "rhythm"])
        for row in range(192):
            rhythm = RHYTHMS[simulated["rhythm"][row]]
            writer.writerow([simulated["subject"][row], *simulated["ppg"][row].tolist(), rhythm])
    first = read_labelled(file)
    assert first.prepared
    assert (first.ppg == simulated["ppg"]).all()
    assert set(first.label) == {"sinus", "vt", "af"}
    assert (first.quality > 0.5).mean() > 0.9
    for name in ("labelled.mat", "labelled.csv"):
        other = read_labelled(tmp_path / name)
        for field in ("ppg", "label", "subject", "quality", "pulse_rate"):
            np.testing.assert_array_equal(getattr(first, field), getattr(other, field))


def test_cells_of_matlab(simulated, tmp_path):
    names = np.array([RHYTHMS[k] for k in simulated["rhythm"]], dtype=object)
    who = np.array([f"p{k:02}" for k in simulated["subject"]], dtype=object)
    scipy_io.savemat(tmp_path / "cells.mat", {"ppg": simulated["ppg"], "rhythm": names, "subject": who})
    data = read_labelled(tmp_path / "cells.mat")
    assert data.label.tolist() == names.tolist()
    assert data.subject.tolist() == who.tolist()


def test_what_is_not_prepared_is_prepared(simulated, tmp_path):
    """Another rate, another unit, a missing sample, a constant segment."""
    raw = 3000 + 500 * np.repeat(simulated["ppg"], 2, axis=1).astype(float)
    raw[0, 5], raw[1] = np.nan, 7
    np.savez(tmp_path / "raw.npz", ppg=raw, rhythm=simulated["rhythm"], subject=simulated["subject"])
    data = read_labelled(tmp_path / "raw.npz", fs=200)
    assert (data.prepared, data.left_out, data.ppg.shape) == (False, 1, (191, 1000))
    assert (np.abs(data.ppg).max(1) == 1).all()


def test_what_is_wrong_is_said(simulated, tmp_path):
    def message(name: str, **arrays) -> str:
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(ValueError, match=name) as error:
            read_labelled(tmp_path / name)
        return str(error.value)

    assert "subject is missing" in message("a.npz", ppg=simulated["ppg"], rhythm=simulated["rhythm"])
    assert "expected ppg [n, samples]" in message("b.npz", **simulated | {"subject": np.zeros(3)})
    assert "all 192 are constant" in message("c.npz", **simulated | {"ppg": np.zeros((192, 1000))})
    (tmp_path / "d.csv").write_text("rhythm,subject,0,1\naf,1,0.5,0.1\naf,1,0.5\n")
    with pytest.raises(ValueError, match="line 3: expected 4 cells"):
        read_labelled(tmp_path / "d.csv")
    (tmp_path / "e.csv").write_text("rhythm,subject,0,1\naf,1,0.5,x\n")
    with pytest.raises(ValueError, match="expected numbers in all columns but rhythm and subject"):
        read_labelled(tmp_path / "e.csv")
    (tmp_path / "f.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="f.npz"):
        read_labelled(tmp_path / "f.npz")
    for missing in (tmp_path / "g.npz", tmp_path):
        with pytest.raises(FileNotFoundError, match="rhythm: expected a file .npz, .mat or .csv, .* is none"):
            read_labelled(missing)
    (tmp_path / "h.txt").touch()
    with pytest.raises(ValueError, match=r"expected a file .npz, .mat or .csv, got 'h.txt'"):
        read_labelled(tmp_path / "h.txt")


def test_the_study_finds_what_is_there(file):
    """Labels as features are perfect, noise is chance, and gains are those over the hand-made features."""
    torch.manual_seed(0)
    data = read_labelled(file)
    truth = np.stack([data.label == kind for kind in ("sinus", "vt", "af")], 1).astype(float)
    noise = np.random.default_rng(1).normal(size=(192, 5))
    model = xMAE(CFG).eval()
    rows = rhythm_study(data, {"mine": model}, {"truth": truth, "noise": noise}, resamples=100, draws=2)
    by_name = {row.name: row for row in rows}
    assert list(by_name) == [HAND_MADE, RANDOM, "mine", "mine, pooled", "truth", "noise"]
    assert (by_name[HAND_MADE].width, by_name["mine"].width, by_name["mine, pooled"].width) == (35, 32, 16)
    assert by_name["truth"].mean.value == 1
    assert by_name["truth"].by_share[0.3] == by_name["truth"].by_share[1.0] == 1  # of one subject, not all is learned
    assert by_name["truth"].by_share[0.1] > 0.6
    counts = {share: subjects_of(share, rows[0].subjects) for share in by_name["truth"].by_share}
    shown = [name for name in table_of(rows).header if name.startswith("labels of")]
    assert shown[-1] == "labels of 30%"
    assert len(shown) == len({counts[share] for share in (0.01, 0.03, 0.1, 0.3)})
    assert 0.35 < by_name["noise"].mean.value < 0.65
    assert by_name[HAND_MADE].mean.value > 0.8
    assert by_name[HAND_MADE].rate_error.value < 2
    gain = by_name["truth"].gain
    assert gain.value == pytest.approx(1 - by_name[HAND_MADE].mean.value)
    assert gain.low <= gain.value <= gain.high


def test_few_subjects(simulated):
    """With all subjects it is near what can be had; with one, it is less."""
    rng = np.random.default_rng(0)
    labels, groups = simulated["rhythm"] == 5, simulated["subject"]
    features = rng.normal(size=(192, 3)) + labels[:, None]
    # Normal features whose means are sqrt(3) standard deviations apart: an AUROC of 0.89 at best.
    whole, few = (few_subjects_auroc(features, labels, groups, share, draws=3) for share in (1.0, 0.1))
    assert 0.82 < whole < 0.93
    assert 0.6 < few < whole
    alone = groups == 3
    assert np.isnan(few_subjects_auroc(features, np.isin(groups, (3,)) & alone, groups, 0.05, draws=1))
    with pytest.raises(ValueError, match="expected a share"):
        few_subjects_auroc(features, labels, groups, 0.0)


def test_the_command_writes_a_report(file, tmp_path, capsys):
    xMAE(CFG).save_pretrained(tmp_path / "model")
    np.save(tmp_path / "noise.npy", np.random.default_rng(1).normal(size=(192, 2)))
    arguments = ["evaluate", str(tmp_path / "model"), "--rhythm", str(file), "-o", str(tmp_path / "report")]
    assert main([*arguments, "--embedding", f"noise={tmp_path / 'noise.npy'}", "--resamples", "20"]) == 0
    out = capsys.readouterr().out
    assert "| noise (2) |" in out
    told = json.loads((tmp_path / "report" / "results.json").read_text())
    assert sum(told["about"]["rhythms"].values()) == 192
    page = (tmp_path / "report" / "report.html").read_text()
    assert "What embeddings tell of the rhythm" in page
    assert main([*arguments, "--resamples", "20"]) == 0  # a report may be replaced


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rhythm", "FILE", "--data", "x"], "--data, --rhythm: expected one of them, got both"),
        ([], "--data, --rhythm: expected one of them, got neither"),
        (["--data", "x"], "--output: expected a folder for the report, got none"),
        (["--rhythm", "FILE", "--split", "all"], "--split: expected none with --rhythm, it is for --data, got all"),
        (["--rhythm", "FILE", "--config", "x.yaml"], "--config: expected none with --rhythm"),
        (["--data", "x", "-o", "y", "--fs", "50"], "--fs: expected none with --data, it is for --rhythm, got 50"),
        (["--rhythm", "FILE", "--embedding", "a=NPY"], "embeddings: a: expected features [192, D]"),
        (["--rhythm", "FILE", "--embedding", "a=none.npy"], "embeddings: a: expected an .npy file of numbers"),
        (["--rhythm", "FILE", "--embedding", "a=FILE.json"], "embeddings: a: expected an .npy file of numbers"),
    ],
)
def test_wrong_arguments(file, tmp_path, capsys, arguments, message):
    xMAE(CFG).save_pretrained(tmp_path / "model")
    np.save(tmp_path / "few.npy", np.zeros((3, 2)))
    file.with_name(f"{file.name}.json").write_text("{}")
    real = [a.replace("FILE", str(file)).replace("NPY", str(tmp_path / "few.npy")) for a in arguments]
    assert main(["evaluate", str(tmp_path / "model"), *real]) == 2
    assert message in capsys.readouterr().err


def test_lengths_must_agree(file):
    with pytest.raises(ValueError, match="models: short: expected a model for segments of 1000 samples"):
        rhythm_study(read_labelled(file), {"short": xMAE(ModelCfg(seq_len=400, d_model=16, nhead=2))})
    with pytest.raises(ValueError, match="models: expected at least one"):
        evaluate_rhythm(file, {})
