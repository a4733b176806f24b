"""What several commands of `xmae-fast` share: their common arguments, and the list of the files of a report."""

from __future__ import annotations

from pathlib import Path

MODEL_HELP = "folder of save_pretrained or of a run of pretrain, checkpoint file, or owner/name on the Hugging Face Hub"


def add_layout_arguments(command) -> None:
    """Add the arguments of commands that read shards of any layout."""
    command.add_argument("--columns", metavar="NAMES", help="columns of the published layout (default: time,ppg,ecg)")
    command.add_argument("--cache-dir", metavar="DIR", help="folder for indexes (default: beside the shards)")


def print_report_files(folder: str) -> None:
    """Print the paths of the files of a report, a line each."""
    from xmae_fast.evaluation.pages import HTML, MARKDOWN, RESULTS

    for name in (MARKDOWN, HTML, RESULTS):
        print(Path(folder) / name)


def layout_of(columns: str | None):
    """The Layout that --columns names; None if it was not given."""
    from xmae_fast.data import Layout

    return None if columns is None else Layout(columns=tuple(name.strip() for name in columns.split(",")))


def named_files(given: list[str], argument: str) -> dict[str, str]:
    """Files by name, from texts "name=file"; ValueError, which names the argument, for another text or a name twice."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in found:
            raise ValueError(f"{argument}: expected NAME=FILE, each name once, got {text!r}")
        found[name] = file
    return found
