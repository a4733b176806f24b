"""A folder of embeddings as a page of HTML: quality and embeddings along time, what was left out, what looks wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from xmae_fast._optional import need
from xmae_fast.embedding import checks
from xmae_fast.embedding.page_pictures import LEAST, Components, components_of, draw_map, draw_recording
from xmae_fast.embedding.page_rows import SAMPLE, Course, Rows, courses_of, read_recordings, read_rows, row_ranges
from xmae_fast.embedding.store import TABLE, Store
from xmae_fast.recordings.saying import without_path
from xmae_fast.reports import (
    Block,
    Bullets,
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

GOOD = 0.9  # the quality of pretraining
BINS = 10
_DRAWN = 6  # recordings that have a picture
_ROWS = 1000  # of a table
_SAID = 8  # things that look wrong in the summary


def need_packages() -> None:
    """Raise ImportError if what pages need is missing; called before the work."""
    need("matplotlib", "Pages of embeddings need", "embed")
    need("jinja2", "Reports need", "embed")


def write_embedding_page(
    folder: str | os.PathLike[str], file: str | os.PathLike[str], *, model: str = "", command: str = ""
) -> None:
    """Write a page on finished embeddings.

    Args:
        folder: what `embed_files` has filled.
        file: the page, which appears whole or not at all.
        model: the name of the model, for the head of the page.
        command: what has made the embeddings, where a caller in Python writes the page.

    Raises:
        FileNotFoundError: there are no embeddings in `folder`.
        ValueError: parts of them are still missing.
        FileExistsError: `file` is there and is not a page of this package.
        ImportError: matplotlib or Jinja2 is not installed.
    """
    need_packages()
    store = Store(folder)
    plan = store.read_plan()
    table = read_recordings(store) if "windows" in plan else []
    write_page(file, _page(plan, table, read_rows(store), model, command))


def _page(plan: dict[str, Any], table: list[dict[str, str]], rows: Rows, model: str, command: str) -> Page:
    run = run_facts(command or "write_embedding_page(...)")
    names = [one["name"] for one in plan["inputs"]]
    listed = first_few(names)
    seconds = plan.get("preprocessing", {}).get("segment_s")
    length = f" of {seconds:g} s" if seconds else ""
    kind = "windows" if "windows" in plan else "segments"
    courses = courses_of(plan, table, rows)
    components = components_of(rows.embeddings, rows.columns["ppg_quality"][rows.sampled] >= GOOD)
    return Page(
        title=f"Embeddings of {listed}",
        about=f"{plan['rows']:,} {kind}{length} of {rows.subjects:,} subject(s), output {plan['output']},"
        f" {' x '.join(map(str, plan['shape']))} numbers each, {plan['dtype']}.",
        facts={
            "command": run["command"], "model": ", ".join(filter(None, [model, plan["model"][:19]])), "data": listed,
            **run,
        },
        summary=_summary(plan, table, rows, kind),
        blocks=[
            *_along_time(rows, courses, components, seconds),
            *_map(rows, components),
            Heading(2, "Quality of the PPG"), _quality(rows, kind),
            *_about_recordings(table, rows),
        ],
        left_out=_left_out(plan, table, rows, courses, kind),
        how=_how(plan),
    )  # fmt: skip


def _summary(plan: dict[str, Any], table: list[dict[str, str]], rows: Rows, kind: str) -> list[Block]:
    quality, n = rows.columns["ppg_quality"], len(rows.unusable)
    good, known = int((quality >= GOOD).sum()), int((~np.isnan(quality)).sum())
    found = [
        f"{good:,} of {n:,} {kind} ({good / n:.0%}) reach the quality {GOOD} that the model was pretrained on"
        + (f"; the median is {np.nanmedian(quality):.2f}." if known else ".")
        + (
            ""
            if good == n
            else f" The others are embedded too: where it matters, take those with ppg_quality >= {GOOD}."
        )
    ]
    if "pulse_rate" in rows.columns and np.isfinite(rows.columns["pulse_rate"]).any():
        low, middle, high = np.nanpercentile(rows.columns["pulse_rate"], [5, 50, 95])
        found.append(f"Pulse rate: median {middle:.0f} per minute, 5 to 95 % of {kind} from {low:.0f} to {high:.0f}.")
    if out := sum(plan["rejected"].values()) + int(rows.unusable.sum()):
        found.append(f"{out:,} {kind} have no embedding; the reasons are below.")
    if failed := sum(bool(one["error"]) for one in table):
        found.append(f"{failed:,} of {len(table):,} recordings could not be embedded at all; the reasons are below.")
    said = [(one["recording"], text) for one in table for text in one["findings"].split(" | ") if text]
    lines = checks.grouped(said)
    found += [f"What looks wrong: {line}" for line in lines[:_SAID]]
    if len(lines) > _SAID:
        found.append(f"{len(lines) - _SAID:,} more things that look wrong stand beside the recordings.")
    return [Bullets(found)]


def _along_time(rows: Rows, courses: list[Course], components: Components | None, seconds: float) -> list[Block]:
    if not courses:
        return []
    blocks: list[Block] = [Heading(2, "Along time")]
    drawn = courses
    if len(courses) > _DRAWN:
        blocks.append(f"The {_DRAWN} longest of {len(courses):,} recordings.")
        longest = sorted(courses, key=lambda one: one.first - one.end)[:_DRAWN]
        drawn = sorted(longest, key=lambda one: one.first)
    for one in drawn:
        those = (rows.sampled >= one.first) & (rows.sampled < one.end)
        scores = None if components is None or not those.any() else components.of(rows.embeddings[those])
        figure = draw_recording(
            one.name, {key: values[one.first : one.end] for key, values in rows.columns.items()}, seconds, GOOD,
            one.spans, rows.columns["time"][rows.sampled[those]], scores,
        )  # fmt: skip
        caption = (
            f"{one.name}: quality of the PPG (threshold {GOOD}), pulse rate, and the first principal components of the"
            " embeddings, each in its standard deviations. Hatched: no window, because samples are missing."
        )
        blocks.append(figure_picture(figure, "recording.png", caption))
    return blocks


def _map(rows: Rows, components: Components | None) -> list[Block]:
    if components is None:
        return []
    colours = {"quality of the PPG": rows.columns["ppg_quality"][rows.sampled]}
    if "pulse_rate" in rows.columns:
        colours = {"pulse rate [1/min]": rows.columns["pulse_rate"][rows.sampled]} | colours
    figure = draw_map(components.of(rows.embeddings)[:, :2], components.share, colours)
    caption = (
        "Each point is an embedding, at its first two principal components. Neighbours are alike for the model; a"
        " gradient of colour says that the embeddings tell about that quantity."
    )
    return [Heading(2, "Map of the embeddings"), figure_picture(figure, "map.png", caption)]


def _quality(rows: Rows, kind: str) -> Table:
    quality = rows.columns["ppg_quality"]
    counts = np.histogram(quality[~np.isnan(quality)], [i / BINS for i in range(BINS + 1)])[0].tolist()
    foot = [["unknown (fewer than four pulses)", f"{int(np.isnan(quality).sum()):,}"]]
    return Table(["quality", kind], counts_from_0_to_1([counts]), foot=foot)


def _about_recordings(table: list[dict[str, str]], rows: Rows) -> list[Block]:
    if not table:
        return []
    lines = []
    for one, (first, end) in zip(table, row_ranges(table), strict=True):
        if one["error"]:
            continue
        quality = rows.columns["ppg_quality"][first:end]
        median = f"{np.nanmedian(quality):.2f}" if np.isfinite(quality).any() else ""
        good = f"{(quality >= GOOD).mean():.0%}" if len(quality) else ""
        lines.append([
            one["recording"], one["windows"], median, good, one["fs"], one["start"], one["channel"], one["format"],
            one["polarity"], one["findings"].replace(" | ", "; "), one["notes"].replace(" | ", "; "),
        ])  # fmt: skip
    shown, more = limited(lines, _ROWS, TABLE)
    header = ["recording", "windows", "median quality", f"at least {GOOD}", "Hz", "start", "channel", "format",
              "polarity", "what looks wrong", "how it was understood"]  # fmt: skip
    return [Heading(2, "Recordings"), Table(header, shown, more=more)]


def _left_out(plan, table, rows: Rows, courses: list[Course], kind: str) -> list[Block]:
    counts = dict(plan["rejected"])
    if unusable := int(rows.unusable.sum()):
        counts["constant or unreadable: its row is NaN"] = unusable
    total = plan["rows"] + sum(plan["rejected"].values())
    found: list[Block] = []
    if counts:
        found.append(table_of_reasons(counts, total, kind, f"{kind.capitalize()} without an embedding"))
    lines = [
        [one.name, f"{begin:,.1f}", f"{end:,.1f}", f"{end - begin:,.1f}"] for one in courses for begin, end in one.spans
    ]
    if lines:
        shown, more = limited(lines, _ROWS, "the column time of the embeddings")
        found.append(
            Table(["recording", "from [s]", "to [s]", "length [s]"], shown, "Where there is no window", more=more)
        )
    listed = [[one["recording"], one["left_out"]] for one in table if one["left_out"]]
    if len(table) > 1 and listed:
        shown, more = limited(listed, _ROWS, TABLE)
        found.append(Table(["recording", "left out"], shown, "By recording", more=more))
    failed = [[one["recording"], without_path(one["recording"], one["error"])] for one in table if one["error"]]
    if failed:
        shown, more = limited(failed, _ROWS, TABLE)
        found.append(Table(["recording", "why"], shown, "Recordings that could not be embedded", more=more))
    if plan.get("windows", {}).get("tail") == "drop":
        found.append("An end of a recording that fills no window is left out too, and not counted (--tail drop).")
    return found


def _how(plan: dict[str, Any]) -> Sequence[Block]:
    steps = plan.get("preprocessing", {}).get("steps", [])
    prepared = "; ".join(steps)
    return [
        *([f"Each window was prepared so: {prepared}."] if prepared else []),
        f"Principal components are those of the embeddings of quality {GOOD} and more (of all, where these are fewer"
        f" than {LEAST}), of at most {SAMPLE:,} rows spread evenly. They show structure; they are no result by"
        " themselves.",
    ]
