"""One pass over a shard: where each segment lies, whose it is, how good it is, and what is wrong with it."""

import mmap

import numpy as np

from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.formats.shards import open_shard
from xmae_fast.data.gather import MapFormat, gather_arrays, make_gather
from xmae_fast.data.index.scan_packed import scan_packed
from xmae_fast.data.index.scan_published import scan_published
from xmae_fast.data.index.segment_reader import SegmentReader
from xmae_fast.data.index.shard_scan import Scan
from xmae_fast.workers.progress import StageProgress

_CHUNK = 4096  # records whose values are checked at a time
_VERIFIED = 16  # records that are compared with what h5py reads


def scan_shard(path: str, layout: Layout, progress: StageProgress | None = None) -> Scan:
    """Scan a shard and look at every value once.

    Records that are malformed, of another shape, or unusable are kept, and `ShardRows.problem` says what is wrong.

    Args:
        path: an HDF5 file.
        layout: the names of its data sets and columns.
        progress: is called with (records that are done, records in all, None while these are still being counted).

    Raises:
        FileNotFoundError: there is no file at `path`.
        BlockingIOError: another process has the file, or one that it links to, open for writing.
        ValueError: the file is no HDF5 file, is cut short, or holds no segment.
    """
    progress = progress or (lambda done, total: None)
    with open_shard(path) as file:
        try:
            scan = scan_packed(file, layout) if layout.is_packed(file) else scan_published(file, layout, progress)
        except ValueError as error:
            raise ValueError(f"shard {path}: {error}") from error
        except BlockingIOError:
            raise
        except (KeyError, OSError, RuntimeError, TypeError, UnicodeError, MemoryError) as error:
            raise ValueError(f"shard {path}: expected a readable HDF5 file ({error})") from error
        reader = SegmentReader(file, layout, scan.header, scan.keys)
        if scan.header.mapped:
            problem = _problems_in_map(path, scan, reader, progress)
            if problem is not None:
                return scan.with_problems(problem)
            scan = scan.unmapped("the bytes at the stated places are not what h5py reads")
        return scan.with_problems(_problems_read(scan, reader, progress))


def inspect_arrays(ppg: np.ndarray, ecg: np.ndarray) -> np.ndarray:
    """The problems of segments in memory.

    Args:
        ppg: [n, L].
        ecg: [n, L].

    Returns:
        [n] uint8, bits of `xmae_fast.data.problems`.
    """
    gather, arguments = gather_arrays(ppg, ecg)
    return gather.inspect(*arguments, 1)


def _problems_in_map(path: str, scan: Scan, reader: SegmentReader, progress: StageProgress) -> np.ndarray | None:
    """The problems of all segments, [n] uint8, found through a memory map; None where the map does not hold what h5py
    reads, so that the file must not be mapped."""
    header, found = scan.header, scan.rows.problem.copy()
    good = np.flatnonzero(found == 0)
    sample = good[np.linspace(0, len(good) - 1, min(_VERIFIED, len(good))).astype(int)] if len(good) else good
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    gather = make_gather([mapping], [MapFormat(np.dtype(header.dtype), header.stride)], header.seq_len)
    ppg, ecg = _places(scan)
    if not _map_holds(gather, scan, reader, sample):
        return None
    for start in range(0, len(good), _CHUNK):
        some = good[start : start + _CHUNK]
        files = np.zeros(len(some), np.int32)
        found[some] |= gather.inspect(files, ppg[some], ecg[some], 1)
        progress(start + len(some), len(good))
    return found


def _map_holds(gather, scan: Scan, reader: SegmentReader, sample: np.ndarray) -> bool:
    """Whether the segments `sample` [k] have the same samples in the map as h5py reads."""
    header = scan.header
    size = np.dtype(header.dtype).itemsize
    copies = [np.zeros((len(sample), header.seq_len * size), np.uint8) for _ in range(2)]
    files = np.zeros(len(sample), np.int32)
    found = gather.copy(files, *(places[sample] for places in _places(scan)), *copies, 1)
    *signals, unreadable = reader(sample)
    inside = (found == 0) & (unreadable == 0)
    native = np.dtype(header.dtype).newbyteorder("=")
    return all(
        np.array_equal(copy[inside], np.ascontiguousarray(x.astype(native)).view(np.uint8)[inside])
        for copy, x in zip(copies, signals, strict=True)
    )


def _places(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The offsets of PPG and ECG, [n] each; in a shard without ECG those of the PPG twice."""
    rows = scan.rows
    return rows.ppg_offset, rows.ppg_offset if scan.header.signals == "ppg" else rows.ecg_offset


def _problems_read(scan: Scan, reader: SegmentReader, progress: StageProgress) -> np.ndarray:
    """The problems of all segments, [n] uint8, found through h5py."""
    found = scan.rows.problem.copy()
    good = np.flatnonzero(found == 0)
    for start in range(0, len(good), _CHUNK):
        some = good[start : start + _CHUNK]
        ppg, ecg, unreadable = reader(some)
        found[some] = unreadable | np.where(unreadable == 0, inspect_arrays(ppg, ecg), 0).astype(np.uint8)
        progress(start + len(some), len(good))
    return found
