"""The metadata of a model card: the YAML at its top, by which the Hugging Face Hub finds, sorts and shows a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmae_fast._files import read_json

_TAGS = ["ppg", "photoplethysmography", "ecg", "biosignals", "feature-extraction"]
_RESULTS = "results.json"
# Names of evaluations -> (the Hub's name of the metric, words).
_METRICS = {"R2": ("r_squared", "R2"), "MAE": ("mae", "mean absolute error"), "AUROC": ("roc_auc", "AUROC")}
_BASELINES = ("hand-made", "random weights")  # how rows of a rhythm report begin that are of no model

Result = dict[str, Any]  # of the Hub's model-index: "task", "dataset", "metrics"


def front_matter(name: str, licence: str | None, results: Sequence[Result]) -> str:
    """The metadata between lines of three dashes.

    Args:
        name: of the model.
        licence: the Hub's identifier of the weights' licence, such as "apache-2.0"; None leaves it out.
        results: what the model's page shows of evaluations.
    """
    about: dict[str, Any] = {} if licence is None else {"license": licence}
    about |= {"library_name": "xmae_fast", "pipeline_tag": "feature-extraction", "tags": _TAGS}
    if results:
        about["model-index"] = [{"name": name, "results": list(results)}]
    return "---\n" + "\n".join(_yaml(about)) + "\n---"


def result(task: str, dataset: str, source: str, metrics: Sequence[tuple[str, str, float]]) -> Result:
    """A result as the Hub's model-index has it.

    Args:
        task: what was asked of the model, in words.
        dataset: what it was asked of, in words.
        source: the name of the data set. With the task it tells results apart: huggingface_hub takes those of one
            type and configuration for one.
        metrics: (the Hub's name of the metric, words, value) of each.
    """
    return {
        "task": {"type": "feature-extraction", "name": task},
        "dataset": {"type": source, "name": dataset, "config": task},
        "metrics": [{"type": type_, "name": words, "value": round(value, 4)} for type_, words, value in metrics],
    }


def results_of(reports: Any, name: str) -> list[Result]:
    """The results of reports, for the card of the model `name`.

    Args:
        reports: one or a list of: the folder of a report that `evaluate`, `evaluate_rhythm` or `probe_embeddings`
            wrote, or what these return; a result in the form that `result` returns.

    Raises:
        ValueError: one of them is none of these, or a report of several models has none of that name.
        FileNotFoundError: a folder has no results.json.
    """
    if isinstance(reports, str | os.PathLike | Mapping):
        reports = [reports]
    return [found for report in reports for found in _results(report, name)]


def _results(report: Any, name: str) -> Iterator[Result]:
    if isinstance(report, str | os.PathLike):
        file = Path(report) / _RESULTS if Path(report).is_dir() else Path(report)
        if not file.is_file():
            raise FileNotFoundError(f"results: expected the folder of a report, {file} does not exist")
        report = read_json(file)
    try:
        if {"task", "dataset", "metrics"} <= report.keys():
            found = [report]
        elif "by_ratio" in report:
            found = list(_of_evaluation(report))
        elif "table" in report:
            found = list(_of_rhythms(report, name))
        else:
            found = list(_of_probe(report))
    except (AttributeError, KeyError, TypeError, IndexError, StopIteration) as error:
        expected = "the folder of a report of evaluate, evaluate_rhythm or probe_embeddings, or what one returns"
        raise ValueError(f"results: expected {expected}, got another thing ({error!r})") from error
    yield from found


def _of_evaluation(report: Mapping[str, Any]) -> Iterator[Result]:
    about = report["about"]
    source = ", ".join(about["data"]["shards"][:3])
    data = _counted(about["data"], source), source
    row = next(row for row in report["by_ratio"] if (row["mode"], row["ratio"]) == (about["mode"], about["ratio"]))
    words = f"masked MSE ({about['mode']}, {about['ratio']:.0%} hidden; best baseline {_best(row):.4f})"
    yield result("Reconstruction of masked ECG", *data, [("mse", words, row["mse"]["model"][0])])
    for probe in report["probes"]:
        if probe["features"] == "pretrained" and "metrics" in probe:
            words = probe["target"].replace("_", " ")
            yield result(f"Linear probe of {words}, subjects held out", *data, list(_metrics(probe["metrics"])))


def _best(row: Mapping[str, Any]) -> float:
    return row["mse"][row["best_baseline"]][0]


def _of_rhythms(report: Mapping[str, Any], name: str) -> Iterator[Result]:
    rows = {row["name"]: row for row in report["probes"] if not row["name"].startswith(_BASELINES)}
    models = [one for one in rows if f"{one}, pooled" in rows]
    if name not in models and len(models) != 1:
        raise ValueError(f"name: expected that of a model in the report of rhythms, {models}, got {name!r}")
    name = name if name in models else models[0]
    about = report["about"]
    data = _counted(about, about["file"]), about["file"]
    for row, what in ((rows[f"{name}, pooled"], "mean"), (rows[name], "mean and SD")):
        metrics = [("roc_auc", f"AUROC, mean of {len(row['auroc'])} rhythms against the rest", row["mean"][0])]
        if row["rate_error"] is not None:
            metrics.append(("mae", "pulse rate, mean absolute error [1/min]", row["rate_error"][0]))
        yield result(f"Linear probe of rhythm, subjects held out; {what} of the tokens", *data, metrics)


def _of_probe(report: Mapping[str, Any]) -> Iterator[Result]:
    about, probe = report["about"], report["probes"]["embeddings"]
    task = f"Linear probe of {about['label']} (per {about['per']}), subjects held out"
    yield result(task, _counted(probe, "embeddings"), "embeddings", list(_metrics(probe["metrics"])))


def _metrics(metrics: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, str, float]]:
    for metric, (value, low, high) in metrics.items():
        type_, words = _METRICS.get(metric, (metric.lower().replace(" ", "_"), metric))
        yield type_, f"{words} [{low:.3f}, {high:.3f}]", value


def _counted(about: Mapping[str, Any], source: str) -> str:
    return f"{about['segments']:,} segments of {about['subjects']:,} subjects ({source})"


def _yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Lines of YAML. Scalars are written as JSON, of which YAML is a superset, or bare where that is plain."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | list):
                yield f"{indent}{key}:"
                yield from _yaml(inner, indent if isinstance(inner, list) else indent + "  ")
            else:
                yield f"{indent}{key}: {_scalar(inner)}"
    else:
        for item in value:
            if isinstance(item, Mapping):
                first, *others = _yaml(item, indent + "  ")
                yield f"{indent}- {first.strip()}"
                yield from others
            else:
                yield f"{indent}- {_scalar(item)}"


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and value.replace("-", "").replace("_", "").replace(".", "").isalpha()
    return value if plain and value.lower() not in _WORDS else json.dumps(value, ensure_ascii=False)


_WORDS = ("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf")  # that YAML takes for others
