"""The picture: speed relative to the plain path, a panel per contest."""

from __future__ import annotations

import os
import textwrap

from benchmarks.harness.contest import BASELINE, INFO, OURS, PLAIN, Result
from benchmarks.harness.machine import Machine
from benchmarks.harness.timing import Spread
from xmae_fast._files import atomic_path
from xmae_fast._optional import new_figure

BEHIND = "#d55e00"  # where another implementation is faster
COLOURS = {PLAIN: "#6b7280", BASELINE: "#b6bcc6", OURS: "#0f8a5f"}
PANELS = 3  # side by side


def draw(path: str | os.PathLike[str], machine: Machine, results: list[Result]) -> None:
    """Bars of `results` (those with a plain path), the machine line below. The file appears complete or not at all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    results = [result for result in results if result.plain]
    lines = max((len(results) + PANELS - 1) // PANELS, 1)
    size = (6 * PANELS, 2.7 * lines + 1.0)
    figure, axes = plt.subplots(lines, PANELS, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(results) :]:
        axis.set_visible(False)
    for axis, result in zip(axes.flat, results, strict=False):
        _panel(axis, result)
    figure.suptitle("Speed relative to the plain path (higher is faster)", fontsize=15)
    figure.supxlabel("\n".join(textwrap.wrap(machine.line(), 180)), fontsize=9, color="#444444")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, format=os.path.splitext(path)[1].lstrip(".") or "png")
    plt.close(figure)


def draw_ratios(ratios: list[tuple[str, Spread]]):
    """Draw a bar for each group, on a logarithmic axis.

    Args:
        ratios: the title of a group, and how many times as fast as the best of the others ours is.

    Returns:
        A matplotlib figure.
    """
    figure = new_figure(10, 0.9 + 0.27 * len(ratios), "Pages of benchmarks need", "bench")
    axis = figure.add_subplot()
    medians = [ratio.median for _, ratio in ratios]
    whiskers = [[s.median - s.low for _, s in ratios], [s.high - s.median for _, s in ratios]]
    colours = [COLOURS[OURS] if median >= 1 else BEHIND for median in medians]
    places = range(len(ratios))
    axis.barh(places, [median - 1 for median in medians], left=1, color=colours, height=0.7)
    axis.errorbar(medians, places, xerr=whiskers, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    for place, (_, ratio) in enumerate(ratios):
        axis.annotate(
            f"{ratio.median:.2f}x", (max(ratio.high, 1), place), (5, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    axis.axvline(1, color="#333333", linewidth=0.8)
    axis.set_xscale("log")
    low, high = min(0.8, 0.8 * min(s.low for _, s in ratios)), 1.6 * max(1.25, *(s.high for _, s in ratios))
    axis.set_xlim(low, high)
    steps = [step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= step <= high]
    axis.set_xticks(steps, [f"{step:g}" for step in steps])
    axis.set_xticks([], minor=True)
    axis.set_yticks(places, ["\n".join(textwrap.wrap(title, 60)) for title, _ in ratios], fontsize=8, parse_math=False)
    axis.set_ylim(len(ratios) - 0.4, -0.6)
    axis.set_xlabel("times as fast as the best of the others", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="x", labelsize=8)
    return figure


def _panel(axis, result: Result) -> None:
    rows = [row for row in result.rows if row.seconds and row.role != INFO]
    speeds = [result.speed(row, result.plain) for row in rows]
    medians = [speed.median for speed in speeds]
    whiskers = [[s.median - s.low for s in speeds], [s.high - s.median for s in speeds]]
    axis.barh(range(len(rows)), medians, color=[COLOURS[row.role] for row in rows], height=0.72)
    axis.errorbar(medians, range(len(rows)), xerr=whiskers, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    for i, speed in enumerate(speeds):
        label = f"{speed.median:.0f}x" if speed.median >= 100 else f"{speed.median:.2f}x"
        axis.annotate(label, (speed.high, i), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axis.axvline(1, color="#333333", linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * max(speed.high for speed in speeds))
    axis.set_title(result.group.heading, fontsize=11, loc="left", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis="x", labelsize=8)
