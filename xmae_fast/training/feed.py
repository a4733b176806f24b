"""Batches for training and for validation, copied to the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from xmae_fast.data.loader import SegmentLoader
from xmae_fast.data.segments import Segments
from xmae_fast.training.config import TrainCfg
from xmae_fast.training.records import describe_data
from xmae_fast.training.simulated import SimulatedLoader, SimulatedValidation


def make_feed(cfg: TrainCfg, device: torch.device, rank: int, world_size: int, progress: Any = None) -> Feed:
    """The batches of one process: of shards, or simulated.

    Args:
        cfg: the configuration of the run.
        device: where the batches go.
        rank: the number of this process.
        world_size: how many processes share each batch.
        progress: as for `SegmentLoader`.

    Raises:
        ValueError: there are no segments, their length or rate is not the model's, or batch_size cannot be shared by
            the processes and parts or exceeds the number of training segments.
    """
    shared = world_size * cfg.accumulate
    if cfg.batch_size % shared:
        raise ValueError(
            f"batch_size: expected a multiple of {shared} (processes x accumulate = {world_size} x"
            f" {cfg.accumulate}), because it is the number of segments of all of them, got {cfg.batch_size}"
        )
    if cfg.simulated:
        return SimulatedFeed(cfg, device, rank, world_size)
    return ShardFeed(cfg, device, rank, world_size, progress)


class Feed(ABC):
    """The training and validation batches (ppg, ecg) of one process, [B, L] each, on its device.

    Attributes:
        cfg: the configuration of the run.
        device: where the batches go.
        train: the loader of the batches to train on.
        val: the batches to validate on.
    """

    train: SegmentLoader | SimulatedLoader
    val: SegmentLoader | SimulatedValidation

    def __init__(self, cfg: TrainCfg, device: torch.device) -> None:
        self.cfg, self.device = cfg, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def waited_s(self) -> float:
        """Seconds that training has waited for batches so far."""
        return self.train.stats.wait_s

    def training(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches of the next epoch, or of what is left of one after `train.load_state_dict`.

        With a `truth_weight` there is a third tensor, the truth of the segments (`truth_of`)."""
        return map(self.to_device, self.train)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of all validation segments of this process, the same in every pass."""
        self.val.set_epoch(0)
        for batch in self.val:
            ppg, ecg, *_ = self.to_device(batch)
            yield ppg, ecg

    @abstractmethod
    def batch(self, epoch: int, number: int) -> dict[str, Tensor]:
        """A training batch as the loader gave it, read again.

        Args:
            epoch: number of the epoch, from 0.
            number: number of the batch in it, from 0.

        Returns:
            "ppg" and "ecg" [B, L], "segment" and "subject" [B], on the CPU.
        """

    @abstractmethod
    def segments(self) -> dict[str, Segments]:
        """The segments of shards by key of the configuration, for processes to compare."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What is trained and validated on, as plain values."""

    @abstractmethod
    def __str__(self) -> str:
        """What is trained and validated on, in a line."""

    @abstractmethod
    def close(self) -> None:
        """End what works in the background."""

    def to_device(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """(ppg, ecg), and the truth where it is trained on, on the device; signals are exchanged where the run swaps
        them. Copies to a GPU run while it computes."""
        names = ("ppg", "ecg", "truth") if self.cfg.truth_weight and "truth" in batch else ("ppg", "ecg")
        tensors = [batch[name] for name in names]
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                tensors = [x.to(self.device, non_blocking=True) for x in tensors]
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._stream)
            for x in tensors:
                x.record_stream(current)
        ppg, ecg, *others = tensors
        return (ecg, ppg, *others) if self.cfg.swap_signals else (ppg, ecg, *others)


class ShardFeed(Feed):
    """Batches of the segments of shards; for the arguments see `make_feed`."""

    train: SegmentLoader
    val: SegmentLoader

    def __init__(self, cfg: TrainCfg, device: torch.device, rank: int, world_size: int, progress: Any = None) -> None:
        super().__init__(cfg, device)
        common = {
            "batch_size": cfg.batch_size // world_size, "quality": cfg.quality, "seed": cfg.seed,
            "layout": cfg.make_layout(), "cache_dir": cfg.cache_dir, "num_threads": cfg.num_threads,
            "exclude_prefixes": tuple(cfg.exclude_prefixes), "rank": rank, "world_size": world_size,
            "progress": progress,
        }  # fmt: skip
        pinned = {"pin_memory": device.type == "cuda"}
        own = cfg.val_data is not None
        self.train = SegmentLoader(
            cfg.data, shuffle=cfg.shuffle, drop_last=True, split=None if own else "train", augment=cfg.augment,
            **({"resident": True, "device": device} if cfg.resident else pinned), **common,
        )  # fmt: skip
        self.val = SegmentLoader(
            cfg.val_data if own else cfg.data, shuffle=False, pad=False, split=None if own else "val",
            augment="published" if cfg.augment == "published" else False, **pinned, **common,
        )  # fmt: skip
        self._check()

    def batch(self, epoch: int, number: int) -> dict[str, Tensor]:
        """See `Feed.batch`."""
        size = self.train.batch_size
        items = self.train.order(epoch)[number * size : (number + 1) * size].astype("int64")
        ppg, ecg = torch.empty(2, len(items), self.train.segments.seq_len)
        good = torch.from_numpy(self.train.segments.read(items, epoch, ppg.numpy(), ecg.numpy()))
        signals = {"ppg": ppg[good], "ecg": ecg[good], "segment": torch.from_numpy(items)[good]}
        return signals | {"subject": torch.from_numpy(self.train.segments.subject_of(items))[good]}

    def segments(self) -> dict[str, Segments]:
        """See `Feed.segments`."""
        return {"data": self.train.segments, "val_data": self.val.segments}

    def describe(self) -> dict[str, Any]:
        """See `Feed.describe`."""
        return {"train": describe_data(self.train.segments), "val": describe_data(self.val.segments)}

    def close(self) -> None:
        """See `Feed.close`; the loaders end their threads themselves."""

    def __str__(self) -> str:
        train, val = self.train.segments, self.val.segments
        return (
            f"{len(train):,} segments of {len(train.subjects):,} subjects to train on, {len(val):,} of"
            f" {len(val.subjects):,} to validate"
        )

    def _check(self) -> None:
        model, segments = self.cfg.model_cfg(), self.train.segments
        for name, loader in (("data", self.train), ("val_data", self.val)):
            if loader.segments.seq_len != model.seq_len:
                raise ValueError(
                    f"seg_len: expected that of the shards, {loader.segments.seq_len} samples in {name}, got"
                    f" {model.seq_len} (sampling_freq x seg_len)"
                )
            rate = loader.segments.sampling_freq
            if rate is not None and abs(rate - model.sampling_freq) > 1e-6 * rate:
                got = f"{model.sampling_freq:g}"
                raise ValueError(f"sampling_freq: expected that of the shards, {rate:g} Hz, got {got}")
        if not len(self.train):
            raise ValueError(
                f"batch_size: expected at most the {len(segments)} training segments, got {self.cfg.batch_size}"
            )


class SimulatedFeed(Feed):
    """Batches of simulated patients; for the arguments see `make_feed`."""

    train: SimulatedLoader
    val: SimulatedValidation

    def __init__(self, cfg: TrainCfg, device: torch.device, rank: int, world_size: int) -> None:
        super().__init__(cfg, device)
        self.source = cfg.make_simulation()
        if cfg.batch_size > self.source.segments:
            raise ValueError(
                f"batch_size: expected at most the {self.source.segments} segments of an epoch"
                f" (simulation.segments), got {cfg.batch_size}"
            )
        share: dict[str, Any] = {"batch_size": cfg.batch_size // world_size, "rank": rank, "world_size": world_size}
        self.train = SimulatedLoader(self.source, pin_memory=device.type == "cuda", **share)
        self.val = SimulatedValidation(self.source, **share)

    def batch(self, epoch: int, number: int) -> dict[str, Tensor]:
        """See `Feed.batch`."""
        return self.train.read(epoch, number)

    def segments(self) -> dict[str, Segments]:
        """See `Feed.segments`; there are no shards."""
        return {}

    def describe(self) -> dict[str, Any]:
        """See `Feed.describe`."""
        return {"simulation": asdict(self.source)}

    def __str__(self) -> str:
        source = self.source
        return (
            f"simulated patients, seed {source.seed}: {source.segments:,} new segments an epoch to train on,"
            f" {source.val_segments:,} others to validate"
        )

    def close(self) -> None:
        """End the workers that simulate."""
        self.train.close()
