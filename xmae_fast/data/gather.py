"""Segments from memory maps to batches: the C++ reader, or NumPy where it was not built. Both give the same bits."""

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
    """Elements of a mapped file: NumPy dtype and the distance in bytes from one sample to the next."""

    dtype: np.dtype
    stride: int


class NumpyGather:
    """What `_C_io.Gather` does, segment by segment in NumPy: its oracle, and its stand-in.

    maps: buffers; formats: of each; L: samples. Methods take `file` (n,) int32 into maps and the byte offsets of each
    segment's first PPG and ECG sample, (n,) int64, and return the problems found, (n,) uint8."""

    def __init__(self, maps: list, formats: list[MapFormat], L: int) -> None:
        self.maps = [np.frombuffer(buffer, np.uint8) for buffer in maps]
        self.formats, self.L = formats, L

    def gather(self, file, ppg, ecg, ppg_out, ecg_out, half, threads, seed=0, epoch=0, items=None) -> np.ndarray:
        """Augment (where `items` is given), normalise and write the rows of `ppg_out`, `ecg_out` (n, L) float32; rows
        with a problem are left alone."""
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
        """The problems of each segment, of float16 and of float32 arithmetic."""
        found = np.zeros(len(file), np.uint8)
        for i in range(len(file)):
            signals, found[i] = self._signals(file[i], (ppg[i], ecg[i]))
            for name in ("float16", "float32") if not found[i] else ():
                for x in signals:
                    found[i] |= _bit(segment_problem(convert(x, np.dtype(name))[:, None], name), name)
        return found

    def copy(self, file, ppg, ecg, ppg_out, ecg_out, threads) -> np.ndarray:
        """The elements as they are, in native byte order, to (n, L * element size) uint8."""
        found = np.zeros(len(file), np.uint8)
        for i in range(len(file)):
            signals, found[i] = self._signals(file[i], (ppg[i], ecg[i]))
            for x, out in zip(signals, (ppg_out, ecg_out), strict=False):
                out[i] = x.astype(x.dtype.newbyteorder("="), order="C").view(np.uint8)
        return found

    def resident(self, file, ppg) -> float:
        """Always 1: NumPy cannot tell what the page cache holds."""
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
    """`x` as a native `dtype`; what overflows becomes infinite, in silence."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(dtype)


def make_gather(maps: list, formats: list[MapFormat], L: int, impl: str = "auto"):
    """The reader over `maps`: "cpu" is C++, "reference" NumPy, "auto" the first that is there."""
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
    """A reader over segments in memory, (k, L) each, and its arguments (file, ppg offsets, ecg offsets) for all."""
    both = np.ascontiguousarray(np.stack([ppg, ecg]))
    k, L = ppg.shape
    row = L * both.itemsize
    gather = make_gather([both.view(np.uint8).reshape(-1)], [MapFormat(both.dtype, both.itemsize)], L, impl)
    rows = np.arange(k, dtype=np.int64) * row
    return gather, (np.zeros(k, np.int32), rows, rows + k * row)


def reader_name(impl: str = "auto") -> str:
    """Which reader `make_gather` takes, in words."""
    if impl == "reference" or (_C_io is None and impl == "auto"):
        return "NumPy" if impl == "reference" else f"NumPy (the C++ reader is not built: {_WHY_NOT})"
    return f"C++ ({_C_io.kernels()})"


def default_threads() -> int:
    """One thread feeds hundreds of thousands of segments a second; machines with many cores give it two."""
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
