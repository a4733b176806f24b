"""`evaluate_rhythm`: what embeddings tell of labelled rhythms, from a file to a report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xmae_fast._files import atomic_path
from xmae_fast._optional import need
from xmae_fast._version import __version__
from xmae_fast.evaluation.labelled import read_labelled
from xmae_fast.evaluation.pages import (
    RESULTS,
    check_report_folder,
    interval_text,
    need_packages,
    table_of_left_out,
    write_pages,
)
from xmae_fast.evaluation.rhythms import SHARES, rhythm_study, table_of
from xmae_fast.model.pretrained import from_pretrained, recipe_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.xmae import xMAE
from xmae_fast.reports import Heading, Marked, Page, Row, Table, code, run_facts
from xmae_fast.reports.blocks import cells_of
from xmae_fast.reports.markdown import block_as_markdown
from xmae_fast.workers.progress import Progress

_HOW = (
    "Logistic regression on standardised features, each rhythm against the rest, in five folds that share no subject;"
    " penalties are chosen by folds among the training subjects. AUROC is of all segments together, the mean is over"
    " rhythms; intervals are 95 % percentile bootstraps over subjects, and gains are paired. Of a model, mean and"
    " standard deviation of its tokens are probed, and the mean alone (pooled). Labels of a share: the probe is fitted"
    " to so many of the training subjects, with one penalty (C = 0.01), the mean over five draws of them.",
    "The pulse rate is the median of the intervals between the pulses of the same PPG, of segments with a quality of"
    " 0.9 and more, predicted by ridge regression for subjects that it has not seen. Features made by hand contain"
    " that rate, so that theirs is no prediction.",
)


def evaluate_rhythm(
    path: str | os.PathLike[str],
    models: Mapping[str, xMAE | str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    fs: float = 100.0,
    embeddings: Mapping[str, np.ndarray | str | os.PathLike[str]] | None = None,
    recipe: Recipe | None = None,
    shares: tuple[float, ...] = SHARES,
    draws: int = 5,
    resamples: int = 1000,
    seed: int = 77,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare what models tell of labelled rhythms with features made by hand and with random weights.

    Args:
        path, fs: as for `read_labelled`.
        models: by name, models or what `from_pretrained` takes; at least one.
        output: folder of report.md, report.html and results.json, which is made if it is not there; None for the
            results alone.
        embeddings: by name, further features [n, D] of the file's segments in their order, or .npy files of them.
        recipe: how segments are prepared; that of the first model by default.
        shares, draws, resamples, seed: as for `rhythm_study`.
        progress: called with (name of the features, 0, None).

    Returns:
        What results.json holds: "about", "probes" (a dictionary for each row), and "table" in Markdown.

    Raises:
        ValueError, FileNotFoundError: an argument or the file is wrong; the message says what.
        FileExistsError: a file in `output` has the name of one of a report's, and no report wrote it.
        ImportError: scikit-learn, SciPy or markdown-it-py is missing.
    """
    need("sklearn", "Evaluations need", "eval")
    if not models:
        raise ValueError("models: expected at least one, got none")
    folder = None
    if output is not None:
        need_packages()
        folder = check_report_folder(output, ())
    features = {name: _features(name, one) for name, one in (embeddings or {}).items()}
    loaded = {name: one if isinstance(one, xMAE) else from_pretrained(one) for name, one in models.items()}
    data = read_labelled(path, fs, recipe or recipe_of(next(iter(loaded.values()))))
    if data.left_out and features:
        raise ValueError(
            f"embeddings: expected none with a file of which {data.left_out} segments are constant or have no finite"
            " sample, as their rows would not be those of the segments"
        )
    rows = rhythm_study(
        data, loaded, features, shares=shares, draws=draws, resamples=resamples, seed=seed,
        progress=None if progress is None else lambda name: progress(name, 0, None),
    )  # fmt: skip
    counts = {kind: int((data.label == kind).sum()) for kind in rows[0].auroc}
    about = {
        "file": Path(path).name, "segments": len(data.ppg), "subjects": len(set(data.subject.tolist())),
        "rhythms": counts, "prepared": data.prepared, "left_out": data.left_out, "resamples": resamples, "seed": seed,
        "draws": draws, "xmae_fast": __version__, "run": run_facts("evaluate_rhythm(...)"),
    }  # fmt: skip
    table = table_of(rows)
    told = {"about": about, "probes": [row.to_dict() for row in rows], "table": block_as_markdown(table)}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / RESULTS) as temporary:
            temporary.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        write_pages(folder, _page(told, table))
    return told


def _page(told: dict[str, Any], table: Table) -> Page:
    about, probes = told["about"], told["probes"]
    listed = ", ".join(f"{count} {kind}" for kind, count in about["rhythms"].items())
    what = f"{about['segments']:,} segments of {about['subjects']} subjects in {about['file']}: {listed}."
    best = max(probes, key=lambda row: row["mean"][0])
    lines = [f"- {code(row['name'])}: mean AUROC {interval_text(row['mean'], 3)}." for row in probes]
    lines_of = zip(probes, table.rows, strict=True)
    rows = [Row(cells_of(line), "strong" if row is best else "") for row, line in lines_of]
    left_out = {"constant, or without a finite sample": about["left_out"]}
    run = about["run"]
    return Page(
        title="What embeddings tell of the rhythm",
        about=what,
        facts={"command": run["command"], "data": about["file"], **run},
        summary=[Marked("\n".join(lines))],
        blocks=[Heading(2, "Every rhythm against the rest"), table._replace(rows=rows)],
        left_out=table_of_left_out(left_out, about["segments"] + about["left_out"]),
        how=_HOW,
    )


def _features(name: str, given: np.ndarray | str | os.PathLike[str]) -> np.ndarray:
    """Features as they are, or read from a file."""
    if isinstance(given, np.ndarray):
        return given
    try:
        return np.load(given, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"embeddings: {name}: expected an .npy file of numbers, got {given}: {error}") from error
