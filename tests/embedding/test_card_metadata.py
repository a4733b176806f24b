"""The YAML at the top of model cards: what the Hub reads of it, and that its numbers are those of the reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import xmae_fast
from benchmarks.studies.ship_weights import card_results
from xmae_fast.model.card_metadata import front_matter, result, results_of

ROOT = Path(__file__).parents[2]
EVALUATION = ROOT / "docs" / "example_report"
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "real_tasks.json").read_text(encoding="utf-8"))
RHYTHMS = MEASURED["real_ppg_rhythm.npz"]
PROBE = {
    "about": {"label": "age", "per": "subject"},
    "probes": {"embeddings": {"segments": 90, "subjects": 45, "metrics": {"R2": [0.5, 0.4, 0.6]}}},
}


def metadata(card: str) -> dict:
    yaml = pytest.importorskip("yaml")
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n", 2)[1])


def values(about: dict) -> dict[tuple[str, str, str], float]:
    """(task, data set, type of the metric) -> value."""
    (model,) = about["model-index"]
    return {
        (one["task"]["name"], one["dataset"]["type"], metric["type"]): metric["value"]
        for one in model["results"]
        for metric in one["metrics"]
    }


def test_a_card_says_what_the_hub_asks_for(model, tmp_path):
    model.save_pretrained(tmp_path / "mine")
    about = metadata((tmp_path / "mine" / "README.md").read_text(encoding="utf-8"))
    assert about.pop("tags") == ["ppg", "photoplethysmography", "ecg", "biosignals", "feature-extraction"]
    assert about == {"library_name": "xmae_fast", "pipeline_tag": "feature-extraction"}
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "results.json").write_text(json.dumps(PROBE))
    own = result("Rate", "Watches: 7 of them", "watches", [("mae", "error, in 1/min", 1.23456)])
    options = {"license": "cc-by-4.0", "results": [tmp_path / "report", own], "overwrite_card": True}
    model.save_pretrained(tmp_path / "mine", **options)
    about = metadata((tmp_path / "mine" / "README.md").read_text(encoding="utf-8"))
    assert about["license"] == "cc-by-4.0"
    assert about["model-index"][0]["name"] == "mine"
    assert values(about) == {
        ("Linear probe of age (per subject), subjects held out", "embeddings", "r_squared"): 0.5,
        ("Rate", "watches", "mae"): 1.2346,
    }
    assert about["model-index"][0]["results"][1]["dataset"]["name"] == "Watches: 7 of them"


@pytest.mark.parametrize(
    "name", ["plain", "yes", "1.5", "a: b # c", "- x", 'say "so"', "Ä", "null", "apache-2.0", "f1"]
)
def test_yaml_gives_every_name_back(name):
    about = metadata(front_matter(name, name, [result(name, name, name, [("mse", name, 1e-7)])]) + "\n")
    assert about["license"] == name
    (entry,) = about["model-index"]
    assert entry["name"] == name
    assert entry["results"][0]["dataset"] == {"type": name, "name": name, "config": name}


def test_numbers_are_those_of_the_reports():
    told = json.loads((EVALUATION / "results.json").read_text(encoding="utf-8"))
    found = values({"model-index": [{"results": results_of([EVALUATION, RHYTHMS], "xmae-sim-small")}]})
    row = next(row for row in told["by_ratio"] if row["ratio"] == told["about"]["ratio"])
    assert found["Reconstruction of masked ECG", "sim_0000.h5", "mse"] == round(row["mse"]["model"][0], 4)
    rate = next(p for p in told["probes"] if (p["target"], p["features"]) == ("heart_rate", "pretrained"))
    r2 = found["Linear probe of heart rate, subjects held out", "sim_0000.h5", "r_squared"]
    assert r2 == round(rate["metrics"]["R2"][0], 4)
    rows = {row["name"]: row for row in RHYTHMS["probes"]}
    for what, key in (("mean", "xmae-sim-small, pooled"), ("mean and SD", "xmae-sim-small")):
        task = f"Linear probe of rhythm, subjects held out; {what} of the tokens"
        assert found[task, "real_ppg_rhythm.npz", "roc_auc"] == round(rows[key]["mean"][0], 4)


def test_reports_that_are_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results: expected the folder of a report, .*results.json does not"):
        results_of(tmp_path, "mine")
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="results: expected the folder of a report of evaluate"):
        results_of(tmp_path, "mine")
    with pytest.raises(ValueError, match="results: expected"):
        results_of({"probes": {}}, "mine")
    with pytest.raises(ValueError, match="name: expected that of a model in the report of rhythms, .*, got 'mine'"):
        results_of(RHYTHMS, "mine")


@pytest.mark.parametrize("name", sorted(xmae_fast.pretrained_models()))
def test_cards_of_the_package_have_what_was_measured(name):
    shipped = xmae_fast.pretrained_models()[name]
    about = metadata(shipped.card)
    assert (about["license"], about["library_name"]) == ("apache-2.0", "xmae_fast")
    found = values(about)
    with (shipped.folder / "metrics.csv").open(encoding="utf-8") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    assert found.pop(("Reconstruction of masked ECG", "validation", "mse")) == round(min(losses), 4)
    assert found == values({"model-index": [{"results": card_results(MEASURED, name)}]})
    for source in ("simulated", "real_ecg_ppg_100hz.h5"):
        measured = MEASURED[source][name]
        task = "Reconstruction of ECG, 80 % of it hidden"
        assert found[task, source, "mse"] == round(measured["mse"]["model"][0], 4)
        assert found[task, source, "f1"] == round(measured["beats"]["model"]["f1"], 4)


@pytest.mark.parametrize("name", sorted(xmae_fast.pretrained_models()))
def test_huggingface_hub_reads_and_writes_the_cards(name, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(xmae_fast.pretrained_models()[name].card)
    assert card.data.pipeline_tag == "feature-extraction"
    assert card.data.model_name == name
    found = {(one.task_name, one.dataset_type, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found == values(metadata(str(card)))
    card.save(tmp_path / "README.md")
    assert hub.ModelCard.load(tmp_path / "README.md").data.eval_results == card.data.eval_results
