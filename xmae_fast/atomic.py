"""A file is there whole or not at all."""

import glob
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp")  # names of unfinished files


def remains(path: str | os.PathLike) -> list[Path]:
    """Unfinished files of killed writers of `path`, or of writers that are still at work."""
    path = Path(path)
    found = path.parent.glob(f".{glob.escape(path.name)}.*.tmp") if path.parent.is_dir() else ()
    return [file for file in found if (match := TEMPORARY.fullmatch(file.name)) and match["name"] == path.name]


@contextmanager
def atomic_path(path: str | os.PathLike, *, replace: bool = True) -> Iterator[Path]:
    """A temporary name in the folder of `path` to write to; on success it is synced and takes the name `path`, on any
    error it is removed and `path` stays as it was. FileNotFoundError if the folder does not exist; FileExistsError if
    `path` is there by then and not to be replaced."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: expected a file in an existing folder, got {path}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if replace:
            os.replace(temporary, path)
        else:
            _take_name(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _take_name(temporary: Path, path: Path) -> None:
    """Rename without replacing."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(f"path: {path} is there already") from None
        os.replace(temporary, path)
    else:
        temporary.unlink()
