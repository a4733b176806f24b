"""Loading segments: item by item, through DataLoader, and in batches with h5py. One call is one epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from benchmarks.contest import BASELINE, PLAIN, Contestant, Group
from benchmarks.context import Context
from benchmarks.numerics import check_equal, raise_if_out_of_bounds
from benchmarks.timing import Run
from xmae_fast.data import PlainSegmentDataset
from xmae_fast.testing import Error, relative_error

B = 64
NAMES = ("ppg", "ecg")
Pair = tuple[Tensor, Tensor]  # ppg, ecg [B, L]
Epoch = Callable[[], Iterator[Pair]]


def groups(context: Context) -> Iterator[Group]:
    """One epoch of the shards; few segments are read several times over. More loaders are more contestants."""
    size = 512 if context.quick else 2048
    with context.dataset() as dataset:
        order = np.resize(np.arange(len(dataset)), size).tolist()
        loaders = {
            "item by item": lambda: _by_item(dataset, order),
            "DataLoader, 0 workers": lambda: _by_loader(dataset, order, 0),
            "DataLoader, 2 workers": lambda: _by_loader(dataset, order, 2),
            "h5py, batch at a time": lambda: _by_batch(dataset, order),
        }
        yield Group(
            f"loader: an epoch of {size} segments in batches of {B}",
            [_contestant(name, make, dataset, order) for name, make in loaders.items()],
            items=size,
            unit="segments",
        )


def _contestant(name: str, make: Callable[[], Epoch], dataset: PlainSegmentDataset, order: list[int]) -> Contestant:
    def build() -> Run:
        epoch = make()

        def run(i: int) -> list[Pair]:
            return list(epoch())

        return run

    if name == "item by item":
        return Contestant(name, build, lambda run: _check_items(run, dataset, order), PLAIN)
    return Contestant(name, build, lambda run: _check_batches(run, dataset, order), BASELINE)


def _by_item(dataset: PlainSegmentDataset, order: list[int]) -> Epoch:
    def epoch() -> Iterator[Pair]:
        for rows in _batched(order):
            items = default_collate([dataset[row] for row in rows])
            yield items["ppg"], items["ecg"]

    return epoch


def _by_loader(dataset: PlainSegmentDataset, order: list[int], workers: int) -> Epoch:
    loader = DataLoader(dataset, B, sampler=order, num_workers=workers, persistent_workers=workers > 0)
    return lambda: ((items["ppg"], items["ecg"]) for items in loader)


def _by_batch(dataset: PlainSegmentDataset, order: list[int]) -> Epoch:
    """Records read straight into one array, then normalised together, in float16 as published."""
    files = {record.path: h5py.File(record.path, "r") for record in dataset.records}
    L = len(dataset[0]["ppg"])

    def epoch() -> Iterator[Pair]:
        for rows in _batched(order):
            raw = np.empty((len(rows), L, 3), np.float16)
            for target, record in zip(raw, (dataset.records[row] for row in rows), strict=True):
                files[record.path][record.subject][record.key].read_direct(target)
            signals = np.ascontiguousarray(raw[:, :, 1:].transpose(2, 0, 1))
            low, high = signals.min(-1, keepdims=True), signals.max(-1, keepdims=True)
            ppg, ecg = torch.from_numpy((2 * (signals - low) / (high - low) - 1).astype(np.float32))
            yield ppg, ecg

    return epoch


def _batched(order: list[int]) -> Iterator[list[int]]:
    return (order[start : start + B] for start in range(0, len(order), B))


def _check_items(run: Run, dataset: PlainSegmentDataset, order: list[int]) -> list[Error]:
    """Against normalisation in float64 of what the file holds; float16 arithmetic may be off by four roundings."""
    errors = []
    got = [torch.cat(batches) for batches in zip(*run(0), strict=True)]
    records = [dataset.records[row] for row in order]
    for column, (name, signals) in enumerate(zip(NAMES, got, strict=True), start=1):
        raw = np.stack([_raw(record)[:, column] for record in records]).astype(np.float64)
        low, high = raw.min(1, keepdims=True), raw.max(1, keepdims=True)
        want = torch.from_numpy(2 * (raw - low) / (high - low) - 1)
        errors.append(Error(name, relative_error(signals, want), 4 * torch.finfo(torch.float16).eps))
    return raise_if_out_of_bounds(errors)


def _raw(record) -> np.ndarray:
    with h5py.File(record.path, "r") as file:
        return file[record.subject][record.key][()]


def _check_batches(run: Run, dataset: PlainSegmentDataset, order: list[int]) -> list[Error]:
    """Bit for bit what the data set's items hold, in the same order."""
    got = [torch.cat(batches) for batches in zip(*run(0), strict=True)]
    items = [dataset[row] for row in order]
    want = [torch.stack([item[name] for item in items]) for name in NAMES]
    return check_equal(tuple(got), tuple(want), NAMES)
