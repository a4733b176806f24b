"""What a run shares: signals, sizes, device and the published model's configuration."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness.machine import has_bfloat16
from benchmarks.harness.timing import Effort
from xmae_fast import ModelCfg
from xmae_fast.data import PlainSegmentDataset, load_segments, simulate

DROPOUT = 0.1
MASK_RATIO = 0.8
COMPILE_LEVELS = {"none": 0, "quick": 1, "default": 2, "all": 3}
PUBLISHED_CFG = ModelCfg(d_model=256, proj_dim=256, dropout=DROPOUT)
ROTATION = 3  # different inputs that a contestant is called with in turn


@dataclass
class Context:
    """Attributes:
    data: shards of real segments; simulated signals when empty.
    quick: small sizes, short measurements, little compilation.
    compiling: how much is compiled, a key of COMPILE_LEVELS.
    """

    device: torch.device
    data: tuple[str, ...] = ()
    quick: bool = False
    compiling: str = "default"

    @property
    def effort(self) -> Effort:
        return Effort(budget_s=1.5) if self.quick else Effort()

    def left_out(self, level: str) -> str:
        """Why a compiled baseline of that level is not run, or ''."""
        if COMPILE_LEVELS[level] <= COMPILE_LEVELS[self.compiling]:
            return ""
        return f"needs --compile {level}"

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the model suites: float32 on a CPU, bfloat16 autocast on a GPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def bfloat16(self) -> torch.autocast:
        """bfloat16 autocast, whatever the precision of the run."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def without_bfloat16(self) -> str:
        """Why the CPU's groups in bfloat16 are not run, or ''."""
        return "" if has_bfloat16() else "torch reports no bfloat16 arithmetic of this processor"

    @property
    def cfg(self) -> ModelCfg:
        """The published model."""
        return PUBLISHED_CFG

    @property
    def kept(self) -> int:
        """Visible ECG patches."""
        return self.cfg.num_patches - round(MASK_RATIO * self.cfg.num_patches)

    @cached_property
    def _simulation(self):
        return simulate(32 if self.quick else 128, 16, seed=77)

    @cached_property
    def segments(self) -> tuple[Tensor, Tensor]:
        """ppg, ecg [S, L] float32 in [-1, 1] on the device. FileNotFoundError, ValueError: unusable shards."""
        if not self.data:
            pair = torch.from_numpy(self._simulation.ppg), torch.from_numpy(self._simulation.ecg)
        else:
            pair = load_segments(self.data)
            L, got = self.cfg.seq_len, pair[0].shape[1]
            if got != L:
                raise ValueError(f"{self.data[0]}: expected segments of {L} samples, got {got}")
        return pair[0].to(self.device), pair[1].to(self.device)

    @property
    def source(self) -> str:
        """Where the signals come from, in words."""
        count = len(self.segments[0])
        if not self.data:
            return f"{count:,} simulated segments (seed 77)"
        return f"{count:,} real segments (quality >= 0.9) from {', '.join(Path(path).name for path in self.data)}"

    def batches(self, B: int) -> list[tuple[Tensor, Tensor]]:
        """ROTATION batches of (ppg, ecg) [B, L]; segments repeat where there are too few."""
        ppg, ecg = self.segments
        rows = torch.arange(ROTATION * B, device=self.device) % len(ppg)
        return [(ppg[index], ecg[index]) for index in rows.split(B)]

    @contextmanager
    def shards(self) -> Iterator[list[str]]:
        """Paths of shards: the given ones, or simulated ones that vanish afterwards."""
        if self.data:
            yield list(self.data)
            return
        with tempfile.TemporaryDirectory() as folder:
            yield [str(path) for path in self._simulation.write_shards(folder)]

    @contextmanager
    def dataset(self) -> Iterator[PlainSegmentDataset]:
        """The plain data set over `shards`."""
        with self.shards() as paths:
            yield PlainSegmentDataset(paths)
