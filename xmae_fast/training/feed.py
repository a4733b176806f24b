"""Batches for training and for validation, copied to the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from xmae_fast.data.loader import SegmentLoader
from xmae_fast.training.config import TrainCfg


class Feed:
    """The training and validation batches (ppg, ecg) of one process, [B, L] each, on its device.

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

    def __init__(self, cfg: TrainCfg, device: torch.device, rank: int, world_size: int, progress: Any = None) -> None:
        self.cfg, self.device = cfg, device
        shared = world_size * cfg.accumulate
        if cfg.batch_size % shared:
            raise ValueError(
                f"batch_size: expected a multiple of {shared} (processes x accumulate = {world_size} x"
                f" {cfg.accumulate}), because it is the number of segments of all of them, got {cfg.batch_size}"
            )
        common = {
            "batch_size": cfg.batch_size // world_size, "quality": cfg.quality, "seed": cfg.seed,
            "layout": cfg.make_layout(), "cache_dir": cfg.cache_dir, "num_threads": cfg.num_threads,
            "exclude_prefixes": tuple(cfg.exclude_prefixes), "rank": rank, "world_size": world_size,
            "pin_memory": device.type == "cuda", "progress": progress,
        }  # fmt: skip
        own = cfg.val_data is not None
        self.train = SegmentLoader(
            cfg.data, shuffle=cfg.shuffle, drop_last=True, split=None if own else "train",
            augment=cfg.augment, **common,
        )  # fmt: skip
        self.val = SegmentLoader(
            cfg.val_data if own else cfg.data, shuffle=False, pad=False, split=None if own else "val",
            augment="published" if cfg.augment == "published" else False, **common,
        )  # fmt: skip
        self._check()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def waited_s(self) -> float:
        """Seconds that training has waited for batches so far."""
        return self.train.stats.wait_s

    def training(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the next epoch, or of what is left of one after `train.load_state_dict`."""
        return map(self.to_device, self.train)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of all validation segments of this process, the same in every pass."""
        self.val.set_epoch(0)
        return map(self.to_device, self.val)

    def batch(self, epoch: int, number: int) -> dict[str, Tensor]:
        """A training batch as the loader gave it, read again.

        Args:
            epoch: number of the epoch, from 0.
            number: number of the batch in it, from 0.

        Returns:
            "ppg" and "ecg" [B, L], "segment" and "subject" [B], on the CPU.
        """
        size = self.train.batch_size
        items = self.train.order(epoch)[number * size : (number + 1) * size].astype("int64")
        ppg, ecg = torch.empty(2, len(items), self.train.segments.seq_len)
        good = torch.from_numpy(self.train.segments.read(items, epoch, ppg.numpy(), ecg.numpy()))
        signals = {"ppg": ppg[good], "ecg": ecg[good], "segment": torch.from_numpy(items)[good]}
        return signals | {"subject": torch.from_numpy(self.train.segments.subject_of(items))[good]}

    def to_device(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(ppg, ecg) on the device, exchanged where the run swaps them. Copies to a GPU run while it computes."""
        ppg, ecg = batch["ppg"], batch["ecg"]
        if self._stream is not None:
            with torch.cuda.stream(self._stream):
                ppg, ecg = (x.to(self.device, non_blocking=True) for x in (ppg, ecg))
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._stream)
            for x in (ppg, ecg):
                x.record_stream(current)
        return (ecg, ppg) if self.cfg.swap_signals else (ppg, ecg)

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
