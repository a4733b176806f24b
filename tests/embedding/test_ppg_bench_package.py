"""ppg-bench itself, from the files of a data set to its table of results, with an xMAE as the encoder.

The data set is BIDMC in the layout in which PhysioNet has it (`bidmc_csv/bidmc_01_Signals.csv`, `..._Numerics.csv`, see
physionet.org/content/bidmc/1.0.0/); what is in the files is simulated. The real recordings are not needed to see that
files, rates, windows, folds and numbers come through. Skipped, visibly, where ppg-bench is not installed.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xmae_fast
from tests.embedding.conftest import pulses

pytest.importorskip("ppg_bench")
pytest.importorskip("sklearn")
MODEL, FS, PEOPLE, SECONDS = "xmae-sim-small", 125, 7, 50
FOLDS = (0, 3)


def write_bidmc(root: Path) -> None:
    """Recordings of `PEOPLE`, in whom the respiration rate follows from the pulse rate, and the oxygen from nothing."""
    folder = root / "bidmc_csv"
    folder.mkdir(parents=True)
    options = {"delimiter": ",", "comments": ""}
    for number in range(1, PEOPLE + 1):
        rng = np.random.default_rng(number)
        rate, time, seconds = 50 + 10 * number, np.arange(SECONDS * FS) / FS, np.arange(SECONDS + 1)
        respiration = np.sin(2 * np.pi * rate / 240 * time)
        ppg, others = pulses(SECONDS, FS, rate, seed=number), rng.normal(size=(3, len(time)))
        signals = np.stack([time, respiration, ppg, *others], axis=1)
        header = "Time [s], RESP, PLETH, V, AVR, II"
        np.savetxt(folder / f"bidmc_{number:02d}_Signals.csv", signals, "%.4f", header=header, **options)
        pulse, oxygen = np.full(SECONDS + 1, rate), rng.normal(96, 1, SECONDS + 1)
        numbers = np.stack([seconds, pulse, pulse, rate / 4 + rng.normal(0, 0.1, SECONDS + 1), oxygen], axis=1)
        header = "Time [s], HR, PULSE, RESP, SpO2"
        np.savetxt(folder / f"bidmc_{number:02d}_Numerics.csv", numbers, "%.3f", header=header, **options)


def ppg_bench(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ppg_bench", *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(xmae_fast.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """The folder of a run: linear probes of both tasks, two of five folds of one seed."""
    folder = tmp_path_factory.mktemp("ppg_bench")
    write_bidmc(folder / "raw")
    (folder / "model.yaml").write_text(
        "name: xMAE\nport: xmae_fast.embedding.ppg_bench:XmaePort\nfs: 125\nembedding_dim: 64\n"
        f"init: {{model: {MODEL}}}\n"
    )
    ppg_bench("preprocess", "bidmc", "--raw-root", "raw", "--output", "processed", "--fs", "125", cwd=folder)
    said = ppg_bench(
        "run", "--model", "model.yaml", "--datasets", "bidmc", "--processed", "processed", "--methods", "linear",
        "--seeds", "42", "--folds", *map(str, FOLDS), "--device", "cpu", "--output", "results", cwd=folder,
    )  # fmt: skip
    assert "Selected 4 model/task/method/seed/fold evaluations" in said
    return folder


def groups(folder: Path, names: list[str], target: str) -> tuple[np.ndarray, np.ndarray]:
    """Windows [n, 1250] and targets [n] of people, in the order in which ppg-bench takes them."""
    people = [folder / "processed" / "fs_125" / "BIDMC" / name for name in names]
    return tuple(np.concatenate([np.load(one / f"{name}.npy") for one in people]) for name in ("ppg", target))


def test_the_table_of_results(results):
    status = json.loads((results / "results" / "status.json").read_text())
    assert status == {"completed": 4, "planned": 4, "complete": True}
    with (results / "results" / "summary.csv").open() as file:
        table = {(row["model"], row["task"]): row for row in csv.DictReader(file)}
    assert set(table) == {(model, f"bidmc-{task}") for model in ("xMAE", "TrainMean") for task in ("resp", "spo2")}
    jobs = [json.loads(path.read_text()) for path in (results / "results" / "jobs").glob("*/results.json")]
    for (model, task), row in table.items():
        assert (row["metric"], row["method"], row["n_folds"]) == ("mae", "linear", "2")
        mine = [
            (job["results"][0]["test"] if model == "xMAE" else job["baseline"])["mae"]
            for job in jobs
            if job["task"] == task
        ]
        assert float(row["mean"]) == pytest.approx(np.mean(mine))
    error = {model: float(table[model, "bidmc-resp"]["mean"]) for model in ("xMAE", "TrainMean")}
    assert error["xMAE"] < 0.5 * error["TrainMean"]  # the pulse rate can be read from the embedding


@pytest.mark.parametrize("target", ["resp", "spo2"])
@pytest.mark.parametrize("fold", FOLDS)
def test_numbers_are_those_computed_directly(results, target, fold):
    """Embeddings by `Embedder`, and the same ridge regression: ppg-bench's errors come out."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (path,) = (results / "results" / "jobs").glob(f"*__bidmc-{target}__linear__seed42__fold{fold}")
    job = json.loads((path / "results.json").read_text())
    assert sorted(job["train_groups"] + job["test_groups"]) == [f"bidmc{n:02d}" for n in range(1, PEOPLE + 1)]
    embedder = xmae_fast.Embedder(MODEL, check=False, quality=False)
    windows, y = zip(*(groups(results, job[f"{part}_groups"], target) for part in ("train", "test")), strict=True)
    features = [embedder(part, FS).embeddings for part in windows]
    assert [part.shape for part in features] == [(5 * len(job[f"{name}_groups"]), 64) for name in ("train", "test")]
    (cached,) = (results / "results" / "features").glob(f"*__bidmc-{target}__seed42__fold{fold}.npz")
    with np.load(cached) as stored:
        for name, found in zip(("train", "test"), features, strict=True):
            np.testing.assert_allclose(stored[name], found, atol=1e-3 * np.abs(found).max())
    told = job["results"][0]["test"]
    probe = make_pipeline(StandardScaler(), Ridge(alpha=told["best_params"]["reg__alpha"])).fit(features[0], y[0])
    predicted = probe.predict(features[1])
    with np.load(path / "predictions_repeat0.npz") as stored:
        np.testing.assert_array_equal(stored["y_true"], y[1])
        np.testing.assert_allclose(stored["y_pred"], predicted, rtol=1e-2, atol=1e-2)
    assert told["mae"] == pytest.approx(np.abs(predicted - y[1]).mean(), rel=0.02, abs=1e-3)
    assert job["baseline"]["mae"] == pytest.approx(np.abs(y[0].mean() - y[1]).mean(), rel=1e-4)
