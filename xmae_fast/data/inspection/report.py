"""Prints a ShardReport as tables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from xmae_fast._optional import need
from xmae_fast.data.inspection.inspect import BINS, ShardReport
from xmae_fast.data.problems import grouped

if TYPE_CHECKING:
    from rich.console import Console

_Justify = Literal["left", "right"]
_SHARDS = 40  # how many shards are listed
_BAR = 24  # characters of the longest bar
_FOLDED = ("shard", "dtype", "read", "record")  # columns that may take several lines


def import_rich() -> None:
    """Raise ImportError, which says what to install, if rich is missing."""
    need("rich", "Reports on shards need", "eval")


def print_report(report: ShardReport, console: Console | None = None) -> None:
    """Print tables of shards, qualities, selection and problems.

    Args:
        report: what to print.
        console: where to print; by default on standard output.

    Raises:
        ImportError: rich is not installed.
    """
    import_rich()
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    console.print(_shards(report))
    if len(report.shards) > _SHARDS:
        console.print(f"... and {len(report.shards) - _SHARDS} more")
    for reason in grouped(report.broken):
        console.print(Text(f"cannot be read: {reason}", "red"))
    console.print(Text(totals(report)))
    console.print("", _qualities(report), "", _selection(report), sep="\n")
    if report.refused:
        console.print(Text(f"A loader would raise an error: {report.refused}", "red"))
    if report.problems:
        console.print("", _problems(report), sep="\n")


def totals(report: ShardReport) -> str:
    """What the shards hold, in a line."""
    spread = report.segments_per_subject
    return (
        f"{report.segments:,} segments, {size_text(report.size)}, {report.subjects:,} subjects with"
        f" {spread['min']:,} to {spread['max']:,} segments each, median {spread['median']:g}"
    )


def _table(title: str, *columns: tuple[str, _Justify]):
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False, title=title, title_justify="left",
        title_style="bold",
    )  # fmt: skip
    for name, justify in columns:
        folded = name in _FOLDED
        table.add_column(name, justify=justify, overflow="fold", no_wrap=not folded, min_width=8 if folded else None)
    return table


def _shards(report: ShardReport):
    from rich.text import Text

    numbers = "segments", "samples", "Hz", "size"
    names = ["shard", "layout", "segments", "samples", "Hz", "dtype", "size", "read"]
    if alone := any(shard.signals == "ppg" for shard in report.shards):
        names.insert(2, "signals")
    columns: list[tuple[str, _Justify]] = [(name, "right" if name in numbers else "left") for name in names]
    table = _table("Shards", *columns)
    paths = [os.path.abspath(shard.path) for shard in report.shards]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    if len(folder) > 1:
        table.title = Text(f"Shards in {folder}", "bold")
        paths = [os.path.relpath(path, folder) for path in paths]
    for path, shard in list(zip(paths, report.shards, strict=True))[:_SHARDS]:
        counts = f"{shard.segments:,}", f"{shard.samples:,}"
        rate = f"{shard.sampling_freq:g}" if shard.sampling_freq else "unknown"
        how = Text("mapped") if shard.mapped else Text(f"through h5py ({shard.why_not})", "yellow")
        signals = [] if not alone else ["PPG" if shard.signals == "ppg" else "PPG, ECG"]
        table.add_row(Text(path), shard.layout, *signals, *counts, rate, shard.dtype, size_text(shard.size), how)
    return table


def _qualities(report: ShardReport):
    from rich.bar import Bar

    found = {"PPG": report.ppg_quality, "ECG": report.ecg_quality}
    signals = [signal for signal in found.values() if signal is not None]
    columns: list[tuple[str, _Justify]] = [("", "left")]
    for name, signal in found.items():
        if signal is not None:
            columns.extend([(name, "right"), ("", "left")])
    table = _table("Quality", *columns)
    for column in range(2, len(columns), 2):
        table.columns[column].width = _BAR
    longest = max(max(signal.counts) for signal in signals) or 1
    for i in reversed(range(BINS)):
        cells = []
        for signal, colour in zip(signals, ("green", "red"), strict=False):
            shade = colour if (i + 1) / BINS > signal.threshold else "bright_black"
            cells += [f"{signal.counts[i]:,}", Bar(longest, 0, signal.counts[i], width=_BAR, color=shade)]
        table.add_row(f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}", *cells)
    table.add_section()
    table.add_row("threshold", *(cell for signal in signals for cell in (f"{signal.threshold:g}", "")), style="bold")
    for label, field in (("at or above", "reached"), ("below", "below")):
        table.add_row(label, *(cell for signal in signals for cell in (f"{getattr(signal, field):,}", "")))
    for label, field in (("outside 0 to 1", "outside"), ("unknown", "unknown")):
        if any(getattr(signal, field) for signal in signals):
            table.add_row(label, *(cell for signal in signals for cell in (f"{getattr(signal, field):,}", "")))
    return table


def _selection(report: ShardReport):
    what = f"What a loader with quality {thresholds(report)} takes"
    table = _table(what, ("", "left"), ("segments", "right"), ("", "right"))
    whole = report.segments or 1
    used = f"used, of {report.used_subjects:,} subjects"
    table.add_row(used, f"{report.used:,}", f"{report.used / whole:.1%}", style="bold green")
    for reason, count in report.rejected.items():
        if reason != "unreadable shard":  # no segments
            table.add_row(reason, f"{count:,}", f"{count / whole:.1%}")
    return table


def _problems(report: ShardReport):
    from rich.text import Text

    counts = ", ".join(f"{count:,} {reason}" for reason, count in report.problems.items())
    table = _table("", ("reason", "left"), ("record", "left"), ("shard", "left"))
    table.title = Text(f"Unusable whatever the quality: {counts}", "bold")
    for record in report.problem_records:
        table.add_row(record.reason, Text(record.record), Text(os.path.basename(record.shard)))
    more = sum(report.problems.values()) - len(report.problem_records)
    if more:
        table.add_row("", f"... and {more:,} more", "")
    return table


def thresholds(report: ShardReport) -> str:
    """The qualities that segments must reach."""
    ppg = report.ppg_quality.threshold
    ecg = ppg if report.ecg_quality is None else report.ecg_quality.threshold
    return f"{ppg:g}" if ppg == ecg else f"PPG {ppg:g}, ECG {ecg:g}"


def size_text(count: int) -> str:
    """A number of bytes with a unit."""
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
