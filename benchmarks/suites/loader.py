"""Loading segments: how many a second one core and the machine deliver, from the page cache and from the disk.

One call is an epoch in random order, or the stated part of one for those that would take too long. Rates of copying and
of plain reading stand beside them for information.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from benchmarks.harness.contest import BASELINE, INFO, OURS, PLAIN, Contestant, Group
from benchmarks.harness.context import Context
from benchmarks.harness.numerics import check_equal
from benchmarks.harness.segment_files import SegmentFiles, forget, one_core, segment_files
from benchmarks.harness.timing import Run
from benchmarks.suites import loader_index, loader_training
from xmae_fast.data import PlainSegmentDataset, SegmentDataset, SegmentLoader, load_segments
from xmae_fast.testing import Error

B = 512
NAMES = ("ppg", "ecg")
Pair = tuple[Tensor, Tensor]  # ppg, ecg [B, L]
Pass = Callable[[np.ndarray], Iterator[Pair]]  # the segments of an order, in batches
PART = 0.1  # of an epoch, for loaders that take seconds


def groups(context: Context) -> Iterator[Group]:
    """One core, augmentation, the whole machine, a cold cache; then the index, and a training step fed by a loader."""
    with segment_files(context, (8 if context.quick else 40) * B) as files:
        contests = _Contests(files)
        yield contests.one_core()
        yield contests.augmented()
        yield contests.whole_machine()
        yield contests.cold()
        yield contests.first_batch()
    yield from loader_training.groups(context)
    yield from loader_index.groups(context)


class _Contests:
    """Contestants over one set of files; all are checked against what the plain data set holds."""

    def __init__(self, files: SegmentFiles) -> None:
        self.files = files
        self.order = np.random.default_rng(0).permutation(files.count)
        self.plain = PlainSegmentDataset(files.published, on_bad="raise")
        self.want = load_segments(files.published)

    def one_core(self) -> Group:
        slow = {
            "item by item, as published": (self._by_item, PLAIN),
            "DataLoader, 0 workers": (lambda: self._by_data_loader(self.plain, 0), BASELINE),
            "h5py, batch at a time": (self._by_h5py, BASELINE),
            "NumPy over a memory map": (self._by_numpy, BASELINE),
        }
        contestants = [self._contestant(name, *made, share=PART) for name, made in slow.items()]
        ours = {"SegmentLoader": self.files.published, "SegmentLoader, packed file": self.files.packed}
        contestants += [self._loader(name, path) for name, path in ours.items()]
        contestants.append(self._copy())
        return self._group("one core", contestants)

    def augmented(self) -> Group:
        dataset = PlainSegmentDataset(self.files.published, on_bad="raise", augment=True)
        want = self._augmented(dataset)
        contestants = [
            self._contestant("item by item, as published", lambda: self._by_item(dataset), PLAIN, PART, want),
            self._loader("SegmentLoader", self.files.published, want, augment=True),
        ]
        return self._group("one core, augmented", contestants)

    def whole_machine(self) -> Group:
        mapped = SegmentDataset(self.files.published)
        contestants = [
            self._contestant(
                "DataLoader, 2 workers", lambda: self._by_data_loader(self.plain, 2), PLAIN, 0.5, pinned=False
            ),
            self._contestant(
                "DataLoader over SegmentDataset, 0 workers", lambda: self._by_data_loader(mapped, 0), OURS, pinned=False
            ),
            self._contestant(
                "DataLoader over SegmentDataset, 2 workers", lambda: self._by_data_loader(mapped, 2), OURS, pinned=False
            ),
            self._loader("SegmentLoader, 1 thread", self.files.published, pinned=False),
            self._loader("SegmentLoader, 2 threads", self.files.published, pinned=False, num_threads=2),
        ]
        return self._group("all cores", contestants)

    def cold(self) -> Group:
        """Every pass begins with an empty page cache; the file is another one than that of the other contests, which
        keep theirs mapped."""
        path = self.files.cold
        contestants = [
            self._contestant("plain read, end to end", lambda: self._sequential, INFO, check=_no_check, pinned=False),
            self._contestant(
                "h5py, batch at a time", lambda: self._by_h5py(path), PLAIN, PART, pinned=False, cold=True
            ),
            self._loader("SegmentLoader, shuffle=True", path, pinned=False, cold=True),
            self._loader("SegmentLoader, shuffle='blocks'", path, pinned=False, cold=True, shuffle="blocks"),
        ]
        return self._group("file not in the page cache", contestants)

    def first_batch(self) -> Group:
        """From the call to the first batch, index at hand, file not in the page cache."""

        def build() -> Run:
            def run(i: int) -> Pair:
                forget(self.files.cold)
                batch = next(iter(SegmentLoader(self.files.cold, B, shuffle="blocks")))
                return batch["ppg"], batch["ecg"]

            return run

        def check(run: Run) -> list[Error]:
            order = SegmentLoader(self.files.cold, B, shuffle="blocks").order()[:B]
            return check_equal(run(0), tuple(x[order] for x in self.want), NAMES)

        title = f"loader: first batch of {B} from a file of {self.files.size / 1e6:.0f} MB not in the page cache"
        ours = Contestant("SegmentLoader, opening included", build, check, OURS)
        return Group(title, [ours], items=B, unit="segments")

    def _group(self, title: str, contestants: list[Contestant]) -> Group:
        count, L = self.files.count, self.files.L
        touched = count * L * (3 * 2 + 2 * 4)  # float16 records of three columns in, two float32 signals out
        title = f"loader, {title}: an epoch of {count:,} segments in batches of {B}"
        return Group(title, contestants, items=count, unit="segments", bytes_moved=touched)

    def _contestant(
        self, name: str, make: Callable[[], Pass], role: str, share: float = 1.0, want: Pair | None = None,
        check: Callable[[Run], list[Error]] | None = None, pinned: bool = True, cold: bool = False,
    ) -> Contestant:  # fmt: skip
        parts = np.array_split(self.order, round(1 / share))

        def build() -> Run:
            make_pass = make()

            def run(i: int) -> list[Pair]:
                if cold:
                    forget(self.files.cold)
                with one_core() if pinned else nullcontext():
                    return _consumed(make_pass(parts[i % len(parts)]))

            run.batches = lambda: list(make_pass(parts[0]))
            return run

        def compare(run: Run) -> list[Error]:
            got = tuple(torch.cat(signal) for signal in zip(*run.batches(), strict=True))
            return check_equal(got, tuple(x[parts[0]] for x in want or self.want), NAMES)

        note = f"{share:.0%} of the epoch is timed, times are divided by that" if share < 1 else ""
        return Contestant(name, build, check or compare, role, note, share=share)

    def _loader(
        self, name: str, path: str, want: Pair | None = None, pinned: bool = True, cold: bool = False, **options
    ) -> Contestant:
        """One epoch of a SegmentLoader, its background thread started and ended; the order is its own."""

        def build() -> Run:
            loader = SegmentLoader(path, B, **options)

            def run(i: int) -> int:
                if cold:
                    forget(path)
                loader.set_epoch(0)
                with one_core() if pinned else nullcontext():
                    count = _consumed((batch["ppg"], batch["ecg"]) for batch in loader)
                if cold:
                    loader.segments.close()  # pages that are mapped stay in the cache
                return count

            run.loader = loader
            return run

        def check(run: Run) -> list[Error]:
            run.loader.set_epoch(0)
            order = run.loader.order()
            batches = list(run.loader)
            run.loader.segments.close()
            got = tuple(torch.cat([batch[signal] for batch in batches]) for signal in NAMES)
            return check_equal(got, tuple(x[order] for x in want or self.want), NAMES)

        return Contestant(name, build, check, OURS)

    def _by_item(self, dataset: PlainSegmentDataset | None = None) -> Pass:
        dataset = dataset or self.plain

        def batches(order: np.ndarray) -> Iterator[Pair]:
            dataset.set_epoch(0)
            for rows in _batched(order):
                items = default_collate([dataset[row] for row in rows.tolist()])
                yield items["ppg"], items["ecg"]

        return batches

    def _by_data_loader(self, dataset, workers: int) -> Pass:
        """Workers live on from pass to pass."""
        sampler: list[int] = []
        loader = DataLoader(dataset, B, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)

        def batches(order: np.ndarray) -> Iterator[Pair]:
            sampler[:] = order.tolist()
            return ((items["ppg"], items["ecg"]) for items in loader)

        return batches

    def _by_h5py(self, path: str = "") -> Pass:
        """Records read straight into one array, then normalised together, in float16 as published."""
        file, L = h5py.File(path or self.files.published, "r"), self.files.L

        def batches(order: np.ndarray) -> Iterator[Pair]:
            for rows in _batched(order):
                raw = np.empty((len(rows), L, 3), np.float16)
                for target, record in zip(raw, (self.plain.records[row] for row in rows), strict=True):
                    file[record.subject][record.key].read_direct(target)
                yield _normalized(raw)

        return batches

    def _by_numpy(self) -> Pass:
        """The places of the records from HDF5 once, then a gather from a memory map, in NumPy."""
        L = self.files.L
        with h5py.File(self.files.published, "r") as file:
            offsets = [file[r.subject][r.key].id.get_offset() for r in self.plain.records]
        mapping = np.memmap(self.files.published, np.uint8, "r")
        starts = np.array(offsets)

        def batches(order: np.ndarray) -> Iterator[Pair]:
            for rows in _batched(order):
                raw = np.empty((len(rows), L * 6), np.uint8)
                for target, start in zip(raw, starts[rows].tolist(), strict=True):
                    target[:] = mapping[start : start + L * 6]
                yield _normalized(raw.view(np.float16).reshape(-1, L, 3))

        return batches

    def _copy(self) -> Contestant:
        """memcpy of half as many bytes as a loader touches, so that as many are read and written."""
        half = self.files.L * (3 * 2 + 2 * 4) // 2

        def build() -> Run:
            source = np.ones((self.files.count, half), np.uint8)
            targets = np.zeros((4, B, half), np.uint8)

            def run(i: int) -> None:
                with one_core():
                    for number, start in enumerate(range(0, len(source) // B * B, B)):
                        np.copyto(targets[number % 4], source[start : start + B])

            return run

        return Contestant("memcpy of as many bytes", build, _no_check, INFO)

    def _sequential(self, order: np.ndarray) -> Iterator[Pair]:
        forget(self.files.cold)
        buffer = bytearray(1 << 20)
        with open(self.files.cold, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
        return iter(())

    def _augmented(self, dataset: PlainSegmentDataset) -> Pair:
        """What the plain data set gives for every segment."""
        items = [dataset[row] for row in range(self.files.count)]
        return tuple(torch.stack([item[name] for item in items]) for name in NAMES)


def _no_check(run: Run) -> list[Error]:
    return []


def _batched(order: np.ndarray) -> Iterator[np.ndarray]:
    return (order[start : start + B] for start in range(0, len(order), B))


def _consumed(batches: Iterator[Pair]) -> int:
    """Goes through all batches and lets each go, as training does."""
    return sum(len(ppg) for ppg, _ in batches)


def _normalized(raw: np.ndarray) -> Pair:
    signals = np.ascontiguousarray(raw[:, :, 1:].transpose(2, 0, 1))
    low, high = signals.min(-1, keepdims=True), signals.max(-1, keepdims=True)
    ppg, ecg = torch.from_numpy((2 * (signals - low) / (high - low) - 1).astype(np.float32))
    return ppg, ecg
