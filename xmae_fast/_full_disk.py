"""Writing through libraries that crash, or say nothing useful, when the disk is full.

HDF5 may end the process with a segmentation fault when it cannot write what it still holds as it closes a file (seen
with h5py 3.14), and torch's writer of zip files may end it with std::terminate, or raise "unexpected pos". Here Python
writes the bytes, so that a full disk is always an OSError with the number of the system.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

_TEXT = re.compile(r"No space left on device|Disk quota exceeded|os error (28|122)\b|errno = (28|122)\b")
_BLOCK = 1 << 20  # bytes by which HDF5's file in memory grows


def says_full(error: BaseException) -> bool:
    """Whether the text of an error says that the disk is full; libraries raise errors without the system's number."""
    return _TEXT.search(str(error)) is not None


@contextmanager
def new_hdf5(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Write an HDF5 file, made in memory and then written at once. Its bytes are those of h5py.File(path, "w").

    Args:
        path: the file. It is replaced if it is there.

    Yields:
        The h5py.File to fill.

    Raises:
        OSError: the file cannot be written, because the disk is full for one.
    """
    import h5py

    with h5py.File(os.fspath(path), "w", driver="core", backing_store=False, block_size=_BLOCK) as file:
        yield file
        file.flush()
        image = file.id.get_file_image()
    Path(path).write_bytes(image)


def save_with_torch(content: Any, path: Path) -> None:
    """`torch.save(content, path)`; OSError if the file cannot be written."""
    import torch

    with remembering(path) as file:
        torch.save(content, cast("IO[bytes]", file))


@contextmanager
def remembering(path: Path) -> Iterator[RememberingFile]:
    """Write a file by a library that must not see that writing fails; the error of the system is raised at the end."""
    with path.open("wb") as raw:
        file = RememberingFile(raw)
        try:
            yield file
        except Exception:
            if file.error is None:
                raise
        if file.error is not None:
            raise file.error


class RememberingFile(io.RawIOBase):
    """A file to write to that takes everything, and keeps the first error of the file behind it.

    Attributes:
        error: the first error, or None.

    Args:
        file: a binary file that is open for writing.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """Write all bytes of `data`, or leave them out after an error; their number."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Write what the file behind holds in memory."""
        if self.error is None:
            try:
                self._file.flush()
            except OSError as error:
                self.error = error

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place in the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The place in the file."""
        return self._file.tell()
