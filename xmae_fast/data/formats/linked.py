"""The other files that an HDF5 file takes data from, through external links, external storage and virtual data sets."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from xmae_fast.data.formats.opening import open_hdf5

_PROBES, _PROBE_BYTES = 16, 4096  # how many blocks of a file are hashed, and their size
_DEEPEST = 16  # how many links are followed one after the other
_ERRORS = (KeyError, OSError, RuntimeError, ValueError, TypeError)
Mark = list  # [size, mtime_ns, probe], as JSON stores it


def content_probe(path: str, size: int) -> str:
    """A hash of 16 evenly spaced blocks of 4 KiB; the first and the last block of the file are among them.

    Args:
        path: the file.
        size: its size in bytes.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as file:
        for i in range(_PROBES):
            file.seek(max(size - _PROBE_BYTES, 0) * i // (_PROBES - 1))
            digest.update(file.read(_PROBE_BYTES))
    return digest.hexdigest()


def mark(path: str) -> Mark | None:
    """What tells this version of a file from others; None if there is no file that can be read."""
    try:
        status = os.stat(path)
        return [status.st_size, status.st_mtime_ns, content_probe(path, status.st_size)]
    except OSError:
        return None


def marks(paths: Iterable[str]) -> dict[str, Mark | None]:
    """The `mark` of each file, by path."""
    return {path: mark(path) for path in paths}


def is_same(path: str, known: Mark | None) -> bool:
    """Whether a file is the same as when `mark` returned `known`; it is if only its time has changed."""
    try:
        status = os.stat(path)
    except OSError:
        return known is None
    if known is None or status.st_size != known[0]:
        return False
    return status.st_mtime_ns == known[1] or content_probe(path, status.st_size) == known[2]


class OtherFiles:
    """Finds out which objects of an open h5py.File lie in that file, and which other files hold the rest.

    Attributes:
        marks: by absolute path, the marks of all files whose change, appearance or disappearance could change what is
            read from the file: those that links lead to, also if they are missing. The marks are taken when the files
            are found.

    Args:
        file: the open h5py.File.
    """

    def __init__(self, file) -> None:
        import h5py  # the file was opened with it

        self.h5py: Any = h5py  # checkers cannot see its compiled modules, h5l among them
        self.number = self._number(file.id)
        self.marks: dict[str, Mark | None] = {}
        self._seen: set[tuple[str, bytes]] = set()  # links that were followed, because links may lead back
        self._held: dict[tuple[str, str], bool] = {}

    def owns(self, item) -> bool:
        """Whether an object of h5py's low-level interface lies in the file itself; if not, its file is noted."""
        if self._number(item) == self.number:
            return True
        name = self.h5py.h5f.get_name(item)
        self._note(os.path.abspath(os.fsdecode(name)))
        return False

    def is_link(self, group, name: str | bytes) -> bool:
        """Whether a member of a group is a soft or an external link, which may lead to another file."""
        encoded = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
        return group.id.links.get_info(encoded).type != self.h5py.h5l.TYPE_HARD

    def follow(self, group, path: str | bytes, deep: int = 0) -> None:
        """Note all files that lie on the way from `group` to what `path` names; links may lead through several."""
        h5l = self.h5py.h5l
        path = os.fsencode(path)
        with _unless_missing():
            if path.startswith(b"/"):
                group = group.file
            for name in filter(None, path.split(b"/")):
                kind = group.id.links.get_info(name).type
                if kind == h5l.TYPE_EXTERNAL and deep < _DEEPEST:
                    other, target = group.id.links.get_val(name)
                    for candidate in self._candidates(os.fsdecode(other), os.fsdecode(group.file.filename)):
                        self._note(candidate)
                        if (candidate, target) in self._seen:
                            continue
                        self._seen.add((candidate, target))
                        with _unless_missing(), open_hdf5(candidate) as file:
                            self.follow(file, target, deep + 1)
                elif kind == h5l.TYPE_SOFT and deep < _DEEPEST:
                    self.follow(group, group.id.links.get_val(name), deep + 1)
                group = group[name]

    def missing_rows(self, data_set) -> list[slice] | None:
        """The rows of a data set whose values lie in files that are missing or too short; HDF5 would give fill values.

        The files of external storage and of virtual data sets are noted.

        Args:
            data_set: an h5py.h5d.DatasetID.

        Returns:
            Ranges of rows; None if the values are in the file itself.
        """
        plist = data_set.get_create_plist()
        if plist.get_layout() == self.h5py.h5d.VIRTUAL:
            return self._virtual(data_set, plist)
        return self._external(data_set, plist) if plist.get_external_count() else None

    def _external(self, data_set, plist) -> list[slice]:
        """The missing rows of external storage: HDF5 gives zeros where a file ends too early."""
        shape, begin, missing = data_set.shape, 0, []
        width = max(1, int(np.prod(shape[1:])) * data_set.get_type().get_size())
        prefix, *_ = self._prefixes(("HDF5_EXTFILE_PREFIX",), os.fsdecode(self.h5py.h5f.get_name(data_set))) or [""]
        for i in range(plist.get_external_count()):
            name, offset, size = plist.get_external(i)
            path = os.path.abspath(os.path.join(prefix, os.fsdecode(name)))
            self._note(path)
            end = min(begin + size, shape[0] * width)
            there = begin + max(0, (self.marks[path] or [0])[0] - offset)
            if there < end:
                missing.append(slice(there // width, -(-end // width)))
            begin = end
        return missing

    def _virtual(self, data_set, plist) -> list[slice]:
        """The missing rows of a virtual data set."""
        own, missing = os.fsdecode(self.h5py.h5f.get_name(data_set)), []
        for i in range(plist.get_virtual_count()):
            name, source = plist.get_virtual_filename(i), plist.get_virtual_dsetname(i)
            candidates = [own] if name == "." else self._candidates(name, own)
            if not any([self._holds(candidate, source) for candidate in candidates]) and "%b" not in name + source:
                first, last = plist.get_virtual_vspace(i).get_select_bounds()
                missing.append(slice(int(first[0]), int(last[0]) + 1))
        return missing

    def _holds(self, path: str, name: str) -> bool:
        """Whether the data set `name` of the file `path`, a source of a virtual data set, is there and whole."""
        self._note(path)
        if (path, name) not in self._held:
            self._held[path, name] = False  # until it is known, because it may be its own source
            with _unless_missing(), open_hdf5(path) as file:
                self.follow(file, name)
                self._held[path, name] = not self.missing_rows(file[name].id)
        return self._held[path, name]

    def _candidates(self, name: str, holder: str) -> list[str]:
        """The paths where HDF5 looks for the file `name` that the file `holder` names, in this order."""
        if os.path.isabs(name):
            return [name, os.path.join(os.path.dirname(os.path.abspath(holder)), os.path.basename(name))]
        prefixes = self._prefixes(("HDF5_EXT_PREFIX", "HDF5_VDS_PREFIX"), holder)
        folders = [*prefixes, os.path.dirname(os.path.abspath(holder)), os.path.dirname(os.path.realpath(holder)), ""]
        return list(dict.fromkeys(os.path.abspath(os.path.join(folder, name)) for folder in folders))

    def _prefixes(self, variables: tuple[str, ...], holder: str) -> list[str]:
        """The folders that environment variables of HDF5 name."""
        origin = os.path.dirname(os.path.abspath(holder))
        listed = [prefix for name in variables for prefix in os.environ.get(name, "").split(":") if prefix]
        return [prefix.replace("${ORIGIN}", origin) for prefix in listed]

    def _note(self, path: str) -> None:
        if path not in self.marks:
            self.marks[path] = mark(path)

    def _number(self, item) -> int:
        """The number that HDF5 has given to the open file in which an object lies."""
        return self.h5py.h5o.get_info(item).fileno


@contextmanager
def _unless_missing() -> Iterator[None]:
    """What is missing or damaged is passed over, but not a file that another process has locked."""
    try:
        yield
    except BlockingIOError:
        raise
    except _ERRORS:
        pass


def rows_of(missing: list[slice] | None, n: int) -> np.ndarray:
    """[n] bool, whether each row is in one of the ranges `missing`."""
    found = np.zeros(n, bool)
    for rows in missing or ():
        found[rows] = True
    return found
