"""A ShardReport as a page of HTML."""

from __future__ import annotations

import os

from xmae_fast._optional import need
from xmae_fast.data.index.segment_index import Paths
from xmae_fast.data.inspection.inspect import QualitySummary, ShardReport
from xmae_fast.data.inspection.picture import examples_figure
from xmae_fast.data.inspection.report import size_text, thresholds, totals
from xmae_fast.reports import (
    Block,
    Bullets,
    Cell,
    Heading,
    Page,
    Table,
    counts_from_0_to_1,
    figure_picture,
    first_few,
    limited,
    run_facts,
    table_of_reasons,
    write_page,
)

_SHOWN = 1000  # shards


def need_packages() -> None:
    """Raise ImportError if what pages need is missing; called before the work."""
    need("matplotlib", "Pictures of segments need", "eval")
    need("jinja2", "Reports need", "eval")


def write_inspection_page(report: ShardReport, file: str | os.PathLike, paths: Paths, **options) -> None:
    """Write a page on shards, with pictures of examples.

    Args:
        report: what `inspect_shards` has found.
        file: the page, which appears whole or not at all.
        paths: the shards.
        options: quality, layout and cache_dir, as for `inspect_shards`.

    Raises:
        ImportError: matplotlib or Jinja2 is not installed.
        FileExistsError: `file` is there and is not a page of this package.
    """
    write_page(file, page_of(report, _examples(report, paths, options)))


def page_of(report: ShardReport, examples: list[Block]) -> Page:
    """The page on shards; `examples` show some of their segments."""
    shards, folder = _names(report)
    listed = first_few(shards)
    run = run_facts("inspect_shards(...)")
    return Page(
        title=f"What {len(shards):,} shard{'' if len(shards) == 1 else 's'} of {folder} hold"
        + ("s" if len(shards) == 1 else ""),
        about=f"{totals(report)}.",
        facts={"command": run["command"], "data": listed, **run},
        summary=_summary(report),
        blocks=[
            Heading(2, "Examples"), *examples,
            Heading(2, "Quality"), _qualities(report),
            Heading(2, "Shards"), _shards(report, shards),
        ],
        left_out=_left_out(report),
    )  # fmt: skip


def _summary(report: ShardReport) -> list[Block]:
    share = report.used / (report.segments or 1)
    found = [
        f"A loader with quality {thresholds(report)} takes {report.used:,} of {report.segments:,} segments"
        f" ({share:.1%}), of {report.used_subjects:,} subjects."
    ]
    if report.refused:
        found.append(f"A loader of all these shards together would raise an error: {report.refused}.")
    if report.broken:
        found.append(f"{len(report.broken):,} shard(s) cannot be read; they are named below.")
    if bad := sum(report.problems.values()):
        found.append(f"{bad:,} segments cannot be used whatever their quality.")
    through = sum(not shard.mapped for shard in report.shards)
    if through:
        found.append(f"{through:,} shard(s) are read through h5py, which is slower than a memory map.")
    return [Bullets(found)]


def _examples(report: ShardReport, paths: Paths, options: dict) -> list[Block]:
    if not report.segments:
        return ["There is no segment to show."]
    try:
        figure = examples_figure(paths, **options)
    except ValueError as error:  # no segment can be drawn
        return [f"No examples: {error}."]
    caption = (
        "Segments that a loader takes, ECG above PPG, as they are stored; below them, with the reason, up to three that"
        " no loader takes"
    )
    return [figure_picture(figure, "examples.png", caption)]


def _qualities(report: ShardReport) -> Table:
    found = {"PPG": report.ppg_quality, "ECG": report.ecg_quality}
    signals: dict[str, QualitySummary] = {name: signal for name, signal in found.items() if signal is not None}
    rows = counts_from_0_to_1([signal.counts for signal in signals.values()])
    lines = [("threshold", [f"{signal.threshold:g}" for signal in signals.values()])]
    for label, field in (
        ("at or above", "reached"), ("below", "below"), ("outside 0 to 1", "outside"), ("unknown", "unknown")
    ):  # fmt: skip
        lines.append((label, [f"{getattr(signal, field):,}" for signal in signals.values()]))
    header = ["quality", *(f"segments by {name}" for name in signals)]
    return Table(header, rows, "Quality of the signals", foot=[[label, *values] for label, values in lines])


def _shards(report: ShardReport, names: list[str]) -> Table:
    header = ["shard", "layout", "signals", "segments", "samples", "Hz", "dtype", "size", "read"]
    rows = []
    for name, shard in zip(names, report.shards, strict=True):
        how = "mapped" if shard.mapped else f"through h5py ({shard.why_not})"
        rate = f"{shard.sampling_freq:g}" if shard.sampling_freq else "unknown"
        rows.append([
            name, shard.layout, "PPG" if shard.signals == "ppg" else "PPG, ECG", f"{shard.segments:,}",
            f"{shard.samples:,}", rate, shard.dtype, Cell(size_text(shard.size), sort=float(shard.size)), how,
        ])  # fmt: skip
    shown, more = limited(rows, _SHOWN, "the file of --json")
    return Table(header, shown, "Shards that can be read", more=more)


def _left_out(report: ShardReport) -> list[Block]:
    found: list[Block] = []
    # An unreadable shard has no segments.
    if counts := {reason: count for reason, count in report.rejected.items() if reason != "unreadable shard"}:
        caption = "Segments that a loader does not take"
        found.append(table_of_reasons(counts, report.segments or 1, "segments", caption))
    if report.broken:
        named = ((path, os.path.basename(path), str(reason)) for path, reason in report.broken.items())
        broken = [[name, reason.replace(path, name)] for path, name, reason in named]  # pages are shown to others
        found.append(Table(["shard", "why"], broken, "Shards that cannot be read"))
    if report.problem_records:
        records = [[one.reason, one.record, os.path.basename(one.shard)] for one in report.problem_records]
        rest = sum(report.problems.values()) - len(records)
        more = f"And {rest:,} more." if rest else ""
        found.append(Table(["reason", "record", "shard"], records, "Unusable whatever the quality", more=more))
    return found


def _names(report: ShardReport) -> tuple[list[str], str]:
    """The paths of the shards from their common folder, and the name of that folder."""
    paths = [os.path.abspath(shard.path) for shard in report.shards]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [os.path.relpath(path, folder) for path in paths], os.path.basename(folder) or "/"
