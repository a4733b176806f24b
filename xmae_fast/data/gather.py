"""Reads segments from memory maps into batches, in C++ or else in NumPy; both give the same bits."""

import os
from typing import NamedTuple

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.augment import augmented, draw_augmentation, min_max, segment_problem

try:
    from xmae_fast import _C_io
except ImportError as error:
    _C_io, _WHY_NOT = None, str(error)


class MapFormat(NamedTuple):
    """How samples lie in a mapped file.

    Args:
        dtype: their NumPy dtype.
        stride: bytes from one sample of a signal to the next.
    """

    dtype: np.dtype
    stride: int


class NumpyGather:
    """Does what `_C_io.Gather` does, segment by segment in NumPy. Tests compare the two, and it is used where the C++
    reader is not built.

    The methods take for n segments `file`, [n] int32, the number of each segment's map, and `ppg` and `ecg`, [n] int64,
    the offsets of their first samples in bytes. They return the problems that they find, [n] uint8.

    Args:
        maps: buffers that hold whole files.
        formats: how samples lie in each map.
        L: samples of a segment.
    """

    def __init__(self, maps: list, formats: list[MapFormat], L: int) -> None:
        self.maps = [np.frombuffer(buffer, np.uint8) for buffer in maps]
        self.formats, self.L = formats, L

    def gather(self, file, ppg, ecg, ppg_out, ecg_out, half, threads, seed=0, epoch=0, items=None) -> np.ndarray:
        """Augment segments if `items` is given, normalise them, and write them to `ppg_out` and `ecg_out`.

        Args:
            file, ppg, ecg: see the class.
            ppg_out, ecg_out: [n, L] float32; rows of segments with a problem are not written.
            half: whether the arithmetic is float16 instead of float32.
            threads: is ignored here.
            seed, epoch: decide the augmentation together with the item.
            items: [n] int64, the numbers of the segments in the data set; None does not augment.
        """
        dtype = np.dtype("float16" if half else "float32")
        found = np.zeros(len(file), np.uint8)
        for i in range(len(file)):
            signals, found[i] = self._signals(file[i], (ppg[i], ecg[i]))
            if found[i]:
                continue
            signals = [convert(x, dtype) for x in signals]
            problem = segment_problem(np.stack(signals, 1), dtype.name)
            if problem:
                found[i] = _bit(problem, dtype.name)
                continue
            if items is not None:
                rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, int(items[i])]))
                draws = draw_augmentation(rng), draw_augmentation(rng)
                signals = [augmented(x, draw, k == 1) for k, (x, draw) in enumerate(zip(signals, draws, strict=True))]
            ppg_out[i], ecg_out[i] = map(min_max, signals)
        return found

    def inspect(self, file, ppg, ecg, threads) -> np.ndarray:
        """Find the problems of each segment in float16 and in float32 arithmetic."""
        found = np.zeros(len(file), np.uint8)
        for i in range(len(file)):
            signals, found[i] = self._signals(file[i], (ppg[i], ecg[i]))
            for name in ("float16", "float32") if not found[i] else ():
                for x in signals:
                    found[i] |= _bit(segment_problem(convert(x, np.dtype(name))[:, None], name), name)
        return found

    def copy(self, file, ppg, ecg, ppg_out, ecg_out, threads) -> np.ndarray:
        """Copy the samples as they are, in native byte order, to `ppg_out` and `ecg_out`, uint8
        [n, L * bytes of a sample]."""
        found = np.zeros(len(file), np.uint8)
        for i in range(len(file)):
            signals, found[i] = self._signals(file[i], (ppg[i], ecg[i]))
            for x, out in zip(signals, (ppg_out, ecg_out), strict=False):
                out[i] = x.astype(x.dtype.newbyteorder("="), order="C").view(np.uint8)
        return found

    def resident(self, file, ppg) -> float:
        """The share of the segments that the page cache holds; always 1, because NumPy cannot tell."""
        return 1.0

    def _signals(self, file: int, offsets: tuple[int, int]) -> tuple[list[np.ndarray], int]:
        dtype, stride = self.formats[file]
        data, signals = self.maps[file], []
        for offset in offsets:
            if not 0 <= offset <= len(data) - (self.L - 1) * stride - dtype.itemsize:
                return [], problems.OUTSIDE
            signals.append(np.ndarray((self.L,), dtype, data, int(offset), (stride,)))
        return signals, 0


def convert(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`x` as `dtype` in native byte order; values that overflow become infinite, without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(dtype)


def make_gather(maps: list, formats: list[MapFormat], L: int, impl: str = "auto"):
    """The reader over memory maps.

    Args:
        maps: buffers that hold whole files.
        formats: how samples lie in each map.
        L: samples of a segment.
        impl: "cpu" is the C++ reader, "reference" is `NumpyGather`, "auto" is C++ where it is built, else NumPy.

    Raises:
        ValueError: `impl` is none of these.
        RuntimeError: `impl` is "cpu" and the C++ reader is not built.
    """
    if impl not in ("auto", "cpu", "reference"):
        raise ValueError(f"impl: expected 'auto', 'cpu' or 'reference', got {impl!r}")
    if impl == "cpu" and _C_io is None:
        raise RuntimeError(f"impl: 'cpu' needs the C++ reader, which is not built here ({_WHY_NOT})")
    if impl == "reference" or _C_io is None:
        return NumpyGather(maps, formats, L)
    sizes = [form.dtype.itemsize for form in formats]
    swapped = [not form.dtype.isnative for form in formats]
    return _C_io.Gather(maps, sizes, swapped, [form.stride for form in formats], L)


def gather_arrays(ppg: np.ndarray, ecg: np.ndarray, impl: str = "auto"):
    """A reader over segments in memory.

    Args:
        ppg: [k, L].
        ecg: [k, L].
        impl: see `make_gather`.

    Returns:
        The reader, and the arguments (file, ppg, ecg) of its methods that stand for all k segments.
    """
    both = np.ascontiguousarray(np.stack([ppg, ecg]))
    k, L = ppg.shape
    row = L * both.itemsize
    gather = make_gather([both.view(np.uint8).reshape(-1)], [MapFormat(both.dtype, both.itemsize)], L, impl)
    rows = np.arange(k, dtype=np.int64) * row
    return gather, (np.zeros(k, np.int32), rows, rows + k * row)


def reader_name(impl: str = "auto") -> str:
    """Says in words which reader `make_gather` makes."""
    if impl == "reference":
        return "NumPy"
    if _C_io is None:
        return f"NumPy (the C++ reader is not built: {_WHY_NOT})"
    return f"C++ ({_C_io.kernels()})"


def default_threads() -> int:
    """How many threads read a batch by default: 2 on machines with at least 8 processors, else 1. One thread reads
    hundreds of thousands of segments a second."""
    return 1 if (os.cpu_count() or 1) < 8 else 2


def _bit(problem: str, name: str) -> int:
    bits = {
        ("", "float16"): 0,
        ("", "float32"): 0,
        ("constant", "float16"): problems.CONSTANT_HALF,
        ("constant", "float32"): problems.CONSTANT,
        ("non-finite", "float16"): problems.NON_FINITE_HALF,
        ("non-finite", "float32"): problems.NON_FINITE,
    }
    return bits[problem, name]
