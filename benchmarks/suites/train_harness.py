"""What the harness of `pretrain` costs: its loop, from the loader to the log, against the bare step."""

from __future__ import annotations

import contextlib
import tempfile
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.harness.contest import OURS, PLAIN, Contestant, Group
from benchmarks.harness.context import MASK_RATIO, Context
from benchmarks.harness.segment_files import segment_files
from benchmarks.harness.timing import Run
from xmae_fast.testing import Error
from xmae_fast.training.config import TrainCfg
from xmae_fast.training.control import Control, Signals
from xmae_fast.training.feed import make_feed
from xmae_fast.training.loop import Loop
from xmae_fast.training.pretraining import make_step
from xmae_fast.training.progress import Progress
from xmae_fast.training.records import make_loggers
from xmae_fast.training.run_folder import RunFolder
from xmae_fast.training.schedule import lr_factor, progress

STEPS = 4  # of an epoch, after which a row of the log is written: more often than a run does it


def groups(context: Context) -> Iterator[Group]:
    """One epoch of the published model: 64 segments a step on a CPU, 512 on a GPU, 8 when quick."""
    on_gpu = context.device.type == "cuda"
    B = 8 if context.quick else 512 if on_gpu else 64
    with contextlib.closing(_Harness(context, B)) as harness:
        resident = Contestant(
            "pretrain: resident data", lambda: harness.build(resident=True),
            lambda run: harness.check(run, resident=True), OURS,
        )  # fmt: skip
        yield Group(
            f"train: {STEPS} steps as `pretrain` runs them, B = {B}",
            [
                Contestant("the bare step, batches at hand", harness.bare, lambda run: [], PLAIN),
                Contestant(
                    "pretrain: loader, rates, log", harness.build, harness.check, OURS, remark=harness.waiting
                ),
                *([resident] if on_gpu else []),
            ],
            items=STEPS * B,
            unit="samples",
        )  # fmt: skip


class _Harness:
    """Runs of one configuration, without validation and checkpoints.

    Their shard and folder come into being with the first run, which may be long after the group was made (pytest makes
    all groups before it runs any), and vanish with `close` or with the harness.
    """

    def __init__(self, context: Context, B: int) -> None:
        self.context, self.B = context, B
        self.device, self.runs = context.device, 0
        self.waited_s = self.all_s = 0.0
        self._files = contextlib.ExitStack()
        weakref.finalize(self, self._files.close)

    def close(self) -> None:
        """Remove what the runs have written."""
        self._files.close()

    @cached_property
    def folder(self) -> Path:
        return Path(self._files.enter_context(tempfile.TemporaryDirectory()))

    @cached_property
    def cfg(self) -> TrainCfg:
        model = self.context.cfg
        shard = self._files.enter_context(segment_files(self.context, STEPS * self.B)).published
        names = ("patch_len", "d_model", "nhead", "depth_ecg", "depth_ppg", "depth_bridge", "stem_ch", "dropout")
        return TrainCfg(
            data=[shard], val_data=[shard], batch_size=self.B, epochs=10**6, mask_ratio_ecg=MASK_RATIO, log_every=STEPS,
            model_params={**{name: getattr(model, name) for name in names}, "latent_dim": model.proj_dim},
        )  # fmt: skip

    def _loop(self, cfg: TrainCfg) -> Loop:
        self.runs += 1
        folder = RunFolder(self.folder / f"run{self.runs}")
        folder.open(False, False)
        step, feed = make_step(cfg, self.device), make_feed(cfg, self.device, 0, 1)
        loop = Loop(cfg, step, feed, folder, False, Progress(shown=False), None)
        loop.loggers = make_loggers(cfg, folder.path, None, lambda line: None)
        loop.control = Control(Signals(), None, 0.0, self.device)
        return loop

    def build(self, resident: bool = False) -> Run:
        loop = self._loop(replace(self.cfg, resident=resident))

        def run(i: int) -> None:
            began, waited = time.perf_counter(), loop.feed.waited_s
            loop.train_epoch()
            if resident:
                return
            self.all_s += time.perf_counter() - began
            self.waited_s += loop.feed.waited_s - waited

        return run

    def bare(self) -> Run:
        step = make_step(self.cfg, self.device)
        batches = list(make_feed(self.cfg, self.device, 0, 1).training())

        def run(i: int) -> float:
            losses = [step(ppg.clone(), ecg.clone()) for ppg, ecg in batches]
            return float(torch.stack(losses).mean())

        return run

    def check(self, run: Run, resident: bool = False) -> list[Error]:
        """The losses of a first epoch are those of the bare step on the same batches at the same rates."""
        loop = self._loop(replace(self.cfg, log_every=STEPS + 1, resident=resident))
        loop.train_epoch()
        got = loop.losses.read(STEPS, 1)
        step, want = make_step(self.cfg, self.device), []
        for number in range(STEPS):
            share = progress(number, loop.steps, 0.0, None)
            for group in step.optimizer.param_groups:
                group["lr"] = torch.as_tensor(group["lr"]).fill_(self.cfg.lr * lr_factor(share, self.cfg.warmup))
            batch = loop.feed.batch(0, number)
            want.append(float(step(batch["ppg"].to(self.device), batch["ecg"].to(self.device))))
        bound = 0.0 if self.device.type == "cpu" else 1e-3
        if len(got) != STEPS or any(abs(a - b) > bound * b for a, b in zip(got, want, strict=True)):
            raise AssertionError(f"losses {got}, of the bare step {want}")
        return []

    def waiting(self) -> str:
        return (
            f"waited for data {self.waited_s / max(self.all_s, 1e-9):.2%} of the time, the start of each epoch included"
        )
