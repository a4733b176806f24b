"""The variables of .mat files before version 7.3, as SciPy reads them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from xmae_fast._optional import need
from xmae_fast.recordings.formats.nested import Many, Node, Numbers, Other, Struct, Text


def read_v5(path: str) -> Struct:
    """Read all variables of a file of MATLAB 4 to 7.2.

    Raises:
        ValueError: it is no such file, or it is damaged.
    """
    io = need("scipy.io", "MATLAB files need", "prepare")
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")
            variables = io.loadmat(file, struct_as_record=True, squeeze_me=False)
    except NotImplementedError:  # a header of version 7.3 without the HDF5 that follows it
        raise ValueError("expected a whole file of MATLAB v7.3, it is damaged") from None
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"expected a whole MATLAB file, it is damaged ({error or 'impossible sizes'})") from None
    except Exception as error:  # damage makes SciPy raise anything
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"expected a MATLAB file of version 4, 5 or 7.3, which is whole ({detail})") from None
    return Struct({name: _node(value) for name, value in variables.items() if not name.startswith("__")})


def _node(value: Any) -> Node:
    """A variable, field or element of a cell."""
    if isinstance(value, str):
        return Text([value])
    if not isinstance(value, np.ndarray) or type(value) is not np.ndarray:  # classes are for objects and functions
        return Other(type(value).__name__)
    if value.dtype.names is not None:
        names = value.dtype.names
        elements = [Struct({name: _node(element[name]) for name in names}) for element in value.ravel("F")]
        return elements[0] if len(elements) == 1 else Many(list(elements))
    if value.dtype.kind == "O":
        nodes = [_node(element) for element in value.ravel("F")]
        return words(nodes) or Many(nodes)
    if value.dtype.kind in "US":
        return Text([str(row) for row in value.ravel()])
    if value.dtype.kind not in "fiu":
        return Other(f"{value.dtype} values")
    squeezed = value.squeeze() if value.ndim > 2 else value
    return Numbers(squeezed.shape, lambda _, index: squeezed[index])


def words(nodes: list[Node]) -> Text | None:
    """The words of a cell that holds one in each element; None if it does not."""
    rows = [node.rows[0] for node in nodes if isinstance(node, Text) and len(node.rows) == 1]
    return Text(rows) if nodes and len(rows) == len(nodes) else None
