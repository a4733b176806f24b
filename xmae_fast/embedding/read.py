"""What sources of segments give to `embed_files`."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from xmae_fast.data.formats.linked import content_probe
from xmae_fast.recordings.saying import printable


class Read(NamedTuple):
    """k prepared segments.

    Attributes:
        ppg: [k, L] float32.
        good: [k] bool, False where a segment cannot be embedded.
        columns: [k] arrays by name; "key" and "subject" are text.
    """

    ppg: np.ndarray
    good: np.ndarray
    columns: dict[str, np.ndarray]


def describe_file(path: str) -> dict[str, Any]:
    """The name and size of a file, and a hash of some of its bytes, as plain values."""
    size = os.path.getsize(path)
    return {"name": printable(os.path.basename(path)), "bytes": size, "probe": content_probe(path, size)}
