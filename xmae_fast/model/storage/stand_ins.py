"""Reading torch files whose classes are not loaded: each object of such a class becomes a stand-in, and nothing runs.

A Lightning file keeps what its user gave the model (`hyper_parameters`): OmegaConf, paths, NumPy scalars, namespaces.
`torch.load(weights_only=True)` refuses these. Here it reads them with the same restricted unpickler, to which every
foreign class is declared as a `StandIn`, which keeps what the file says of the object and has no behaviour.
"""

from __future__ import annotations

import pickle
import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

# What torch raises, besides UnpicklingError, on a damaged or foreign file.
DAMAGES = (
    RuntimeError, EOFError, ValueError, OSError, LookupError, AttributeError, TypeError, AssertionError,
    ArithmeticError, MemoryError, struct.error,
)  # fmt: skip
_lock = threading.Lock()  # torch keeps the classes that it may load in one place for all threads
_NUMBER = re.compile(r"[biuf]\d+")


class StandIn:
    """It takes the place of an object that was not made.

    Attributes:
        name: the object's class or function.
        arguments, state: what the file says about the object.
    """

    name = ""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> StandIn:
        made = object.__new__(cls)
        made.arguments = arguments
        return made

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"


def foreign_names(path: Path) -> list[str]:
    """Classes and functions in a torch file that `weights_only=True` refuses; none where the file does not tell."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except (pickle.UnpicklingError, *DAMAGES):
        return []  # of torch before 1.6, or of another pickle protocol


def load_with_stand_ins(path: Path, names: list[str]) -> Any:
    """The content of a torch file, with stand-ins for objects of the classes `names`; those that behave like
    dictionaries or lists become such. The errors are those of `torch.load`."""
    kinds: dict[str, type] = dict.fromkeys(names, StandIn)
    while True:
        stand_ins: list[Any] = [(_stand_in(name, kind), name) for name, kind in kinds.items()]
        try:
            with _lock, torch.serialization.safe_globals(stand_ins):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            found = re.search(r"Can only (SETITEM|append|extend).*got <class '([^']+)'>", str(error), re.DOTALL)
            if found is None or kinds.get(found.group(2)) is not StandIn:
                raise
            kinds[found.group(2)] = OrderedDict if found.group(1) == "SETITEM" else list


def _stand_in(name: str, kind: type) -> type:
    module, _, qualname = name.rpartition(".")
    names = {"__module__": module, "__qualname__": qualname, "name": name}
    if kind is StandIn:
        return type(qualname, (StandIn,), names)
    return type(qualname, (), names | {"__new__": lambda cls, *arguments: kind()})


def plain(value: Any, done: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """`value` with containers of OmegaConf, namespaces and dataclasses as dictionaries, tuples as lists, and scalars of
    NumPy as numbers, whether they are stand-ins or not; what is none of these stays as it is.

    done: of the calls within: by id, each object and what it became; objects may hold each other in a circle.
    """
    done = {} if done is None else done
    if id(value) not in done:
        done[id(value)] = value, value
        done[id(value)] = value, _plain(value, done)
    return done[id(value)][1]


def _plain(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(value, StandIn):
        if value.name.endswith(".multiarray.scalar"):
            return _numpy_scalar(value)
        state = _attributes(value.state)
        if state is None:
            return value
        return plain(next((state[key] for key in ("_content", "_val") if key in state), state), done)  # of OmegaConf
    if isinstance(value, Mapping):
        return {key: plain(item, done) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, done) for item in value]
    if hasattr(value, "__dict__") and not isinstance(value, (type, torch.Tensor)):  # a class that the user allowed
        return plain(vars(value), done)
    return value


def _attributes(state: Any) -> dict[str, Any] | None:
    """An object's attributes from its pickled state: a dictionary, or a pair of those of __dict__ and __slots__."""
    parts: tuple[Any, ...] = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if not all(part is None or isinstance(part, Mapping) for part in parts) or all(part is None for part in parts):
        return None
    return {key: item for part in parts if part is not None for key, item in part.items()}


def _numpy_scalar(value: StandIn) -> Any:
    """The number of numpy._core.multiarray.scalar(dtype, bytes)."""
    dtype, data = (*value.arguments, None, None)[:2]
    if isinstance(dtype, StandIn) and dtype.arguments and isinstance(data, bytes):
        code, state = str(dtype.arguments[0]), dtype.state
        order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">") else "|"
        if _NUMBER.fullmatch(code) and len(data) == np.dtype(code).itemsize:
            return np.frombuffer(data, np.dtype(code).newbyteorder(order)).item()
    return value
