"""Recognises the work of an earlier call of `prepare`: what it has finished, and what it has begun."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from xmae_fast._files import atomic_path
from xmae_fast.preparation import replacing
from xmae_fast.preparation.again import to_try_again
from xmae_fast.preparation.replacing import REPORT
from xmae_fast.preparation.report import PrepareReport
from xmae_fast.recordings.saying import printable
from xmae_fast.recordings.sources import Source, fingerprint


def finished(target: Path, how: dict, versions: dict, sources: list[Source], overwrite: bool) -> PrepareReport | None:
    """The report of an earlier call with the same arguments; None if there is none, or if it is to be replaced: with
    `overwrite`, or because an earlier call with other arguments has made no segment.

    Raises:
        FileExistsError: the folder holds something else, or files were changed or removed since they were made.
    """
    if overwrite or not target.exists():
        return None
    try:
        stored = json.loads((target / REPORT).read_text(encoding="utf-8"))
        same = stored["settings"] == how and stored["versions"] == versions
        again = to_try_again(stored["errors"])
        if same and stored["identity"] == work_identity(how, versions, sources, again):
            if gone := replacing.missing_files(target, stored):
                what = f"{target / gone[0]} is gone since it was made (overwrite=True makes the folder again)"
                raise FileExistsError(f"output: {what}")
            if changed := replacing.changed_files(target, stored):
                raise FileExistsError(f"output: {target / changed[0]} was changed since it was made")
            kept: dict[str, Any] = {k: v for k, v in stored.items() if k not in ("identity", "files")}
            kept["output"] = str(target)
            return PrepareReport(**kept)
        if not stored["segments"] and isinstance(stored["identity"], str):
            replacing.check_output(target, True)
            return None
    except FileExistsError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        if target.is_dir() and not any(target.iterdir()):
            return None
    what = "exists already and is not what this call makes (overwrite=True replaces it)"
    raise FileExistsError(f"output: {target} {what}")


def same_work(partial: Path, work: dict, overwrite: bool) -> None:
    """Check that unfinished work was begun with the same settings; with `overwrite` other work is removed.

    Raises:
        ValueError: it was begun with other settings.
    """
    path = partial / "settings.json"
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        begun = None
    if begun == work:
        return
    if begun is not None and not overwrite:
        differ = [k for part in work for k in work[part] if begun.get(part, {}).get(k) != work[part][k]]
        which = ", ".join(differ) or "fewer of them"
        raise ValueError(
            f"output: {partial} holds unfinished work with other settings ({which}): give those again, or"
            " overwrite=True to begin again"
        )
    replacing.clear_parts(partial / "parts")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(work), encoding="utf-8")


def work_identity(how: dict, versions: dict, sources: list[Source], changing: Collection[str] = ()) -> str:
    """A hash of everything that decides what is made of recordings. The files of those with the names `changing` may
    change: they are to be tried again."""
    marks = [(source.name, "" if printable(source.name) in changing else _mark(source)) for source in sources]
    return hashlib.sha256(json.dumps([how, versions, marks], sort_keys=True).encode()).hexdigest()


def _mark(source: Source) -> str:
    """The `fingerprint` of a recording, or what tells that its files cannot be read."""
    try:
        return fingerprint(source)
    except OSError as error:
        return f"unreadable ({error.errno})"
