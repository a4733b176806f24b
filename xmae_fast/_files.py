"""Files of this library: one appears whole or not at all, and only what this library wrote is replaced or removed."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOFTWARE = "xmae_fast"  # stands in the pictures that `write_picture` writes
LOCK = ".lock"
_PNG = b"\x89PNG\r\n\x1a\n"
_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
PathLike = str | os.PathLike
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


def check_replaceable(path: PathLike, is_own: Callable[[Path], bool], what: str, argument: str = "output") -> None:
    """FileExistsError where something stands at `path` of which `is_own` does not say that this library wrote it."""
    path = Path(path)
    if os.path.lexists(path) and not (path.is_file() and is_own(path)):
        raise FileExistsError(f"{argument}: {path} is there and is not {what}, it is left alone: give another name")


def is_json_of(path: PathLike, *keys: str) -> bool:
    """Whether a file holds a JSON object with all these keys."""
    content = read_json(path)
    return content is not None and all(key in content for key in keys)


def read_json(path: PathLike) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none, or something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_picture(path: PathLike) -> bool:
    """Whether a file is a PNG of `write_picture`."""
    with open(path, "rb") as file:
        start = file.read(4096)
    return start.startswith(_PNG) and b"tEXtSoftware\0" + SOFTWARE.encode() in start


def write_picture(figure, path: PathLike, argument: str = "output") -> None:
    """Write a matplotlib figure to a PNG file, whole or not at all.

    Raises:
        FileExistsError: something is there that this function did not write.
    """
    check_replaceable(path, is_picture, "a picture of xmae-fast", argument)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": SOFTWARE})


def check_apart(
    folder: PathLike, folders: Iterable[PathLike], files: Iterable[PathLike] = (), argument: str = "output"
) -> None:
    """ValueError where an output folder is one of the input `folders`, lies in one, or holds one or one of the input
    `files`; links are followed."""
    out = os.path.realpath(folder)
    for given in folders:
        real = os.path.realpath(given)
        if _same(out, real):
            raise ValueError(f"{argument}: expected another folder than the input, got {folder}")
        if _inside(real, out):
            raise ValueError(f"{argument}: expected a folder that holds no input, {folder} holds {given}")
        if _inside(out, real):
            raise ValueError(f"{argument}: expected a folder outside the input {given}, got {folder}")
    for given in dict.fromkeys(os.path.dirname(os.path.realpath(file)) for file in files):
        if _same(out, given) or _inside(given, out):
            raise ValueError(f"{argument}: expected a folder that holds no input, {folder} holds files of {given}")


def check_not_input(path: PathLike, inputs: Iterable[PathLike], argument: str = "output") -> None:
    """ValueError where an output file is one of the inputs, under whatever name."""
    for given in inputs:
        if _same(path, given):
            raise ValueError(f"{argument}: expected another file than the input {given}, got {path}, which is the same")


def remove_own(folder: PathLike, is_own: Callable[[str], bool]) -> None:
    """Remove the files below `folder` whose path in it (with /) `is_own` accepts, and `atomic_path`'s remains of killed
    writers beside where such files stand; then folders that have become empty by that, or are empty and accepted with a
    / at the end. Links are not followed."""
    folder, emptied = Path(folder), set()
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in names + [name for name in folders if os.path.islink(os.path.join(parent, name))]:
            path = Path(parent, name)
            if is_own(path.relative_to(folder).as_posix()) or is_own(_target(path).relative_to(folder).as_posix()):
                path.unlink(missing_ok=True)
                emptied.add(parent)
        own = parent in emptied or is_own(f"{Path(parent).relative_to(folder).as_posix()}/")
        if own and not os.listdir(parent):
            os.rmdir(parent)
            emptied.add(os.path.dirname(parent))


def matching(*patterns: str) -> Callable[[str], bool]:
    """Whether a text is, from beginning to end, of one of the regular expressions."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns)).fullmatch  # type: ignore[return-value]


class Lock:
    """The lock of a folder that a command writes to: one that replaces things has it alone, others may share it.

    The file `.lock` in the folder carries it and goes with the last holder. Where files cannot be locked, or the folder
    is not to be written to, there is no lock."""

    def __init__(self, folder: PathLike, *, shared: bool = False) -> None:
        """BlockingIOError where another process has it. The folder must exist."""
        self.folder, self.path = Path(folder), Path(folder) / LOCK
        self._fd = -1
        try:
            import fcntl
        except ImportError:
            return
        while self._fd < 0:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EROFS):
                    return
                raise
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if self._is_at(fd):  # or its last holder has removed it meanwhile
                    self._fd = fd
            except BlockingIOError:
                message = f"output: another process is writing to {self.folder} (it holds the lock on {self.path})"
                raise BlockingIOError(errno.EWOULDBLOCK, message) from None
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self.path.unlink(missing_ok=True)
                return
            finally:
                if self._fd != fd:
                    os.close(fd)

    def share(self) -> None:
        """From now on others may hold it too."""
        if self._fd >= 0:
            import fcntl

            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def release(self) -> None:
        """Let go of it."""
        if self._fd < 0:
            return
        import fcntl

        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while others share it
            self.path.unlink(missing_ok=True)
        except OSError:
            pass
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_at(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False


def _target(path: Path) -> Path:
    """The file that a temporary one of `atomic_path` is for; the path itself if it is none."""
    found = TEMPORARY.fullmatch(path.name)
    return path.with_name(found["name"]) if found else path


def _same(a: PathLike, b: PathLike) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return os.path.realpath(a) == os.path.realpath(b)


def _inside(path: str, folder: str) -> bool:
    """Whether a real path lies below a real folder; case counts as the file system says."""
    return any(_same(parent, folder) for parent in Path(path).parents)
