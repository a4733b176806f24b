"""A picture of what a probe predicted for subjects that it has not seen."""

from __future__ import annotations

import numpy as np

from xmae_fast._optional import need, new_figure
from xmae_fast.evaluation.probes.linear import ProbeResult

_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#777777"
_SHOWN = 20_000  # points


def draw_probe(result: ProbeResult, label: str):
    """Draw the predictions of a probe.

    Args:
        result: of a regression (predicted against true values, and errors), or of a classification (ROC, precision and
            recall, and scores by class).
        label: what the probe predicts.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = new_figure(11, 4.2, "Reports need", "eval")
    numbers = ", ".join(f"{name} {value}" for name, value in result.metrics.items())
    figure.suptitle(f"{label}, {result.subjects:,} subjects not seen: {numbers}", parse_math=False, fontsize=11)
    (_draw_regression if result.task == "regression" else _draw_classification)(figure, result, label)
    return figure


def _draw_regression(figure, result: ProbeResult, label: str) -> None:
    left, right = figure.subplots(1, 2)
    chosen = np.unique(np.linspace(0, result.segments - 1, _SHOWN).astype(np.int64))
    true, predicted = result.labels[chosen], result.predictions[chosen]
    left.scatter(true, predicted, s=7, color=_BLUE, alpha=0.35, lw=0, rasterized=True)
    ends = [float(true.min()), float(true.max())]
    left.plot(ends, ends, color="#333333", lw=0.9, ls="--")
    left.set_xlabel(f"true {label}", parse_math=False)
    left.set_ylabel("predicted")
    error = result.predictions - result.labels
    guess = result.labels.mean() - result.labels
    bins = np.linspace(min(error.min(), guess.min()), max(error.max(), guess.max()), 51)
    right.hist(error, bins, color=_BLUE, alpha=0.8, label="probe")
    right.hist(guess, bins, color=_GREY, histtype="step", label="mean of all labels")
    right.axvline(0, color="#333333", lw=0.9, ls="--")
    right.set_xlabel("predicted minus true")
    right.set_ylabel("segments")
    right.legend(frameon=False, fontsize=9)


def _draw_classification(figure, result: ProbeResult, label: str) -> None:
    metrics = need("sklearn.metrics", "Reports need", "eval")
    roc, recall, by_class = figure.subplots(1, 3)
    positive = result.labels == 1
    false_alarms, hits, _ = metrics.roc_curve(positive, result.predictions)
    roc.plot(false_alarms, hits, color=_BLUE, lw=1.8)
    roc.plot([0, 1], [0, 1], color=_GREY, lw=1, ls="--")
    roc.set_xlabel("false positive rate")
    roc.set_ylabel("true positive rate")
    precision, recalled, _ = metrics.precision_recall_curve(positive, result.predictions)
    recall.plot(recalled, precision, color=_BLUE, lw=1.8)
    recall.axhline(result.prevalence, color=_GREY, lw=1, ls="--")
    recall.set_xlabel("recall")
    recall.set_ylabel("precision")
    for axis in (roc, recall):
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
    bins = np.linspace(0, 1, 41)
    for name, which, colour in (("negative", ~positive, _GREY), ("positive", positive, _ORANGE)):
        by_class.hist(result.predictions[which], bins, density=True, color=colour, alpha=0.6, label=name)
    by_class.set_xlabel(f"predicted probability, {label}", parse_math=False)
    by_class.set_ylabel("density")
    by_class.legend(frameon=False, fontsize=9)
