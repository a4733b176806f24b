"""Tells what `prepare` and `embed_files` write from recordings that lie beside it."""

from __future__ import annotations

import os
import re

_WRITTEN = {  # names of files, by that of the file that is written with them
    "prepare.json": re.compile(r"records\.csv|rejected\.csv"),
    "embeddings.json": re.compile(r"recordings\.csv|part-\d{5,}\.\w+"),
}


def is_own(path: str) -> bool:
    """Whether a file is a table of `prepare` or `embed_files`, or a part of embeddings; shards are none of these."""
    folder, name = os.path.split(path)
    return any(
        written.fullmatch(name) is not None and os.path.isfile(os.path.join(folder, beside))
        for beside, written in _WRITTEN.items()
    )
