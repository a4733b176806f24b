"""Writes .mat files of version 7.3 in MATLAB's conventions, as `scipy.io.savemat` writes those of version 5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + b" " * 8 + b"\x00\x02IM"


def save_v73(path: Path, variables: dict[str, Any]) -> None:
    """Write variables.

    Args:
        path: the file.
        variables: by name: an array (numbers), a text, a dict (struct), a list of dicts (struct array), or an array of
            objects (cell).
    """
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")
        for name, value in variables.items():
            _put(file, name, value, refs)
    with open(path, "r+b") as raw:
        raw.write(HEADER)


def cell(*elements: Any) -> np.ndarray:
    """A cell of one row, as SciPy and `save_v73` take it."""
    made = np.empty((1, len(elements)), object)
    for i, element in enumerate(elements):
        made[0, i] = element
    return made


def _put(group: h5py.Group, name: str, value: Any, refs: h5py.Group) -> None:
    if isinstance(value, dict):
        group.create_group(name).attrs["MATLAB_class"] = np.bytes_("struct")
        for field, inner in value.items():
            _put(group[name], field, inner, refs)
    elif isinstance(value, list):
        group.create_group(name).attrs["MATLAB_class"] = np.bytes_("struct")
        for field in value[0]:
            _refer(group[name], field, [element[field] for element in value], refs)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        _refer(group, name, list(value.ravel("F")), refs)
        group[name].attrs["MATLAB_class"] = np.bytes_("cell")
    elif isinstance(value, str):
        group[name] = np.array([[ord(c)] for c in value], np.uint16)
        group[name].attrs["MATLAB_class"] = np.bytes_("char")
    else:
        group[name] = np.atleast_2d(value).T
        group[name].attrs["MATLAB_class"] = np.bytes_("double")


def _refer(group: h5py.Group, name: str, elements: list[Any], refs: h5py.Group) -> None:
    data_set = group.create_dataset(name, (len(elements), 1), h5py.ref_dtype)
    for i, element in enumerate(elements):
        own = f"r{len(refs)}"
        _put(refs, own, element, refs)
        data_set[i, 0] = refs[own].ref
