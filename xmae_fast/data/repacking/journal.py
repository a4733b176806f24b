"""How far `repack` has come, kept beside its unfinished file, and the lock on that file."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from xmae_fast._files import atomic_path, remains

_VERSION = 1


class Journal:
    """SHA-256 of PPG and ECG of each block that is copied, as read from the shards; `identity` tells apart what is
    copied and how. Its file appears whole; `add` changes memory only, until `write`."""

    def __init__(self, path: str) -> None:
        self.path, self.identity, self.digests = path, "", []

    @property
    def blocks(self) -> int:
        """Blocks that are copied, from the first on."""
        return len(self.digests)

    def load(self, identity: str) -> bool:
        """Take up what the file says; False where there is none, or a damaged one, or one of other work."""
        with suppress(OSError, ValueError, KeyError, TypeError), open(self.path, encoding="utf-8") as file:
            stored = json.load(file)
            if stored["version"] == _VERSION and stored["identity"] == identity:
                self.identity, self.digests = identity, [[str(ppg), str(ecg)] for ppg, ecg in stored["blocks"]]
                return True
        return False

    def start(self, identity: str) -> None:
        """Begin with no block."""
        self.identity, self.digests = identity, []
        self.write()

    def add(self, digests: list[str]) -> None:
        """The next block is copied."""
        self.digests.append(digests)

    def write(self) -> None:
        """To the disk; what it speaks of must be there already."""
        content = {"version": _VERSION, "identity": self.identity, "blocks": self.digests}
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    def remove(self) -> None:
        """Forget everything; remains of killed writers go too."""
        self.identity, self.digests = "", []
        for path in (self.path, *remains(self.path)):
            with suppress(FileNotFoundError):
                os.unlink(path)
        sync_folder(self.path)


@contextmanager
def locked(path: str, output: str) -> Iterator[int]:
    """A descriptor of the file `path`, created if missing, that no other process has: OSError if one does. A file that
    is still empty at an error is removed."""
    import fcntl

    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"output: another process is writing {output} (it holds the lock on {path})"
                raise BlockingIOError(errno.EWOULDBLOCK, message) from None
            if _is_at(fd, path):  # or its last owner renamed it meanwhile
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
    """Names in the folder of `path` outlast a power cut."""
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False
