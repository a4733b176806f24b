"""`probe_embeddings`: how well a linear probe predicts labels from stored embeddings, with a report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xmae_fast._files import atomic_path
from xmae_fast.embedding.store import StoredEmbeddings, read_embeddings
from xmae_fast.evaluation.held_out import even_draw
from xmae_fast.evaluation.pages import (
    RESULTS,
    check_report_folder,
    interval_text,
    need_packages,
    table_of_left_out,
    write_pages,
)
from xmae_fast.evaluation.probes.label_table import Labels, read_labels
from xmae_fast.evaluation.probes.linear import ProbeResult, demeaned, probe
from xmae_fast.reports import Heading, Marked, Page, Picture, Row, Table, code, plain, run_facts

PICTURE = "probe.png"
_METRIC = {"regression": "R2", "classification": "AUROC"}


def probe_embeddings(
    embeddings: str | os.PathLike[str] | StoredEmbeddings,
    labels: str | os.PathLike[str],
    label: str,
    output: str | os.PathLike[str] | None = None,
    *,
    task: str | None = None,
    positive: str | None = None,
    on: str | None = None,
    per: str = "segment",
    within: bool = False,
    quality: float = 0.0,
    compare: Mapping[str, str | os.PathLike[str] | StoredEmbeddings] | None = None,
    folds: int = 5,
    resamples: int = 1000,
    max_segments: int | None = 100_000,
    seed: int = 77,
) -> dict[str, Any]:
    """Fit a linear probe to stored embeddings and judge it on subjects that it has not seen, as `probe` does.

    Args:
        embeddings: a folder that `read_embeddings` reads, or what it returned; pooled or projected.
        labels: a CSV file.
        label: the column of the labels.
        output: folder of report.md, report.html, results.json and a picture, which is made if it is not there; None for
            the results alone.
        task, positive, on: as for `read_labels`.
        per: "segment", or "subject" to probe the mean embedding of each subject, whose labels must agree.
        within: subtract the mean of each subject first; for regressions.
        quality: of the PPG, that a segment must reach; 0 also takes segments whose quality is not known.
        compare: further embeddings of the same segments by name, such as those of another model, with paired gains.
        folds, resamples, seed: as for `probe`.
        max_segments: at most so many are taken, evenly over subjects; None for all.

    Returns:
        What results.json holds: "about", and "probes", those of "embeddings" and of what it is compared with.

    Raises:
        ValueError, FileNotFoundError: an argument is wrong; the message names it.
        FileExistsError: a file in `output` has the name of one of a report's, and no report wrote it.
        ImportError: scikit-learn, matplotlib or markdown-it-py is missing.
    """
    if per not in ("segment", "subject"):
        raise ValueError(f"per: expected 'segment' or 'subject', got {per!r}")
    if output is not None:
        need_packages()
        output = check_report_folder(output, [PICTURE])
    tables = {"embeddings": embeddings, **(compare or {})}
    if len(tables) != 1 + len(compare or {}):
        raise ValueError("compare: expected other names than 'embeddings', got it")
    tables = {name: _loaded(name, table) for name, table in tables.items()}
    main = tables["embeddings"]
    found = read_labels(labels, label, main.key.tolist(), main.subject.tolist(), task=task, positive=positive, on=on)
    rows, left_out = _rows(tables, found, quality)
    if max_segments is not None and len(rows) > max_segments:
        left_out["beyond max_segments"] = len(rows) - max_segments
        rows = rows[even_draw(np.unique(main.subject[rows], return_inverse=True)[1], max_segments, seed)]
    groups, y = main.subject[rows], found.labels[rows]
    results: dict[str, ProbeResult] = {}
    for name, table in tables.items():
        features = table.embeddings[_same_rows(name, table, main.key[rows])].astype(np.float64)
        if per == "subject":
            features, y_used, who = _by_subject(features, y, groups)
        else:
            y_used, who = y, groups
        options = {"within": within, "folds": folds, "resamples": resamples, "seed": seed}
        results[name] = probe(features, y_used, who, found.task, **options)
    about = {
        "label": label, "task": found.task, "positive": found.positive, "joined_on": found.joined_on, "per": per,
        "within": within, "quality": quality, "resamples": resamples, "seed": seed, "left_out": left_out,
        "embeddings": {name: _source(table) for name, table in tables.items()},
        "run": run_facts("probe_embeddings(...)"),
    }  # fmt: skip
    first, metric = results["embeddings"], _METRIC[found.task]
    probes = {
        name: result.to_dict() | ({"gain": list(first.gain_over(result, metric))} if name != "embeddings" else {})
        for name, result in results.items()
    }
    told = {"about": about, "probes": probes}
    if output is not None:
        _write_report(output, told, first)
    return told


def _loaded(name: str, table: str | os.PathLike[str] | StoredEmbeddings) -> StoredEmbeddings:
    loaded = table if isinstance(table, StoredEmbeddings) else read_embeddings(table)
    if loaded.embeddings.ndim != 2:
        raise ValueError(f"{name}: expected pooled or projected embeddings [n, D], got {list(loaded.embeddings.shape)}")
    return loaded


def _rows(tables: dict[str, StoredEmbeddings], found: Labels, quality: float) -> tuple[np.ndarray, dict[str, int]]:
    """The rows of the first table that can be used, and how many cannot, by the first reason that applies to them."""
    main, left_out = tables["embeddings"], {}
    use = np.ones(len(main), bool)
    there = main.columns["ppg_quality"] >= quality if "ppg_quality" in main.columns and quality > 0 else use
    finite = np.isfinite(main.embeddings).all(1)
    for name, table in tables.items():
        if name != "embeddings":
            finite = finite & np.isin(main.key, table.key[np.isfinite(table.embeddings).all(1)])
    reasons = {"no label": ~np.isnan(found.labels), "low quality": there, "no embedding": finite}
    for reason, good in reasons.items():
        left_out[reason] = int((use & ~good).sum())
        use &= good
    return np.flatnonzero(use), {reason: count for reason, count in left_out.items() if count}


def _same_rows(name: str, table: StoredEmbeddings, keys: np.ndarray) -> np.ndarray:
    """The rows of `table` that have these keys; ValueError if it has a key twice."""
    order = np.argsort(table.key, kind="stable")
    ordered = table.key[order]
    if (ordered[1:] == ordered[:-1]).any():
        twice = str(ordered[1:][ordered[1:] == ordered[:-1]][0])
        raise ValueError(f"{name}: expected distinct keys, got {twice!r} twice")
    return order[np.searchsorted(ordered, keys)]


def _by_subject(features: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean features, label and name of each subject; ValueError if the segments of one have several labels."""
    names, number = np.unique(groups, return_inverse=True)
    if np.abs(demeaned(y[:, None], groups)).max() > 1e-9 * max(1.0, np.abs(y).max()):
        raise ValueError("per: expected 'segment', because a subject's segments have different labels, got 'subject'")
    sums = np.zeros((len(names), features.shape[1]))
    np.add.at(sums, number, features)
    counts = np.bincount(number)
    return sums / counts[:, None], np.bincount(number, y) / counts, names


def _source(table: StoredEmbeddings) -> dict[str, Any]:
    wanted = ("output", "shape", "model")
    return {name: table.about[name] for name in wanted if name in table.about} | {"rows": len(table)}


def _write_report(folder: Path, told: dict[str, Any], result: ProbeResult) -> None:
    from xmae_fast.evaluation.probes.picture import draw_probe

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / RESULTS) as temporary:  # first, because it tells that the other files are a report's
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    with atomic_path(folder / PICTURE) as temporary:
        draw_probe(result, told["about"]["label"]).savefig(temporary, format="png", dpi=110)
    write_pages(folder, _page(told))


def summary(told: dict[str, Any]) -> Marked:
    """The findings as a list in Markdown."""
    lines = []
    for name, found in told["probes"].items():
        numbers = ", ".join(f"{metric} {interval_text(value, 3)}" for metric, value in found["metrics"].items())
        gain = f"; `embeddings` gains {interval_text(found['gain'], 3)} on it" if "gain" in found else ""
        lines.append(f"- {code(name)}: {numbers}{gain}.")
    return Marked("\n".join(lines))


def _page(told: dict[str, Any]) -> Page:
    about, first = told["about"], told["probes"]["embeddings"]
    what = "a regression" if about["task"] == "regression" else f"a classification ({about['positive']!r} is positive)"
    unit = "subjects' mean embeddings" if about["per"] == "subject" else "segments"
    within = " Features and labels are less the subject's mean." if about["within"] else ""
    chance = "" if first["prevalence"] is None else f" By chance the AUPRC is {first['prevalence']:.3f}, the AUROC 0.5."
    few = " **With so few subjects intervals are rough.**" if first["subjects"] < 20 else ""
    header = ["embeddings", *first["metrics"], f"gain of embeddings ({_METRIC[about['task']]})"]
    rows = []
    for name, found in told["probes"].items():
        gain = interval_text(found["gain"], 3) if "gain" in found else ""
        cells = [name, *(interval_text(value, 3) for value in found["metrics"].values()), gain]
        rows.append(Row(cells, "strong" if name == "embeddings" else ""))
    sources = [
        [name, str(s.get("output", "")), f"{s['rows']:,}", str(s.get("model", ""))[:19]]
        for name, s in about["embeddings"].items()
    ]
    run, total = about["run"], about["embeddings"]["embeddings"]["rows"]
    return Page(
        title=f"Linear probe of {about['label']}",
        about=Marked(
            f"{first['segments']:,} {unit} of {first['subjects']:,} subjects; {plain(what)}, joined by"
            f" {about['joined_on']}.{few}"
        ),
        facts={"command": run["command"], "data": f"{total:,} embeddings, labels {about['label']}", **run},
        summary=[summary(told)],
        blocks=[
            Heading(2, "Result, on subjects that the probe has not seen"),
            Table(header, rows),
            Picture(PICTURE, "Predictions for subjects that the probe has not seen"),
            Heading(2, "Embeddings"),
            Table(["embeddings", "output", "rows", "model"], sources),
        ],
        left_out=table_of_left_out(about["left_out"], total),
        how=[
            f"StandardScaler and ridge or logistic regression in {first['folds']} subject-wise folds; every row is"
            " predicted by a probe that saw nothing of its subject, penalties are chosen by folds among the training"
            " subjects, too."
            f" Intervals are 95 % percentile bootstraps over subjects ({about['resamples']:,} resamples, seed"
            f" {about['seed']}); gains are paired.{within}{chance}"
        ],
    )
