"""Puts the folder that `prepare` makes in its place. What it wrote before may go; everything else stays."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from xmae_fast._files import matching, read_json, remove_own
from xmae_fast.data.formats.linked import content_probe
from xmae_fast.data.repacking.journal import locked, sync_folder

REPORT = "prepare.json"
_TABLES = (REPORT, "records.csv", "rejected.csv")
_MADE = r"(prepare\.json|records\.csv|rejected\.csv|[^/]+_\d{4,}(\.h5|\.provenance\.npz))"
_PARTIAL = matching(
    r"lock", r"settings\.json", r"parts/[0-9a-f]{32}\.npz", f"output/{_MADE}", r"(parts|output|replaced)/"
)


def describe_files(folder: Path) -> dict[str, list]:
    """The size and a hash of 16 parts of each file in a folder, by name. The report stores them, so that a later call
    knows what it may replace."""
    found = {}
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        found[path.name] = [size, content_probe(str(path), size)]
    return found


def changed_files(folder: Path, report: dict) -> list[str]:
    """The names of the files in a report that have changed since they were written; missing ones are not listed."""
    files = report.get("files", {})
    there = {name: folder / name for name in files if (folder / name).exists()}
    return [name for name, path in there.items() if files[name] != [path.stat().st_size, _probe(path)]]


def missing_files(folder: Path, report: dict) -> list[str]:
    """The names of the files in a report that are missing."""
    return [name for name in own_names(report) if not name.startswith(".") and not (folder / name).exists()]


def own_names(report: dict) -> set[str]:
    """The names of the files that were made together with a report, and of the indexes of its shards."""
    shards = [name for name in report["shards"] if os.path.basename(name) == name]
    made = {name for name in report.get("files", shards) if os.path.basename(name) == name}
    return {*_TABLES, *made, *(f".{name}.index.npz" for name in shards)}


def check_output(target: Path, overwrite: bool) -> None:
    """Raise FileExistsError if `target` is there and must not be replaced."""
    if not overwrite or not os.path.lexists(target):
        return
    if not target.is_dir():
        raise FileExistsError(f"output: {target} is no folder of prepare, it is left alone: give another name")
    report = _report(target)
    if report is None:
        if others := sorted(os.listdir(target)):
            what = f"holds {others[0]!r} and no {REPORT}, so it is no folder of prepare"
            raise FileExistsError(f"output: {target} {what}, it is left alone: give another name")
        return
    if changed := changed_files(target, report):
        what = f"{target / changed[0]} is not what prepare wrote there, it is left alone"
        raise FileExistsError(f"output: {what}: give another name, or move that file")


@contextmanager
def working_folder(partial: Path, target: Path) -> Iterator[None]:
    """Make the folder `partial` if it is missing, and lock it for this process.

    Args:
        partial: where unfinished work is kept.
        target: the folder that it becomes.

    Raises:
        BlockingIOError: another process is writing the same output.
    """
    with ExitStack() as stack:
        while True:
            partial.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # the process that had it has removed it meanwhile
                stack.enter_context(locked(str(partial / "lock"), str(target)))
                break
        bring_back(partial, target)
        yield


def put(folder: Path, target: Path, partial: Path, overwrite: bool) -> None:
    """Make `folder` the folder `target`.

    Args:
        folder: what was made.
        target: the name that it gets.
        partial: where unfinished work is kept.
        overwrite: whether files that prepare has written to `target` before are replaced. Other files stay there.

    Raises:
        FileExistsError: a file is in the way; the work is kept.
    """
    if target.exists() and overwrite:
        check_output(target, overwrite)
        foreign = set(os.listdir(target)) - own_names(_report(target) or {"shards": []})
        if clash := sorted(foreign & set(os.listdir(folder))):
            what = f"{target / clash[0]} is in the way and prepare did not write it"
            raise FileExistsError(f"output: {what}; the work is kept in {folder}")
        os.rename(target, partial / "replaced")
    try:
        os.rename(folder, target)  # replaces an empty folder
    except OSError:
        bring_back(partial, target)
        if target.exists():
            raise FileExistsError(f"output: {target} appeared meanwhile; the work is kept in {folder}") from None
        raise
    bring_back(partial, target)
    sync_folder(str(target))


def bring_back(partial: Path, target: Path) -> None:
    """Bring back what `put` has moved aside: everything if nothing took its place, else the files that prepare did not
    write."""
    old = partial / "replaced"
    if not old.exists():
        return
    if not target.exists():
        os.rename(old, target)
        return
    own = own_names(_report(old) or {"shards": []})
    for name in os.listdir(old):
        if name not in own:
            if os.path.lexists(target / name):
                raise FileExistsError(errno.EEXIST, f"output: {target / name} is in the way of {old / name}")
            os.rename(old / name, target / name)
    remove_own(old, own.__contains__)


def clear(partial: Path) -> None:
    """Remove the files that prepare keeps in `partial`."""
    remove_own(partial, _PARTIAL)


def clear_output(folder: Path) -> None:
    """Make an empty folder; files of an earlier attempt are removed. FileExistsError if it holds other files."""
    if folder.exists():
        remove_own(folder, matching(_MADE))
    folder.mkdir(exist_ok=True)
    if others := os.listdir(folder):
        raise FileExistsError(f"output: {folder / others[0]} is in the way and prepare did not write it")


def clear_parts(folder: Path) -> None:
    """Remove the parts in a folder, which were made with other settings."""
    if folder.exists():
        remove_own(folder, matching(r"[0-9a-f]{32}\.npz"))


def _report(folder: Path) -> dict | None:
    """The content of the report in a folder; None if there is no report of prepare."""
    report = read_json(folder / REPORT)
    if report is None or not {"shards", "identity", "settings"} <= set(report):
        return None
    return report if isinstance(report["shards"], list) else None


def _probe(path: Path) -> str:
    return content_probe(str(path), path.stat().st_size)
