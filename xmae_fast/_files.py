"""Files that this library writes: they appear whole or not at all, and no others are replaced or removed."""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOFTWARE = "xmae_fast"  # is stored in the pictures that `write_picture` writes
LOCK = ".lock"  # the file in a folder that carries the folder's lock
_log = logging.getLogger("xmae_fast.files")
_PNG = b"\x89PNG\r\n\x1a\n"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
PathLike = str | os.PathLike
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp")  # the names of unfinished files


def remains(path: str | os.PathLike) -> list[Path]:
    """The unfinished files of writers of `path` that were killed, or that are still at work."""
    path = Path(path)
    found = path.parent.glob(f".{glob.escape(path.name)}.*.tmp") if path.parent.is_dir() else ()
    return [file for file in found if (match := TEMPORARY.fullmatch(file.name)) and match["name"] == path.name]


@contextmanager
def atomic_path(path: str | os.PathLike, *, replace: bool = True) -> Iterator[Path]:
    """Write a file that appears whole or not at all.

    On success the file is written to the disk and gets the name `path`. On any error it is removed, and `path` stays as
    it was.

    Args:
        path: the name of the file.
        replace: whether a file that has this name is replaced.

    Yields:
        A temporary name in the same folder, to which the file is to be written.

    Raises:
        FileNotFoundError: the folder does not exist.
        FileExistsError: `path` is there when the file is complete, and `replace` is False.
    """
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
    _log.debug("wrote %s", path)


def _take_name(temporary: Path, path: Path) -> None:
    """Rename a file; FileExistsError if `path` is there."""
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
    """Check that `path` is free, or a file that this library has written.

    Args:
        path: the file that is to be written.
        is_own: says of a file whether this library has written it.
        what: a file of this kind, for the message.
        argument: the name of the argument that `path` comes from, for the message.

    Raises:
        FileExistsError: something else is there.
    """
    path = Path(path)
    if os.path.lexists(path) and not (path.is_file() and is_own(path)):
        raise FileExistsError(f"{argument}: {path} is there and is not {what}, it is left alone: give another name")


def is_json_of(path: PathLike, *keys: str) -> bool:
    """Whether a file holds a JSON object with all these keys."""
    content = read_json(path)
    return content is not None and all(key in content for key in keys)


def read_json(path: PathLike) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file, or if it holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_picture(path: PathLike) -> bool:
    """Whether a file is a picture that `write_picture` has written."""
    with open(path, "rb") as file:
        start = file.read(4096)
    return start.startswith(_PNG) and b"tEXtSoftware\0" + SOFTWARE.encode() in start


def write_picture(figure, path: PathLike, argument: str = "output") -> None:
    """Write a matplotlib figure to a PNG file, which appears whole or not at all.

    Raises:
        FileExistsError: something is there that this function has not written.
    """
    check_replaceable(path, is_picture, "a picture of xmae-fast", argument)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": SOFTWARE})


def check_apart(
    folder: PathLike, folders: Iterable[PathLike], files: Iterable[PathLike] = (), argument: str = "output"
) -> None:
    """Check that an output folder lies apart from the inputs; links are followed.

    Args:
        folder: the output folder.
        folders: the input folders.
        files: the input files.
        argument: the name of the argument that `folder` comes from, for the message.

    Raises:
        ValueError: the folder is an input folder, lies in one, or holds an input folder or an input file.
    """
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
    """Raise ValueError if an output file is one of the inputs, under whatever name."""
    for given in inputs:
        if _same(path, given):
            raise ValueError(f"{argument}: expected another file than the input {given}, got {path}, which is the same")


def remove_own(folder: PathLike, is_own: Callable[[str], bool]) -> None:
    """Remove this library's files from a folder, and from the folders in it. Links are not followed.

    The unfinished files that killed writers of such files have left are removed too, and folders that become empty.

    Args:
        folder: where files are removed.
        is_own: says of a path, relative to `folder` and with "/", whether this library has written that file. Of an
            empty folder, whose path ends in "/", it says whether to remove it.
    """
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
    """A function that says whether one of the regular expressions matches the whole of a text."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns)).fullmatch  # type: ignore[return-value]


class Lock:
    """The lock of a folder that a command writes to. A command that replaces files holds it alone; others may share it.

    The file `.lock` in the folder is locked with `flock`, which ends with the process, and the last holder removes it.
    Where files cannot be locked, or where the folder cannot be written to, nothing is locked.

    The package filelock does not offer this: its FileLock, which uses flock too, cannot be shared, leaves its file in
    the folder, and where files cannot be locked it makes marker files, which outlast a killed process; its
    ReadWriteLock is a lock in an SQLite file and cannot change from exclusive to shared (filelock 4.3.1).

    Args:
        folder: an existing folder.
        shared: whether other processes may hold the lock at the same time, if they share it too.

    Raises:
        BlockingIOError: another process holds the lock.
    """

    def __init__(self, folder: PathLike, *, shared: bool = False) -> None:
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
                if self._is_at(fd):  # else the last holder has removed the file meanwhile
                    self._fd = fd
            except BlockingIOError:
                message = f"output: another process is writing to {self.folder} (it holds the lock on {self.path})"
                raise BlockingIOError(errno.EWOULDBLOCK, message) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                self.path.unlink(missing_ok=True)
                return
            finally:
                if self._fd != fd:
                    os.close(fd)

    def share(self) -> None:
        """Let others share the lock from now on."""
        if self._fd >= 0:
            import fcntl

            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def release(self) -> None:
        """Give the lock up; the last holder removes the file."""
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
        """Whether the file that is open as `fd` still has the name `.lock`."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False


def _target(path: Path) -> Path:
    """The file that a temporary file of `atomic_path` is to become; other paths stay as they are."""
    found = TEMPORARY.fullmatch(path.name)
    return path.with_name(found["name"]) if found else path


def _same(a: PathLike, b: PathLike) -> bool:
    """Whether two paths name the same file or folder."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return os.path.realpath(a) == os.path.realpath(b)


def _inside(path: str, folder: str) -> bool:
    """Whether a real path lies below a real folder; the file system decides whether upper and lower case differ."""
    return any(_same(parent, folder) for parent in Path(path).parents)
