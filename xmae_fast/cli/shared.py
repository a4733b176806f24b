"""What several commands of `xmae-fast` share: arguments of one form, and the files of a report."""

from __future__ import annotations

from pathlib import Path

MODEL_HELP = "folder of save_pretrained, run of pretrain, checkpoint file, or owner/name on the Hugging Face Hub"


def add_layout_arguments(command) -> None:
    """Arguments of commands that read shards of any layout."""
    command.add_argument("--columns", metavar="NAMES", help="of the published layout (default: time,ppg,ecg)")
    command.add_argument("--cache-dir", metavar="DIR", help="for indexes (default: beside the shards)")


def print_report_files(folder: str) -> None:
    """The files that a report consists of, a line each."""
    from xmae_fast.evaluation.pages import HTML, MARKDOWN, RESULTS

    for name in (MARKDOWN, HTML, RESULTS):
        print(Path(folder) / name)


def layout_of(columns: str | None):
    """The Layout that --columns names; None where it was not given."""
    from xmae_fast.data import Layout

    return None if columns is None else Layout(columns=tuple(name.strip() for name in columns.split(",")))


def named_files(given: list[str], argument: str) -> dict[str, str]:
    """["name=file", ...] -> {name: file}."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in found:
            raise ValueError(f"{argument}: expected NAME=FILE, each name once, got {text!r}")
        found[name] = file
    return found
