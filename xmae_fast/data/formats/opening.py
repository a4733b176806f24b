"""Opens HDF5 files for reading; one that another process has locked is waited for."""

from __future__ import annotations

import errno
import logging
import math
import os
import time
from typing import Any

WAIT = "XMAE_FAST_LOCK_WAIT_S"  # the environment variable that says how many seconds a locked file is waited for
_WAIT_S = 10.0
_TRY_EVERY_S = 0.1
_log = logging.getLogger("xmae_fast.data")
_LOCKED = (errno.EAGAIN, errno.EACCES)


def open_hdf5(path: str) -> Any:
    """Open an h5py.File for reading.

    HDF5 locks a file that a process has open for writing. Such a file is waited for, and a warning is logged that says
    so: 10 s, or as long as the environment variable XMAE_FAST_LOCK_WAIT_S says.

    Raises:
        BlockingIOError: another process has locked the file all this time.
        OSError: it cannot be opened for another reason.
    """
    import h5py

    end = None
    while True:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            if error.errno not in _LOCKED or "unable to lock file" not in str(error):
                raise
        else:
            _log.debug("opened %s", path)
            return file
        now = time.monotonic()
        if end is None:
            wait = _seconds()
            end = now + wait
            if wait > 0:
                told = "%s is locked by another process, which has it open for writing; waiting up to %g s for it"
                _log.warning(told, path, wait)
        if now >= end:
            message = (
                f"shard {path}: expected a file that no process writes to, another has locked it: wait until that"
                f" process has closed it ({WAIT} says how many seconds it is waited for, 10 by default)"
            )
            raise BlockingIOError(errno.EAGAIN, message)
        time.sleep(_TRY_EVERY_S)


def _seconds() -> float:
    text = os.environ.get(WAIT, "")
    try:
        seconds = float(text) if text else _WAIT_S
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{WAIT}: expected seconds in the environment, 0 or more, got {text!r}")
    return seconds
