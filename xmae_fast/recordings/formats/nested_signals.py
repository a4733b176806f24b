"""Finds the signals among nested variables: which are channels, which are pieces, and along which side time runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from xmae_fast.recordings.channels import candidates
from xmae_fast.recordings.formats.nested import Many, Node, Numbers, Struct, Text, key_of

LEAST = 64  # samples of a signal: a window of 4 s at 16 Hz
MOST_CHANNELS = 16  # a matrix with more rows and columns than this holds windows
TIMES = (
    "t", "time", "times", "timestamp", "timestamps", "timesec", "tsec", "ts", "seconds", "timems", "tms", "timeus",
    "timens", "timemin", "unixtime", "timestampms", "timestampus", "timestampns", "timestampsms", "timestampsus",
    "timestampsns",
)  # fmt: skip
_GENERIC = ("v", "val", "value", "values", "data", "signal", "sig", "samples", "waveform", "wave", "y")
_LABELS = ("name", "label", "channel", "channelname", "signame", "signal", "type", "sensor", "title", "desc")
_DEEPEST = 12  # variables in each other

Scopes = tuple[Struct, ...]


@dataclass
class Signal:
    """One channel, in P pieces.

    Args:
        name: the path of names that leads to it, or the name that the file gives it.
        key: the last name of the path, which goes before the channels of a matrix have names of their own.
        pieces: the array of each piece.
        scopes: the structs around each piece, outermost first.
        channel: (number, of how many) among the channels of a matrix; None for vectors.
        windows: whether the one array is a matrix with a window in each row or column.
    """

    name: str
    key: str
    pieces: list[Numbers]
    scopes: list[Scopes]
    channel: tuple[int, int] | None = None
    windows: bool = False


@dataclass
class Found:
    """The signals of a file.

    Args:
        signals: in the order of the file.
        held: what else it holds, in words.
        notes: how it was understood.
    """

    signals: list[Signal] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_signals(root: Struct, matrix: str = "channels") -> Found:
    """Find the signals in the variables of a file.

    Vectors are signals, whatever their direction. The shorter side of a matrix is that of its channels, if it has at
    most 16. The elements of cells and struct arrays are pieces of a signal, or else channels, if the file has as many
    names for them. Arrays shorter than 64 samples and those of times are none.

    Args:
        root: the variables.
        matrix: "pieces" takes the rows of a matrix as pieces of one signal, if they have at least 64 samples.
    """
    found = _Finder(matrix)
    found.walk([root], (), [()])
    return found.found


class _Finder:
    """Walks through the nodes of P pieces at the same time."""

    def __init__(self, matrix: str) -> None:
        self.found, self.matrix = Found(), matrix

    def walk(self, nodes: Sequence[Node], path: tuple[str, ...], scopes: list[Scopes]) -> None:
        """Look for signals in the nodes of the same name of all pieces."""
        if len(path) > _DEEPEST:
            return
        if all(isinstance(node, Struct) for node in nodes):
            structs = [node for node in nodes if isinstance(node, Struct)]
            inner = [(*scope, node) for scope, node in zip(scopes, structs, strict=True)]
            for name in structs[0].fields:
                if all(name in struct.fields for struct in structs):
                    self.walk([struct.fields[name] for struct in structs], (*path, name), inner)
        elif all(isinstance(node, Many) for node in nodes):
            self._many([node for node in nodes if isinstance(node, Many)], path, scopes)
        elif all(isinstance(node, Numbers) for node in nodes):
            self._numbers([node for node in nodes if isinstance(node, Numbers)], path, scopes)
        else:
            self._hold(path, nodes)

    def _hold(self, path: tuple[str, ...], nodes: Sequence[Node]) -> None:
        times = f"{len(nodes)} times " if len(nodes) > 1 else ""
        self.found.held.append(f"{'/'.join(path)}: {times}{nodes[0].describe()}")

    def _many(self, nodes: list[Many], path: tuple[str, ...], scopes: list[Scopes]) -> None:
        """The elements of cells or struct arrays: channels that have names, or pieces."""
        elements = nodes[0].elements
        if len(nodes) == 1 and elements and (names := _names_of(elements, scopes[0])):
            for name, element in zip(names, elements, strict=True):
                before = len(self.found.signals)
                self.walk([element], (name,), [scopes[0]])
                if len(added := self.found.signals[before:]) == 1:
                    added[0].name = name
            return
        flat = [(element, scope) for node, scope in zip(nodes, scopes, strict=True) for element in node.elements]
        if not flat:
            self._hold(path, nodes)
        else:
            self.walk([element for element, _ in flat], path, [scope for _, scope in flat])

    def _numbers(self, nodes: list[Numbers], path: tuple[str, ...], scopes: list[Scopes]) -> None:
        longest = max(max(node.shape, default=1) for node in nodes)
        ndim = max(len(node.shape) for node in nodes)
        if longest < LEAST or ndim > 2 or key_of(path[-1]) in TIMES:
            self._hold(path, nodes)
            return
        name, key = _name_of(path, scopes[0]), path[-1]
        filled = [node for node in nodes if node.size]
        if all(node.is_vector for node in filled):
            self.found.signals.append(Signal(name, key, nodes, scopes))
            return
        if self.matrix == "pieces" and len(nodes) == 1 and nodes[0].shape[1] >= LEAST:
            self.found.signals.append(Signal(name, key, nodes, scopes, windows=True))
            return
        counts = {min(node.shape) for node in filled}
        if len(counts) == 1 and (count := counts.pop()) <= MOST_CHANNELS:
            names = channel_names(scopes[0], count)
            if names is None or len({*names, *(s.name for s in self.found.signals)}) < count + len(self.found.signals):
                names = [f"{name}[{k}]" for k in range(count)]
            for k, own in enumerate(names):
                self.found.signals.append(Signal(own, key, nodes, scopes, (k, count)))
        elif len(nodes) == 1:
            self.found.signals.append(Signal(name, key, nodes, scopes, windows=True))
        else:
            self._hold(path, nodes)


def _name_of(path: tuple[str, ...], scopes: Scopes) -> str:
    """The path, without a last name that says nothing in a struct that is named as PPG or ECG, as in "ppg/v"."""
    if len(path) > 1 and key_of(path[-1]) in _GENERIC and is_named(path[-2]):
        return "/".join(path[:-1])
    return "/".join(path)


def is_named(name: str) -> bool:
    """Whether a name is one of a PPG or an ECG."""
    return _is_of(name, "PPG") or _is_of(name, "ECG")


def kinds_of(name: str) -> list[str]:
    """The words for the kind of a signal that names of its rate may begin with, as in "ppg_fs"."""
    last = name.rsplit("/", 1)[-1]
    words = [word for word in ("ppg", "pleth", "bvp", "ecg", "ekg") if word in last.lower()]
    words += [kind.lower() for kind in ("PPG", "ECG") if _is_of(last, kind)]
    return list(dict.fromkeys(words))


def _is_of(name: str, kind: str) -> bool:
    try:
        return bool(candidates([name], kind))
    except ValueError:
        return False


def channel_names(scopes: Scopes, count: int) -> list[str] | None:
    """Texts beside a matrix, as many as it has channels and each another, innermost first; None if there are none."""
    for struct in reversed(scopes):
        for node in struct.fields.values():
            if isinstance(node, Text) and len(node.rows) == count and len(set(node.rows)) == count > 1:
                return [row.strip() for row in node.rows]
    return None


def _names_of(elements: list[Node], scopes: Scopes) -> list[str] | None:
    """The names of channels that the elements of a cell or struct array are; None if they are pieces."""
    if len(elements) > LEAST:
        return None
    if all(isinstance(element, Struct) for element in elements):
        structs = [element for element in elements if isinstance(element, Struct)]
        for name in structs[0].fields:
            texts = [struct.fields.get(name) for struct in structs]
            if key_of(name) in _LABELS and all(isinstance(text, Text) and len(text.rows) == 1 for text in texts):
                rows = [text.rows[0].strip() for text in texts if isinstance(text, Text)]
                if len(set(rows)) == len(rows) and any(map(is_named, rows)):
                    return rows
        return None
    names = channel_names(scopes, len(elements))
    return names if names and any(map(is_named, names)) else None


def reader(signal: Signal) -> Callable[[object], list[np.ndarray]]:
    """What reads a signal from the open file: its pieces, [samples] each."""

    def read(file: object) -> list[np.ndarray]:
        if signal.windows:
            matrix = np.asarray(signal.pieces[0].read(file, (Ellipsis,)))
            return list(matrix if _time_is_last(matrix) else matrix.T)
        return [_piece(node, signal.channel, file) for node in signal.pieces]

    return read


def _piece(node: Numbers, channel: tuple[int, int] | None, file: object) -> np.ndarray:
    """The samples of one piece, or of one channel of it, [samples]."""
    if not node.size:
        return np.zeros(0)
    if channel is None:
        return np.ravel(node.read(file, (Ellipsis,)))
    number, count = channel
    along_rows = node.shape[0] == count and (node.shape[1] != count or node.shape[1] >= node.shape[0])
    return np.ravel(node.read(file, (number, slice(None)) if along_rows else (slice(None), number)))


def _time_is_last(matrix: np.ndarray) -> bool:
    """Whether time runs along the rows of a matrix of windows: neighbours in time are more alike than windows are."""
    if min(matrix.shape) < LEAST:
        return matrix.shape[1] >= LEAST
    part = np.asarray(matrix[:500, :500], np.float64)
    along, across = (np.nanmedian(np.abs(np.diff(part, axis=axis))) for axis in (1, 0))
    return bool(along <= across)
