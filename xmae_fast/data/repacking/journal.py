"""The journal of `repack`, which says how far the copy has come, and the lock on its unfinished file."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from xmae_fast._files import atomic_path, remains

_VERSION = 1


class Journal:
    """The SHA-256 of each signal in each block that is copied, as they were read from the shards.

    Its file appears whole or not at all. `add` changes the memory only; `write` writes the file.

    Attributes:
        path: the file.
        identity: a hash of what is copied, and how.
        digests: for each block, from the first on, the digests of the signals.
    """

    def __init__(self, path: str) -> None:
        self.path, self.identity, self.digests = path, "", []

    @property
    def blocks(self) -> int:
        """The number of blocks that are copied; these are the first ones."""
        return len(self.digests)

    def load(self, identity: str) -> bool:
        """Read the file. False if there is none, if it is damaged, or if it belongs to other work."""
        with suppress(OSError, ValueError, KeyError, TypeError), open(self.path, encoding="utf-8") as file:
            stored = json.load(file)
            if stored["version"] == _VERSION and stored["identity"] == identity:
                self.identity, self.digests = identity, [list(map(str, block)) for block in stored["blocks"]]
                return True
        return False

    def start(self, identity: str) -> None:
        """Begin other work; none of its blocks is copied."""
        self.identity, self.digests = identity, []
        self.write()

    def add(self, digests: list[str]) -> None:
        """Note the digests of the signals of the next block, which is copied."""
        self.digests.append(digests)

    def write(self) -> None:
        """Write the file. The blocks that it lists must be on the disk already."""
        content = {"version": _VERSION, "identity": self.identity, "blocks": self.digests}
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    def remove(self) -> None:
        """Forget everything and remove the file, and the temporary files that killed writers have left."""
        self.identity, self.digests = "", []
        for path in (self.path, *remains(self.path)):
            with suppress(FileNotFoundError):
                os.unlink(path)
        sync_folder(self.path)


@contextmanager
def locked(path: str, output: str) -> Iterator[int]:
    """Open and lock a file, which is created if it is missing. If an error occurs while it is still empty, it is
    removed.

    Args:
        path: the file.
        output: what is being written, for the message.

    Yields:
        A descriptor of the file.

    Raises:
        BlockingIOError: another process has locked the file.
    """
    import fcntl

    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"output: another process is writing {output} (it holds the lock on {path})"
                raise BlockingIOError(errno.EWOULDBLOCK, message) from None
            if _is_at(fd, path):  # else the process that had the lock has renamed the file meanwhile
                try:
                    yield fd
                except BaseException:
                    if os.fstat(fd).st_size == 0 and _is_at(fd, path):
                        os.unlink(path)
                    raise
                return
        finally:
            os.close(fd)


def sync_folder(path: str) -> None:
    """Make sure that the names of files in the folder of `path` outlast a power cut."""
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False
