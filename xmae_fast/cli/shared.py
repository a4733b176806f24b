"""What several commands of `xmae-fast` share: their common arguments, and the list of the files of a report."""

from __future__ import annotations

from pathlib import Path

AGAIN = "the same command makes the whole report again"  # what becomes of the work of an interrupted report
MODEL_HELP = (
    "folder of save_pretrained or of a run of pretrain, checkpoint file, a model of this package such as xmae-sim-base,"
    " or owner/name on the Hugging Face Hub"
)


def add_layout_arguments(command) -> None:
    """Add the arguments of commands that read shards of any layout."""
    command.add_argument("--columns", metavar="NAMES", help="columns of the published layout (default: time,ppg,ecg)")
    command.add_argument("--cache-dir", metavar="DIR", help="folder for indexes (default: beside the shards)")


def add_reading_arguments(command, ecg: bool = True) -> None:
    """Add the arguments that say how recordings are read; `reading_of` takes them.

    Args:
        command: the parser of the command.
        ecg: whether the command reads ECG.
    """
    group = command.add_argument_group("recordings", "what a file does not say, or says wrongly")
    channel = "name, number from 0 or pattern of the channel of the {} (default: found by its name{})"
    group.add_argument("--ppg", metavar="CHANNEL", help=channel.format("PPG", ""))
    if ecg:
        group.add_argument("--ecg", metavar="CHANNEL", help=channel.format("ECG", ", lead II first"))
    group.add_argument("--fs", type=float, metavar="HZ", help="sampling rate; goes before that of the file")
    group.add_argument("--time", metavar="COLUMN", help="column of times of a table, by name or number; none: no such")
    order = group.add_mutually_exclusive_group()
    order.add_argument("--day-first", action="store_true", default=None, help="05/02/2024 is the 5th of February")
    order.add_argument("--month-first", dest="day_first", action="store_false", help="05/02/2024 is the 2nd of May")
    group.add_argument("--skip-rows", type=int, metavar="N", help="lines of a table before its names or numbers")
    group.add_argument("--encoding", metavar="NAME", help="of a table (default: found out)")
    group.add_argument("--decimal", choices=[".", ","], help="decimal mark of a table (default: found out)")


def add_subject_argument(command) -> None:
    """Add the argument that says whose a recording is."""
    command.add_argument(
        "--subject",
        default="name",
        metavar="RULE",
        help="whose a recording is: name (the file says it, or else its path), folder, or a regular expression whose"
        " first group in the path is the subject (default: %(default)s)",
    )


def reading_of(arguments) -> dict:
    """The values of those arguments of `add_reading_arguments` that the command has, as keyword arguments."""
    names = ("ppg", "ecg", "fs", "time", "day_first", "skip_rows", "encoding", "decimal")
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def add_html_argument(command) -> None:
    """Add the argument that asks for a page."""
    command.add_argument("--html", metavar="FILE.html", help="also write a page to look at, which needs no other file")


def check_html(file: str, inputs: list[str], inside: str | None = None) -> None:
    """Refuse a page that could not be written, before the work.

    Args:
        file: the page.
        inputs: files that are read.
        inside: a folder that the work makes, in which the page may lie.
    """
    from xmae_fast._files import check_not_input
    from xmae_fast._optional import need
    from xmae_fast.reports import check_page

    need("jinja2", "Reports need", "eval")
    check_not_input(file, inputs, "html")
    check_page(file, inside)


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
