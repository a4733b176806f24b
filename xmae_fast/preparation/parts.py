"""Parts: files that each hold what was made of one recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

COLUMNS = ("subject", "start_s", "segment_id", "win_id", "win_seq_id", "ppg_quality", "ecg_quality")


class Part(NamedTuple):
    """What was made of one recording: n segments, and the windows that were rejected.

    Args:
        path: the file.
        about: the names of the channels, their rates, and so on, as `make_part` stores them.
        table: the COLUMNS of the segments, [n] each.
        rejected: the COLUMNS and "reason" of the rejected windows.
    """

    path: Path
    about: dict
    table: dict[str, np.ndarray]
    rejected: dict[str, np.ndarray]

    def signals(self) -> tuple[np.ndarray, np.ndarray]:
        """Read PPG and ECG of the segments, [n, L] float16 each; the ECG is [n, 0] if only PPG was read."""
        with np.load(self.path, allow_pickle=False) as file:
            return file["ppg"], file["ecg"]


def load_part(path: Path, identity: str) -> Part | None:
    """Read a part, except for its signals.

    Args:
        path: the file.
        identity: a hash of the recording and the settings.

    Returns:
        None if there is no file, if it is damaged, or if it was made with another identity.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["identity"] != identity:
                return None
            table, rejected = ({name: file[f"{kind}_{name}"] for name in COLUMNS} for kind in ("kept", "rejected"))
            return Part(path, about, table, rejected | {"reason": file["reason"]})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
