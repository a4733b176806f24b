"""Draw the chart of docs/performance.md from a results file: `python -m benchmarks.chart`.

The file is what `benchmarks/run.py` printed. A panel for each contest shows how much faster than the published way
xmae_fast and the best of each kind of baseline were, in one class of precision and in one run.
"""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from pathlib import Path

from xmae_fast._files import atomic_path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu_model_train.txt"
CHART = ROOT / "docs" / "performance.svg"
# Name, ms, spread, other columns, x plain, x best, error, and where it was measured the memory.
ROW = re.compile(
    r"^(?P<name>\S.*?)(?: \*)? {2,}[\d.,]+ +\d+ .* (?P<speed>[\d.]+) +[\d.]+ +(?:[\d.]+e[-+]\d+|exact)(?: +[\d,]+)? *$"
)
PANELS = {  # titles, and the headings of the contests
    "embedding, B = 64, float32": r"embed: B=64, float32 \(",
    "embedding, B = 64, bfloat16": r"embed, bfloat16: B=64 \(",
    "training step, B = 64, float32": r"train: B=64, float32 \(",
    "training step, B = 64, bfloat16": r"train, bfloat16: B=64 \(",
    "embedding, B = 1, warm, float32": r"embed: B=1, float32 \(",
    "embedding, B = 1, after other work, float32": r"embed: B=1, after other work, float32 *$",
}
OURS, PUBLISHED = "xmae_fast", "the published way"
COLOURS = {OURS: "#0f8a5f", PUBLISHED: "#6b7280"}


def kind_of(name: str) -> str | None:
    """The kind of a contestant; None for what is neither ours as it comes nor one of the baselines."""
    if name.startswith("xmae_fast impl=auto"):
        return OURS
    if "torch.compile" in name:
        return "best torch.compile"
    for beginning, kind in {
        "published": PUBLISHED, "stock": "best uncompiled PyTorch", "ONNX Runtime": "best of ONNX Runtime",
        "OpenVINO": "best of OpenVINO",
    }.items():  # fmt: skip
        if name.startswith(beginning):
            return kind
    return None


def read_speeds(text: str) -> dict[str, dict[str, float]]:
    """By panel and kind, the highest speed relative to the published way; xmae_fast comes last.

    Raises:
        ValueError: a contest is missing, or has no row of ours or of the published way.
    """
    lines = text.splitlines()
    found: dict[str, dict[str, float]] = {}
    for title, heading in PANELS.items():
        starts = [number for number, line in enumerate(lines) if re.match(heading, line)]
        best: dict[str, float] = {}
        for line in lines[starts[0] + 1 :] if starts else ():
            if not line.strip():
                break
            row = ROW.match(line)
            kind = kind_of(row["name"]) if row else None
            if row and kind and not (kind == PUBLISHED and PUBLISHED in best):  # its first row is what is compared with
                best[kind] = max(best.get(kind, 0.0), float(row["speed"]))
        if OURS not in best or PUBLISHED not in best:
            raise ValueError(f"no contest '{title}' with rows of {OURS} and of the published way in these results")
        best[OURS] = best.pop(OURS)
        found[title] = best
    return found


def label(speed: float) -> str:
    return f"{speed:.2f}x"


def draw(path: str | os.PathLike[str], speeds: dict[str, dict[str, float]], machine: str) -> None:
    """Bars of `speeds`, with the machine below. The file appears complete or not at all."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    # Text stays text, and the same numbers give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "performance", "font.size": 9}):
        figure, axes = plt.subplots(3, 2, figsize=(9, 7.2), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)
        for axis, (title, bars) in zip(axes.flat, speeds.items(), strict=True):
            axis.barh(
                list(bars), list(bars.values()), color=[COLOURS.get(kind, "#b6bcc6") for kind in bars], height=0.7
            )
            for place, speed in enumerate(bars.values()):
                axis.annotate(label(speed), (speed, place), (4, 0), textcoords="offset points", va="center")
            axis.set_title(title, fontsize=10, loc="left", x=-0.3, fontweight="bold")
            axis.set_xlim(0, 1.16 * max(bars.values()))
            axis.axvline(1, color="#333333", linewidth=0.8, linestyle=":")
            axis.invert_yaxis()
            axis.spines[["top", "right"]].set_visible(False)
        figure.suptitle("Speed relative to the published way (longer is faster)", fontsize=12)
        figure.supxlabel("\n".join(textwrap.wrap(machine, 120)), fontsize=8, color="#444444")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="what benchmarks/run.py printed")
    parser.add_argument("--output", type=Path, default=CHART, metavar="FILE.svg")
    chosen = parser.parse_args()
    text = chosen.results.read_text(encoding="utf-8")
    draw(chosen.output, read_speeds(text), text.splitlines()[0].partition(" | load")[0])


if __name__ == "__main__":
    main()
