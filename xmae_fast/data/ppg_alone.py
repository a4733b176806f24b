"""Shards without ECG, and shards with ECG of which the PPG alone is read."""

import mmap
from collections.abc import Sequence

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.formats.shards import open_shard
from xmae_fast.data.gather import gather_arrays, make_gather
from xmae_fast.data.index.segment_index import SegmentIndex, Shard
from xmae_fast.data.index.segment_reader import SegmentReader

_CHUNK = 4096  # segments that are looked at at a time


def signals_of(shards: Sequence[Shard], signals: str | None, layout: Layout) -> str:
    """Which signals are read of shards, "both" or "ppg".

    Args:
        shards: the shards.
        signals: what was asked for; None asks for "ppg" if no shard has ECG.
        layout: of the shards.

    Raises:
        ValueError: "both" was asked for and a shard has no ECG; the message names the shard.
    """
    alone = [shard for shard in shards if shard.header.signals == "ppg"]
    if signals is None:
        signals = "ppg" if len(alone) == len(shards) else "both"
    if signals == "both" and alone:
        raise ValueError(
            f"shard {alone[0].path}: expected PPG and ECG, as pretraining needs, found no data set {layout.ecg!r}"
            ' (signals="ppg" reads the PPG alone)'
        )
    return signals


def problems_of_ppg(index: SegmentIndex, layout: Layout) -> np.ndarray:
    """What is wrong with the PPG of each segment, [n] uint8.

    The index does not say which of two signals is bad. So the PPG of segments with bad values is looked at once more.
    """
    found = index.problem
    again = np.flatnonzero((found != 0) & (found & problems.STRUCTURE == 0))
    files = index.shard_of(again)
    again = again[[index.shards[i].header.signals == "both" for i in files.tolist()]]
    if not len(again):
        return found
    found, files = found.copy(), index.shard_of(again)
    for i in np.unique(files).tolist():
        look = _in_map if index.shards[i].mapped else _through_h5py
        look(index, index.shards[i], again[files == i], layout, found)
    return found


def _in_map(index: SegmentIndex, shard: Shard, rows: np.ndarray, _: Layout, found: np.ndarray) -> None:
    """Set `found` for the segments `rows` of a shard that can be mapped."""
    with open(shard.path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    gather = make_gather([mapping], [shard.format], shard.header.seq_len)
    places = index.ppg_offset[rows]
    found[rows] = gather.inspect(np.zeros(len(rows), np.int32), places, places, 1)


def _through_h5py(index: SegmentIndex, shard: Shard, rows: np.ndarray, layout: Layout, found: np.ndarray) -> None:
    """Set `found` for the segments `rows` of a shard that h5py must read."""
    keys = shard.sidecar.keys() if shard.header.form == "published" else None
    with open_shard(shard.path) as file:
        reader = SegmentReader(file, layout, shard.header, keys, "ppg")
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            ppg, again, unreadable = reader(some - shard.start)
            gather, arguments = gather_arrays(ppg, again)
            found[some] = unreadable | gather.inspect(*arguments, 1)
