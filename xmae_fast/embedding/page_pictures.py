"""The pictures of a page on embeddings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xmae_fast._optional import new_figure

_BLUE, _ORANGE = "#0072B2", "#D55E00"
_COMPONENTS = 6
LEAST = 8  # rows that components are computed of


class Components(NamedTuple):
    """Principal components.

    Attributes:
        mean: [D].
        axes: [D, c], each divided by the standard deviation along it.
        share: [c], of the variance.
    """

    mean: np.ndarray
    axes: np.ndarray
    share: np.ndarray

    def of(self, embeddings: np.ndarray) -> np.ndarray:
        """[n, c], in standard deviations; NaN where an embedding is."""
        return (embeddings - self.mean) @ self.axes


def components_of(embeddings: np.ndarray, good: np.ndarray) -> Components | None:
    """The first principal components of embeddings.

    Args:
        embeddings: [n, D].
        good: [n] bool, rows of which they are computed, if there are enough; else all are.

    Returns:
        None if there are fewer than 8 rows, or if they are all the same.
    """
    finite = np.isfinite(embeddings).all(1)
    used = embeddings[finite & good if (finite & good).sum() >= LEAST else finite]
    if len(used) < LEAST:
        return None
    mean = used.mean(0)
    values, vectors = np.linalg.eigh(np.cov(used - mean, rowvar=False).reshape(used.shape[1], -1))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    count = int(min(_COMPONENTS, (values > 1e-12 * max(values[0], 1e-300)).sum()))
    if not count or values[0] <= 0:
        return None
    vectors = vectors[:, :count] * np.sign(vectors[np.abs(vectors[:, :count]).argmax(0), np.arange(count)])
    return Components(mean, vectors / np.sqrt(values[:count]), values[:count] / values.sum())


def draw_recording(
    name: str,
    columns: dict[str, np.ndarray],
    seconds: float,
    good: float,
    spans: list[tuple[float, float]],
    times: np.ndarray,
    scores: np.ndarray | None,
):
    """Draw a recording along time: quality, pulse rate, components of the embeddings.

    Args:
        name: of the recording.
        columns: [n] each, "time" [s], "ppg_quality", "pulse_rate" [1/min].
        seconds: of a window.
        good: the threshold of quality.
        spans: of time [s] without a window.
        times: [s] of the rows that have scores.
        scores: [s, c] components of embeddings; None if there are none.

    Returns:
        A matplotlib figure.
    """
    heights = [1, 1] if scores is None else [1, 1, 1.1]
    figure = new_figure(11, 1.9 * sum(heights) + 0.5, "Pages of embeddings need", "embed")
    figure.suptitle(name, parse_math=False, fontsize=11)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    ends = columns["time"][[0, -1]] + [0, seconds]
    unit, name_of_unit = (3600, "h") if ends[1] > 3 * 3600 else (60, "min") if ends[1] > 180 else (1, "s")
    middle = (columns["time"] + seconds / 2) / unit
    quality, rate = columns["ppg_quality"].astype(float), columns["pulse_rate"].astype(float)
    reached = quality >= good
    dots = {"ls": "", "marker": "o", "ms": 4 if len(middle) < 400 else 2, "mew": 0, "rasterized": True}
    axes[0].plot(middle[reached], quality[reached], color=_BLUE, label=f"at least {good:g}", **dots)
    axes[0].plot(middle[~reached], quality[~reached], color=_ORANGE, label="below", **dots)
    axes[0].axhline(good, color="#333333", lw=0.8, ls="--")
    axes[0].set_ylabel("quality of the PPG")
    axes[0].set_ylim(np.nanmin(quality, initial=0.4) - 0.04, 1.04)
    axes[0].legend(frameon=False, fontsize=9, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98))
    axes[1].plot(middle[reached], rate[reached], color=_BLUE, **dots)
    axes[1].plot(middle[~reached], rate[~reached], color=_ORANGE, **dots)
    axes[1].set_ylabel("pulse rate [1/min]")
    if scores is not None:
        _heat_map(figure, axes[2], times / unit, scores, seconds / unit)
    for axis in axes:
        for number, (begin, end) in enumerate(spans):
            box = {"facecolor": "#eeeeee", "edgecolor": "#999999", "hatch": "///", "lw": 0, "zorder": 0}
            axis.axvspan(begin / unit, end / unit, **box, label="no window" if number == 0 else None)
        axis.set_xlim(min([ends[0], *(begin for begin, _ in spans)]) / unit, ends[1] / unit)
    axes[-1].set_xlabel(f"time from the start of the recording [{name_of_unit}]")
    figure.align_ylabels(axes)
    return figure


def _heat_map(figure, axis, starts: np.ndarray, scores: np.ndarray, width: float) -> None:
    """A column of `scores` [n, c] for each start [n]; where windows do not follow each other it stays empty."""
    step = max(width, float(np.median(np.diff(starts)))) if len(starts) > 1 else width
    edges, columns = [starts[0]], []
    for start, row in zip(starts.tolist(), scores, strict=True):
        if start > edges[-1] + 0.5 * step:  # a gap before it
            edges.append(start)
            columns.append(np.full(scores.shape[1], np.nan))
        end = max(start + step, edges[-1] + 1e-9)
        edges.append(end)
        columns.append(row)
    for i in range(1, len(edges) - 1):  # windows that overlap: each ends where the next one begins
        edges[i] = min(edges[i], edges[i + 1])
    values = np.stack(columns, 1)
    rows = np.arange(scores.shape[1] + 1) + 0.5
    shown = axis.pcolormesh(np.array(edges), rows, values, cmap="RdBu_r", vmin=-3, vmax=3, rasterized=True)
    axis.set_yticks(np.arange(scores.shape[1]) + 1)
    axis.invert_yaxis()
    axis.set_ylabel("component")
    figure.colorbar(shown, ax=axis, label="SD", pad=0.01, aspect=12)


def draw_map(scores: np.ndarray, share: np.ndarray, colours: dict[str, np.ndarray]):
    """Draw embeddings as points, once for each quantity that colours them.

    Args:
        scores: [n, 1 or 2], components in standard deviations.
        share: of the variance, by component.
        colours: [n] by name.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(5.2 * len(colours) + 0.6, 4.4, "Pages of embeddings need", "embed")
    panels = figure.subplots(1, len(colours), squeeze=False)[0]
    second = scores[:, 1] if scores.shape[1] > 1 else np.zeros(len(scores))
    for axis, (name, values) in zip(panels, colours.items(), strict=True):
        values = np.asarray(values, float)
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, [2, 98]) if len(finite) else (0, 1)
        size = 16 if len(scores) < 2000 else 5
        axis.scatter(scores[:, 0], second, s=size, color="#cccccc", lw=0, rasterized=True)
        known = np.isfinite(values)
        shown = axis.scatter(
            scores[known, 0], second[known], c=values[known], s=size, lw=0, cmap="viridis", vmin=low, vmax=high,
            rasterized=True,
        )  # fmt: skip
        figure.colorbar(shown, ax=axis, label=name, pad=0.01)
        axis.set_xlabel(f"component 1 ({share[0]:.0%} of the variance)")
        axis.set_ylabel(f"component 2 ({share[1]:.0%})" if len(share) > 1 else "")
    return figure
