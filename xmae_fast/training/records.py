"""The losses of a run, and the files and services that its numbers are written to."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from xmae_fast._files import atomic_path
from xmae_fast.data.formats.linked import content_probe
from xmae_fast.data.segments import Segments
from xmae_fast.training.config import TrainCfg

COLUMNS: tuple[str, ...] = (
    "step", "epoch", "loss", "val_loss", "lr", "mask_ratio", "segments_per_s", "data_wait_share", "elapsed_s",
    "truth_loss",
)  # fmt: skip


class NonFiniteLoss(ArithmeticError):
    """The loss of a step, or the weights after it, are NaN or infinite.

    Attributes:
        step: the number of the step, from 0.
        value: its loss.
    """

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"the loss of step {step}, or what it made of the weights, is {value}")
        self.step, self.value = step, value


class Losses:
    """The losses of the steps since the last row. They stay on the device until `read`, which waits for the device."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._unread: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Keep the loss of a step, a scalar."""
        self._unread.append(loss)

    def read(self, next_step: int, world_size: int) -> list[float]:
        """All losses as numbers. Where there are several processes, all must call it, and the losses are their means.

        Args:
            next_step: the number of the next step; the last loss is that of the step before.
            world_size: how many processes there are.

        Raises:
            NonFiniteLoss: of the first step whose loss is not finite.
        """
        if self._unread:
            fresh = torch.stack(self._unread).float()
            self._unread = []
            if world_size > 1:
                distributed.all_reduce(fresh)
                fresh /= world_size
            read = fresh.tolist()
            self.values += read
            for number, value in enumerate(read, next_step - len(read)):
                if not math.isfinite(value):
                    raise NonFiniteLoss(number, value)
        return self.values

    def take_mean(self) -> float:
        """The mean of the losses that have been read, which are then forgotten."""
        mean = math.fsum(self.values) / len(self.values)
        self.values = []
        return mean


class MetricsFile:
    """metrics.csv, with a row every `log_every` steps and a row for each validation; cells that do not apply are empty.

    A resumed run drops the rows of steps after its checkpoint and goes on. (Lightning's CSVLogger deletes the file.)

    Args:
        path: the file.
        resume_step: the step of the checkpoint that the run goes on from; None for a new run.
    """

    def __init__(self, path: Path, resume_step: int | None) -> None:
        rows: list[dict[str, str]] = []
        if resume_step is not None and path.is_file():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a killed process may leave half a line
            rows = [row for row in csv.DictReader(io.StringIO(whole)) if int(row["step"]) <= resume_step]
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self._file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 - closed by close
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")

    def write(self, row: dict[str, float]) -> None:
        """Write a row, some of COLUMNS, at once."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def make_loggers(cfg: TrainCfg, folder: Path, resume_step: int | None, tell: Callable[[str], None]) -> list[Any]:
    """Make Lightning's loggers for TensorBoard and Weights & Biases, if they are asked for and installed.

    Args:
        cfg: the configuration.
        folder: of the run.
        resume_step: the step that the run goes on from; None for a new run.
        tell: shows a line.

    Raises:
        ImportError: wandb is asked for and not installed.
    """
    loggers: list[Any] = []
    if cfg.tensorboard:
        try:
            from lightning.fabric.loggers.tensorboard import TensorBoardLogger

            loggers.append(TensorBoardLogger(folder, name="", version="tensorboard", purge_step=resume_step))
        except ImportError:
            tell("tensorboard is not installed: metrics.csv is the only log")
    if cfg.wandb:
        from lightning.pytorch.loggers import WandbLogger

        options = dict(cfg.wandb) if isinstance(cfg.wandb, dict) else {}
        defaults = {"project": "xmae_fast", "name": folder.name, "save_dir": str(folder), "id": folder.name,
                    "resume": "allow", "config": cfg.to_dict()}  # fmt: skip
        try:
            loggers.append(WandbLogger(**defaults | options))
        except ImportError as error:
            raise ImportError("wandb: true needs Weights & Biases: pip install wandb") from error
    return loggers


def describe_data(segments: Segments) -> dict[str, Any]:
    """The shards, with the size and a hash of 16 places of each file, and what is used of them, as plain values."""
    shards = []
    for shard in segments.index.shards:
        size = os.path.getsize(shard.path)
        count = shard.stop - shard.start
        shards.append({"path": shard.path, "bytes": size, "probe": content_probe(shard.path, size), "segments": count})
    return {
        "shards": shards,
        "segments": len(segments),
        "subjects": len(segments.subjects),
        "split": segments.split,
        "rejected": dict(segments.rejected),
        "left_out": segments.index.broken,
    }
