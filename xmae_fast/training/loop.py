"""The training loop: steps, validation, checkpoints, and the reasons to stop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from xmae_fast.training.checkpoints import copy_checkpoint, read_checkpoint, write_checkpoint
from xmae_fast.training.config import TrainCfg
from xmae_fast.training.control import Control, Signals
from xmae_fast.training.feed import Feed
from xmae_fast.training.progress import Progress
from xmae_fast.training.records import Losses, MetricsFile, NonFiniteLoss
from xmae_fast.training.run_folder import RunFolder
from xmae_fast.training.schedule import lr_factor, progress
from xmae_fast.training.step import GraphedStep
from xmae_fast.training.validation import validation_loss


@dataclass
class Result:
    """How a run stands when `pretrain` returns.

    Attributes:
        status: "finished" (all epochs, or max_steps), "out of time" (max_minutes), "early stopping" (patience),
            "SIGTERM" or "SIGINT" (it was stopped from outside, and --resume goes on).
        folder: of the run.
        steps, epochs: how many are complete.
        val_loss, best_val_loss: of the last validation, and the lowest so far.
        elapsed_s: seconds of the run, with those before it was resumed.
        segments_per_s: speed of training since this process began, without validation and checkpoints.
        data_wait_share: share of that time in which training waited for data.
        best, last: the checkpoints with the lowest validation loss and of the last step.
    """

    status: str
    folder: Path
    steps: int
    epochs: int
    val_loss: float
    best_val_loss: float
    elapsed_s: float
    segments_per_s: float
    data_wait_share: float
    best: Path
    last: Path


class Loop:
    """What one process does in a run. Rank 0 writes, and all processes take the same decisions at the same steps.

    Args:
        cfg: the configuration.
        step: what makes a training step.
        feed: the batches of this process.
        folder: where the records go.
        resumed: the run goes on from last.ckpt of `folder`.
        shown: what the user sees.
        callback: called after every step with the number of steps so far; None for nothing.
    """

    def __init__(
        self, cfg: TrainCfg, step: GraphedStep, feed: Feed, folder: RunFolder, resumed: bool, shown: Progress,
        callback: Callable[[int], None] | None,
    ) -> None:  # fmt: skip
        self.cfg, self.step, self.feed, self.folder, self.shown = cfg, step, feed, folder, shown
        self.callback = callback
        self.curriculum = cfg.make_curriculum()
        self.losses, self.truth_losses = Losses(), Losses()
        self.epoch, self.batch = 0, 0
        self.val_loss, self.best, self.worse = math.nan, math.inf, 0
        self.elapsed_s, self.share, self.lr = 0.0, 0.0, cfg.lr
        self.steps_per_epoch = len(feed.train)
        self.steps = min(cfg.epochs * self.steps_per_epoch, cfg.max_steps or math.inf)
        self.saved_step = -1
        if resumed:
            self._restore(read_checkpoint(folder.last, step.core, step.optimizer))
        writes = step.rank == 0
        self.metrics = MetricsFile(folder.metrics, step.steps if resumed else None) if writes else None
        self.loggers: list[Any] = []
        self._pace = _Pace(step, feed)

    def run(self) -> Result:
        """Train until there is a reason to stop, and tell how the run stands."""
        with Signals() as signals:
            limit_s = None if self.cfg.max_minutes is None else 60 * self.cfg.max_minutes
            self.control = Control(signals, limit_s, self.elapsed_s, self.step.device)
            status = "finished" if self.step.steps >= self.steps else ""
            while not status:
                status = self.train_epoch()
                if status in ("SIGTERM", "SIGINT"):
                    break
                if status:
                    self._log()
                stopping = self._validate()
                status = status or stopping
            if self.saved_step != self.step.steps:
                self._save()
        self.shown.tell(f"{status}: {self.step.steps} steps, validation loss {self.val_loss:.5f}, best {self.best:.5f}")
        return Result(
            status, self.folder.path, self.step.steps, self.epoch, self.val_loss, self.best, self.control.clock_s,
            *self._pace.overall(), self.folder.best, self.folder.last,
        )  # fmt: skip

    def close(self) -> None:
        """Close the records."""
        if self.metrics is not None:
            self.metrics.close()
        for logger in self.loggers:
            logger.finalize("success")

    def train_epoch(self) -> str:
        """Train for the rest of the epoch; the status of the run if it ends there, else ''."""
        step, cfg = self.step, self.cfg
        self._pace.resume()
        for batch in self.feed.training():
            self._set_rates()
            self.losses.add(step(*batch))
            if step.truth_loss is not None:
                self.truth_losses.add(step.truth_loss)
            self.batch += 1
            self._pace.segments += len(batch[0]) * step.world_size
            if self.callback is not None:
                self.callback(step.steps)
            if step.steps % cfg.log_every == 0:
                self._log()
            if step.steps >= self.steps:
                return self._end_of_epoch("finished")
            if self.batch == self.steps_per_epoch:
                break
            self.control.poll(step.steps)
            if self.control.signal:
                return signal.Signals(self.control.signal).name
            if self.control.out_of_time:
                return "out of time"
            if step.steps % cfg.checkpoint_every == 0:
                self._save()
        return self._end_of_epoch("")

    def _end_of_epoch(self, status: str) -> str:
        if self.batch == self.steps_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
            self.feed.train.set_epoch(self.epoch)
        return status

    def _set_rates(self) -> None:
        """Set the learning rate and the mask ratio of the next step."""
        step, limit_s = self.step, self.control.limit_s
        self.share = progress(step.steps, self.steps, self.control.elapsed_s if limit_s else 0.0, limit_s)
        self.lr = lr = self.cfg.lr * lr_factor(self.share, self.cfg.warmup)
        for group in step.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        step.mask_ratio = self.curriculum.ratio(step.steps)

    def _log(self) -> None:
        """Write a row about the steps since the last row, if there were any."""
        if self.losses.read(self.step.steps, self.step.world_size):
            row = {"loss": self.losses.take_mean(), "lr": self.lr, "mask_ratio": self.step.mask_ratio}
            if self.truth_losses.read(self.step.steps, self.step.world_size):
                row["truth_loss"] = self.truth_losses.take_mean()
            self._write(row | self._pace.take())

    def _write(self, values: dict[str, float]) -> None:
        if self.metrics is None:
            return
        row = {"step": self.step.steps, "epoch": self.epoch, **values, "elapsed_s": round(self.control.clock_s, 3)}
        self.metrics.write(row)
        self.shown.log(row, self.share)
        for logger in self.loggers:
            logger.log_metrics({key: value for key, value in row.items() if key != "step"}, step=self.step.steps)

    def _validate(self) -> str:
        """Validate after an epoch, or after the part of it that there was; "early stopping", or ''."""
        step, cfg = self.step, self.cfg
        self._read_losses()
        self._pace.pause()
        self._share_statistics()
        loss = validation_loss(
            step.core, self.feed.validation(), mask_ratio=cfg.mask_ratio_ecg, mask_ratio_ppg=cfg.mask_ratio_ppg,
            mode=cfg.mask_mode, autocast=step.autocast, seed=cfg.seed, rank=step.rank, world_size=step.world_size,
        )  # fmt: skip
        self.val_loss = loss
        better = loss < self.best
        self.best, self.worse = (loss, 0) if better else (self.best, self.worse + 1)
        self._write({"val_loss": loss, "mask_ratio": cfg.mask_ratio_ecg})
        if news := self.curriculum.validated(loss):
            self.shown.tell(news)
        self._save()
        if step.rank == 0:
            if better:
                copy_checkpoint(self.folder.last, self.folder.best)
            if cfg.keep_every and self.batch == 0 and self.epoch % cfg.keep_every == 0:
                copy_checkpoint(self.folder.last, self.folder.checkpoints / f"epoch-{self.epoch:03d}.ckpt")
        return "early stopping" if cfg.patience is not None and self.worse >= cfg.patience else ""

    def _share_statistics(self) -> None:
        """Give all processes the running statistics of rank 0, which are those that checkpoints hold."""
        if self.step.world_size == 1:
            return
        buffers = [b for b in self.step.core.buffers() if b.is_floating_point()]
        together = torch.cat([b.flatten() for b in buffers])
        distributed.broadcast(together, 0)
        for buffer, values in zip(buffers, together.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))

    def _save(self) -> None:
        """Write last.ckpt; NonFiniteLoss instead where losses or weights are not finite."""
        step = self.step
        self._read_losses()
        was_running = self._pace.pause()
        if step.rank == 0:
            write_checkpoint(self.folder.last, step.core, step.optimizer, self._state())
        self.saved_step = step.steps
        if was_running:
            self._pace.resume()

    def _read_losses(self) -> None:
        """Read all losses so far; NonFiniteLoss if one of them, or a weight of the model, is not finite."""
        step = self.step
        for losses in (self.losses, self.truth_losses):
            losses.read(step.steps, step.world_size)
        weights = [p.detach() for group in step.optimizer.param_groups for p in group["params"]]
        norms = torch._foreach_norm(weights, math.inf)  # pyright: ignore[reportPrivateImportUsage] - it has no public name
        if not torch.stack(norms).isfinite().all():
            raise NonFiniteLoss(step.steps - 1, math.nan)

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step.steps, "epoch": self.epoch, "batch": self.batch, "elapsed_s": self.control.clock_s,
            "val_loss": self.val_loss, "best": self.best, "worse": self.worse, "losses": list(self.losses.values),
            "truth_losses": list(self.truth_losses.values),
            "graphed_step": self.step.state_dict(), "curriculum": self.curriculum.state_dict(),
            "loader": self.feed.train.state_dict() | {"epoch": self.epoch, "batch": self.batch},
        }  # fmt: skip

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.batch, self.elapsed_s = state["epoch"], state["batch"], state["elapsed_s"]
        self.val_loss, self.best, self.worse = state["val_loss"], state["best"], state["worse"]
        self.losses.values = list(state["losses"])
        self.truth_losses.values = list(state.get("truth_losses", []))  # earlier versions had none
        self.step.load_state_dict(state["graphed_step"])
        self.curriculum.load_state_dict(state["curriculum"])
        self.feed.train.load_state_dict(state["loader"])
        self.saved_step = self.step.steps


class _Pace:
    """Segments, time and time of waiting, of training alone: since the last row, and in all."""

    def __init__(self, step: GraphedStep, feed: Feed) -> None:
        self.step, self.feed, self.segments = step, feed, 0
        self._totals = [0, 0.0, 0.0]
        self._since: float | None = None
        self._seconds, self._waited = 0.0, 0.0

    def resume(self) -> None:
        """Let the time run."""
        if self._since is None:
            self._since = time.perf_counter()

    def pause(self) -> bool:
        """Stop the time, and return whether it was running."""
        if self._since is None:
            return False
        self._seconds, self._since = self._seconds + time.perf_counter() - self._since, None
        return True

    def take(self) -> dict[str, float]:
        """Speed and share of waiting since the last call."""
        was_running = self.pause()
        seconds, waited = self._seconds, self.feed.waited_s - self._waited
        row = {"segments_per_s": self.segments / max(seconds, 1e-9), "data_wait_share": waited / max(seconds, 1e-9)}
        self._totals = [a + b for a, b in zip(self._totals, (self.segments, seconds, waited), strict=True)]
        self.segments, self._seconds, self._waited = 0, 0.0, self.feed.waited_s
        if was_running:
            self.resume()
        return row

    def overall(self) -> tuple[float, float]:
        """Segments/s and share of waiting since the beginning."""
        self.take()
        segments, seconds, waited = self._totals
        return segments / max(seconds, 1e-9), waited / max(seconds, 1e-9)
