"""The arrays of .npz files, of which only the headers are read until they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Member:
    """An array of an .npz file.

    Args:
        name: of the array.
        shape, dtype: of the array; a header tells them, without the array.
        damage: what is wrong with the array; "" for one that can be read.
        transposed: whether its rows are channels.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    damage: str = ""
    transposed: bool = False

    @property
    def is_signal(self) -> bool:
        """Whether it may be a signal: numbers [samples] or [pieces, samples], or what damage has made of them."""
        numbers = self.dtype.kind in "fiu" and len(self.shape) in (1, 2) and max(self.shape, default=0) > 1
        return numbers or bool(self.damage)


def read_members(path: str) -> dict[str, Member]:
    """The arrays of an .npz file by name, of which only the headers are read. Damaged ones are marked."""
    found: dict[str, Member] = {}
    with open_arrays(path) as file:
        for stored in file.zip.namelist():
            name = stored.removesuffix(".npy")
            try:
                with file.zip.open(stored) as opened:
                    version = np.lib.format.read_magic(opened)
                    later = np.lib.format.read_array_header_2_0  # that of version 3 differs in its encoding alone
                    shape, _, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else later)(opened)
                found[name] = Member(name, shape, dtype)
            except Exception as error:  # damage makes NumPy raise anything
                found[name] = Member(name, (0,), np.dtype(float), damage=detail_of(error))
    if not found:
        raise ValueError("expected arrays, found none")
    return found


@contextmanager
def open_arrays(path: str) -> Iterator[Any]:
    """An open .npz file; ValueError if it is something else or damaged."""
    with open(path, "rb") as raw:
        try:
            file = np.load(raw, allow_pickle=False)
        except Exception as error:  # damage makes NumPy raise anything
            raise ValueError(f"expected an .npz file that is whole ({detail_of(error)})") from None
        if isinstance(file, np.ndarray):
            raise ValueError("expected an .npz file, found a single array, as .npy files hold it")
        with file:
            yield file


def as_text(array: np.ndarray) -> np.ndarray:
    """An array with its bytes as text."""
    return np.char.decode(array, "utf-8", "backslashreplace") if array.dtype.kind == "S" else array


def array_of(file: Any, member: Member) -> np.ndarray:
    """An array of an open .npz file, with its channels in columns if they have names.

    Raises:
        ValueError: the array is damaged.
    """
    try:
        array = file[member.name]
    except Exception as error:  # damage makes NumPy raise anything
        raise ValueError(f"{member.name}: expected an array that is whole ({detail_of(error)})") from None
    return array.T if member.transposed else array


def detail_of(error: Exception) -> str:
    """What is wrong with a file, in one line that does not speak of NumPy's arguments."""
    text = " ".join(str(error).split())
    return "it holds Python objects, or is damaged" if "pickle" in text else text or type(error).__name__
