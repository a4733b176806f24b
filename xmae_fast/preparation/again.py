"""Failures that may pass: a recording that failed by one is tried again by the same command."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

AGAIN = "the same command tries it again"
_MAY_PASS = {
    getattr(errno, name)
    for name in (
        "EACCES", "EAGAIN", "EBUSY", "EDEADLK", "EDQUOT", "EINTR", "EIO", "EMFILE", "ENFILE", "ENOBUFS", "ENOLCK",
        "ENOMEM", "ENOSPC", "EPERM", "ESTALE", "ETIMEDOUT", "ETXTBSY",
    )
    if hasattr(errno, name)
}  # fmt: skip


def is_locked(error: BaseException) -> bool:
    """Whether another process has locked the file."""
    locks = (errno.EAGAIN, errno.EDEADLK)
    return any("unable to lock file" in str(e) or (isinstance(e, OSError) and e.errno in locks) for e in _causes(error))


def may_pass(error: BaseException) -> bool:
    """Whether the reason of an error may pass: too little memory, a lock, no permission, a disk that fails."""
    passing = any(
        isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno in _MAY_PASS) for e in _causes(error)
    )
    return passing or is_locked(error)


def to_try_again(errors: Mapping[str, str]) -> list[str]:
    """The names of the recordings whose errors, by name, may pass."""
    return [name for name, error in errors.items() if error.endswith(AGAIN)]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
