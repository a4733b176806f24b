"""Reads .mat files of MATLAB 4 to 7.3, whatever their variables are called."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from xmae_fast.data.formats.shards import import_h5py
from xmae_fast.recordings.formats.hdf5_tree import open_file, read_tree
from xmae_fast.recordings.formats.mat_pulsedb import RATE, SIGNALS, open_pulsedb
from xmae_fast.recordings.formats.mat_v5 import read_v5
from xmae_fast.recordings.formats.nested import Struct
from xmae_fast.recordings.formats.nested_loading import content_of
from xmae_fast.recordings.formats.nested_signals import Found, find_signals
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Content

_UCI_RATE = 125.0  # Hz
_UCI_ROWS = ("PPG", "ABP", "ECG")


def open_mat(path: str, reading: Reading) -> Content:
    """Find out about the signals of one file.

    Variables, fields of structs and elements of cells are found by the names that lead to them, as in "data/ppg"; see
    `find_signals`. The layouts of PulseDB and of the UCI's cuff-less blood pressure data are known.

    Raises:
        ValueError: it is no MATLAB file, it is damaged, or it holds no signal.
    """
    opened: Callable[[], Any]
    if import_h5py().is_hdf5(path):
        with open_file(path) as file:
            if content := open_pulsedb(path, file, reading):
                return content
            root = read_tree(file, matlab=True)

        def opened() -> Any:
            return open_file(path)
    else:
        root = read_v5(path)
        opened = nullcontext
    return _content(path, root, opened, reading)


def _content(path: str, root: Struct, opened: Callable[[], Any], reading: Reading) -> Content:
    found = find_signals(root)
    fallback, form = np.nan, ""
    pulsedb: dict[str, list[int]] = {}
    for kind, names in SIGNALS.items():
        places = [i for name in names for i, signal in enumerate(found.signals) if signal.key == name]
        pulsedb |= {kind: places} if places else {}
    if pulsedb:
        fallback, form = RATE, "PulseDB"
    elif _name_uci(path, found, opened):
        fallback, form = _UCI_RATE, "UCI"
    return content_of(found, opened, reading, fallback=fallback, form=form, usual=pulsedb)


def _name_uci(path: str, found: Found, opened: Callable[[], Any]) -> bool:
    """Name the channels of the UCI's layout, a cell `Part_1` with PPG, ABP and ECG in the rows of each element.

    Returns:
        Whether the file has this layout: that name of a variable or file, three rows, a blood pressure in the second.
    """
    stem = os.path.splitext(os.path.basename(path))[0]
    first = found.signals[0] if found.signals else None
    named = first is not None and any(re.fullmatch(r"part_?\d+", name.lower()) for name in (first.key, stem))
    if first is None or not named or len(found.signals) != 3 or first.channel != (0, 3):
        return False
    filled = next(node for node in first.pieces if node.size)
    with opened() as file:
        whole = np.asarray(filled.read(file, (Ellipsis,)), np.float64)
    ppg, pressure, ecg = np.nanmedian(whole if whole.shape[0] == 3 else whole.T, axis=1)
    if not (30 < pressure < 250 and pressure > max(abs(ppg), abs(ecg))):
        return False
    for signal, name in zip(found.signals, _UCI_ROWS, strict=True):
        signal.name = name
    found.notes.append(
        f"{first.key} has the layout of the UCI's cuff-less blood pressure data: its rows are PPG, ABP and ECG;"
        " the file does not say whose its elements are"
    )
    return True
