"""The variables of HDF5 files: those of MATLAB v7.3, and others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from xmae_fast.data.formats.shards import import_h5py
from xmae_fast.recordings.formats.mat_v5 import words
from xmae_fast.recordings.formats.nested import Many, Node, Numbers, Other, Struct, Text

_DEEPEST = 12  # groups and cells in each other; links may lead in circles


@contextmanager
def open_file(path: str) -> Iterator[Any]:
    """An open h5py.File; ValueError if it is no HDF5 file or damaged."""
    h5py = import_h5py()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if error.errno is not None:
            raise
        detail = str(error).split("(")[-1].rstrip(")").strip()
        raise ValueError(f"expected an HDF5 file that is whole ({detail})") from None
    with file:
        try:
            yield file
        except (OSError, RuntimeError, KeyError) as error:  # what h5py raises where it meets damage
            raise ValueError(f"expected an HDF5 file that is whole ({error})") from None


def read_tree(file: Any, matlab: bool) -> Struct:
    """Find out what an open h5py.File holds.

    Args:
        file: the file.
        matlab: whether it is MATLAB's, whose arrays lie in the file with their axes in reverse order, and whose cells
            and structs are references. In other files attributes count as fields of their group or data set.
    """
    return Tree(file, matlab).group(file, 0)


class Tree:
    """Makes nodes of the objects of an open file, as `read_tree` says."""

    def __init__(self, file: Any, matlab: bool) -> None:
        self.file, self.matlab, self.h5py = file, matlab, import_h5py()

    def group(self, group: Any, depth: int) -> Struct:
        """The members of a group; MATLAB's own, "#refs#" and "#subsystem#", are left out."""
        fields: dict[str, Node] = {} if self.matlab else self._attributes(group)
        if depth < _DEEPEST:
            for name in group:
                plain = name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
                if not plain.startswith("#") and (member := group.get(name)) is not None:
                    fields[plain] = self._member(member, depth + 1)
        return Struct(fields)

    def _member(self, member: Any, depth: int) -> Node:
        if isinstance(member, self.h5py.Group):
            if "MATLAB_sparse" in member.attrs or "MATLAB_object_decode" in member.attrs:
                return Other("sparse matrix" if "MATLAB_sparse" in member.attrs else "object")
            return self._struct(member, depth)
        if not isinstance(member, self.h5py.Dataset):
            return Other("type")
        name = self.h5py.h5i.get_name(member.id)
        return self._data_set(member, lambda file: file[name], depth)

    def _struct(self, group: Any, depth: int) -> Node:
        """A struct, or a struct array: each field of one is a data set of references that is no cell by its class."""
        if not (self.matlab and len(group) and all(self._is_field(group.get(name)) for name in group)):
            return self.group(group, depth)
        if len({group[name].shape for name in group}) != 1:
            return self.group(group, depth)
        columns = {str(name): self._referred(group[name], depth) for name in group}
        elements = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        made = [Struct(fields) for fields in elements]
        return made[0] if len(made) == 1 else Many(list(made))

    def _is_field(self, member: Any) -> bool:
        """Whether this is a field of a struct array."""
        is_data_set = isinstance(member, self.h5py.Dataset)
        return is_data_set and self._refers(member) and "MATLAB_class" not in member.attrs

    def _refers(self, data_set: Any) -> bool:
        return self.h5py.check_ref_dtype(data_set.dtype) is self.h5py.Reference

    def _referred(self, data_set: Any, depth: int) -> list[Node]:
        """What the references of a data set lead to. MATLAB's order is that of the file."""
        nodes: list[Node] = []
        for reference in data_set[()].ravel():
            target = self.file[reference] if reference else None
            if target is None or depth >= _DEEPEST:
                nodes.append(Other("nothing"))
            elif isinstance(target, self.h5py.Group):
                nodes.append(self._member(target, depth + 1))
            else:
                nodes.append(self._data_set(target, lambda file, to=reference: file[to], depth + 1))
        return nodes

    def _data_set(self, data_set: Any, locate: Any, depth: int) -> Node:
        kind, dtype = data_set.attrs.get("MATLAB_class", b"") if self.matlab else b"", data_set.dtype
        if data_set.shape is None or (self.matlab and "MATLAB_object_decode" in data_set.attrs):
            return Other("object" if data_set.shape is not None else "nothing")
        if self.matlab and data_set.attrs.get("MATLAB_empty"):
            return Many([]) if kind == b"cell" else Other("nothing")
        if self._refers(data_set):
            nodes = self._referred(data_set, depth)
            return words(nodes) or Many(nodes)
        if kind == b"char" or self.h5py.check_string_dtype(dtype) is not None:
            return Text(self._text(data_set, kind))
        if dtype.names is not None:
            return self._table(data_set, locate)
        if dtype.kind not in "fiu" or kind == b"logical":
            return Other(f"{dtype} values")
        node = self._numbers(data_set.shape, locate)
        if self.matlab or not len(data_set.attrs) or node.size < 2:
            return node
        return Struct({"value": node, **self._attributes(data_set)})

    def _numbers(self, stored: tuple[int, ...], locate: Any) -> Numbers:
        """An array of this shape in the file; MATLAB shows its axes in reverse order."""
        places = range(len(stored))
        kept = [axis for axis in places if len(stored) <= 2 or stored[axis] != 1]
        order = kept[::-1] if self.matlab else kept

        def read(file: Any, index: tuple) -> np.ndarray:
            if index == (Ellipsis,):
                whole = locate(file)[()]
                return np.asarray(whole).reshape([stored[axis] for axis in kept]).transpose(
                    range(len(kept))[::-1] if self.matlab else range(len(kept))
                )  # fmt: skip
            asked = dict(zip(order, index, strict=True))
            found = locate(file)[tuple(asked.get(axis, 0) for axis in places)]
            return np.asarray(found).T if self.matlab else np.asarray(found)

        return Numbers(tuple(stored[axis] for axis in order), read)

    def _table(self, data_set: Any, locate: Any) -> Node:
        """A data set of records, with a vector for each of its fields of numbers."""
        if self.matlab or data_set.ndim != 1:
            return Other("complex numbers" if self.matlab else "records")
        fields: dict[str, Node] = {}
        for name in data_set.dtype.names:
            if data_set.dtype[name].kind in "fiu":
                fields[name] = Numbers(data_set.shape, lambda file, index, name=name: locate(file).fields(name)[index])
        return Struct(fields)

    def _text(self, data_set: Any, kind: bytes) -> list[str]:
        """The rows of a char array (codes in uint16, a row of text in each column of the file), or of strings."""
        if kind == b"char":
            return ["".join(map(chr, row)).strip() for row in np.atleast_2d(np.asarray(data_set[()]).T).tolist()]
        return [str(row) for row in np.ravel(data_set.asstr(errors="replace")[()])]

    def _attributes(self, owner: Any) -> dict[str, Node]:
        """The attributes of an object that are one number or a text."""
        fields: dict[str, Node] = {}
        for name, value in owner.attrs.items():
            if isinstance(value, bytes | str):
                fields[name] = Text([value.decode("utf-8", "replace") if isinstance(value, bytes) else value])
            elif np.size(value) == 1 and np.asarray(value).dtype.kind in "fiu":
                array = np.ravel(value)
                fields[name] = Numbers((1,), lambda _, index, array=array: array[index])
        return fields
