"""What became of one recording: segments, rejected windows and where they came from, in a file of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

COLUMNS = ("subject", "start_s", "segment_id", "win_id", "win_seq_id", "ppg_quality", "ecg_quality")


class Part(NamedTuple):
    """A finished recording. table, rejected: COLUMNS of the k segments and of the rejected windows, rejected also
    "reason"; signals are read when asked for."""

    path: Path
    about: dict
    table: dict[str, np.ndarray]
    rejected: dict[str, np.ndarray]

    def signals(self) -> tuple[np.ndarray, np.ndarray]:
        """PPG and ECG, (k, L) float16."""
        with np.load(self.path) as file:
            return file["ppg"], file["ecg"]


def load_part(path: Path, identity: str) -> Part | None:
    """A part made of the same recording with the same settings, None where there is none or a damaged one."""
    try:
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            if about["identity"] != identity:
                return None
            table, rejected = ({name: file[f"{kind}_{name}"] for name in COLUMNS} for kind in ("kept", "rejected"))
            return Part(path, about, table, rejected | {"reason": file["reason"]})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
