"""A folder of `prepare` as a page of HTML: what became segments, what did not and why, what looks wrong."""

from __future__ import annotations

import csv
import os
from itertools import islice
from pathlib import Path
from typing import Any

from xmae_fast._files import read_json
from xmae_fast._optional import need
from xmae_fast.preparation.replacing import REPORT
from xmae_fast.preparation.report import RECOMMENDED
from xmae_fast.preparation.telling import grouped
from xmae_fast.recordings.saying import without_path
from xmae_fast.reports import Block, Bullets, Cell, Heading, Page, Table, first_few, limited, run_facts, write_page

RECORDS, REJECTED = "records.csv", "rejected.csv"
_ROWS = 1000  # of a table
_SAID = 8  # things that look wrong in the summary


def need_packages() -> None:
    """Raise ImportError if what pages need is missing; called before the work."""
    need("jinja2", "Reports need", "prepare")


def write_preparation_page(
    folder: str | os.PathLike[str], file: str | os.PathLike[str], *, command: str = "prepare(...)"
) -> None:
    """Write a page on what `prepare` has made.

    Args:
        folder: the output of `prepare`.
        file: the page, which appears whole or not at all.
        command: what has made the folder, where a caller in Python writes the page.

    Raises:
        FileNotFoundError: `folder` is not an output of `prepare`.
        FileExistsError: `file` is there and is not a page of this package.
        ImportError: Jinja2 is not installed.
    """
    need_packages()
    folder = Path(folder)
    report = read_json(folder / REPORT)
    if report is None or not {"segments", "recordings", "rejected", "settings"} <= set(report):
        raise FileNotFoundError(f"folder: expected a folder of prepare, with {REPORT}, got {folder}")
    records = _read(folder / RECORDS)
    total = sum(report["rejected"].values())
    write_page(file, _page(report, records, _read(folder / REJECTED, _ROWS), total, folder.resolve().name, command))


def _read(path: Path, most: int | None = None) -> list[dict[str, str]]:
    """The first rows of a table."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(islice(csv.DictReader(file), most))


def _page(
    report: dict[str, Any], records: list[dict[str, str]], rejected: list[dict[str, str]], total: int, name: str,
    command: str,
) -> Page:  # fmt: skip
    run, settings = run_facts(command), report["settings"]
    names = [one["source"] for one in records]
    listed = first_few(names)
    made = report["recordings"] - len(report["errors"])
    return Page(
        title=f"Shards prepared in {name}",
        about=f"{report['segments']:,} segments of {report['subjects']:,} subject(s) in {len(report['shards']):,}"
        f" shard(s), from {made:,} of {report['recordings']:,} recording(s).",
        facts={"command": run["command"], "data": listed, **run},
        summary=[Bullets(_summary(report, total))],
        blocks=[
            Heading(2, "Recordings"), _recordings(records),
            Heading(2, "Settings"), Table(["setting", "value"], [[k, _value(v)] for k, v in settings.items()]),
            Table(["package", "version"], [list(one) for one in report["versions"].items()]),
        ],
        left_out=_left_out(report, records, rejected, total),
    )  # fmt: skip


def _summary(report: dict[str, Any], total: int) -> list[str]:
    segments, judged = report["segments"], "a PPG" if report["settings"].get("signals") == "ppg" else "both signals"
    share = f" ({report['usable'] / segments:.0%})" if segments else ""
    found = [f"{report['usable']:,} of {segments:,} segments{share} have {judged} of quality {RECOMMENDED} and more."]
    if total:
        found.append(f"{total:,} of {total + segments:,} windows were rejected; the reasons are below.")
    if report["errors"]:
        failed = f"{len(report['errors']):,} of {report['recordings']:,} recordings"
        found.append(f"{failed} could not be prepared; the reasons are below.")
    lines = grouped((name, note) for name, notes in report["notes"].items() for note in notes)
    found += [f"Note: {line}" for line in lines[:_SAID]]
    if len(lines) > _SAID:
        found.append(f"{len(lines) - _SAID:,} more notes stand beside the recordings.")
    return found


def _recordings(records: list[dict[str, str]]) -> Table:
    lines = []
    for one in records:
        if one["error"]:
            continue
        windows, segments = int(one["windows"] or 0), int(one["segments"] or 0)
        share = segments / windows if windows else 0.0
        lines.append([
            one["source"], one["subjects"], one["windows"], Cell(one["segments"], bar=share), one["usable"],
            one["median_ppg_quality"], one["median_ecg_quality"], one["ppg"], one["ppg_fs"], one["ecg"], one["ecg_fs"],
            one["start"], one["format"], one["polarity"], one["notes"],
        ])  # fmt: skip
    header = [
        "recording", "subjects", "windows", "segments", f"usable, at least {RECOMMENDED}", "median PPG quality",
        "median ECG quality", "PPG", "PPG [Hz]", "ECG", "ECG [Hz]", "start", "format", "polarity", "notes",
    ]  # fmt: skip
    shown, more = limited(lines, _ROWS, RECORDS)
    return Table(header, shown, more=more)


def _left_out(report: dict[str, Any], records, rejected: list[dict[str, str]], total: int) -> list[Block]:
    found: list[Block] = []
    if total:
        whole = total + report["segments"]
        lines = [
            [reason, Cell(f"{count:,}", bar=count / whole), f"{count / whole:.1%}"]
            for reason, count in report["rejected"].items()
        ]
        found.append(Table(["reason", "windows", "share of all"], lines, "Windows that became no segments"))
        columns = ("source", "subject", "start_s", "ppg_quality", "ecg_quality", "reason")
        listed = [["" if row[column] == "nan" else row[column] for column in columns] for row in rejected]
        more = f"The first {len(listed):,} of {total:,} rows; all are in {REJECTED}." if len(listed) < total else ""
        header = ["recording", "subject", "start [s]", "PPG quality", "ECG quality", "reason"]
        found.append(Table(header, listed, "Each of these windows", more=more))
    failed = [[one["source"], without_path(one["source"], one["error"])] for one in records if one["error"]]
    if failed:
        shown, more = limited(failed, _ROWS, RECORDS)
        found.append(Table(["recording", "why"], shown, "Recordings that could not be prepared", more=more))
    if report["ignored"]:
        lines = [[suffix, f"{count:,}"] for suffix, count in report["ignored"].items()]
        found.append(Table(["suffix", "files"], lines, "Files in the folders that are no recordings"))
    return found


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
