"""Kernels of a training step and an embedding compiled ahead, through Triton's own path of a launch.

Triton keeps what it compiles on disk, by source, types, alignments and options. Several processes that each take a part
fill that cache in a fraction of the time that the first step would need.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xmae_fast.ops._launch import Launch, described
from xmae_fast.testing.launches import production_launches


class _Pointer:
    """What Triton asks of a tensor when it chooses a compiled kernel: its dtype, and where it lies."""

    def __init__(self, x: Tensor) -> None:
        self.dtype, self.place = x.dtype, 512 + x.storage_offset() * x.element_size()

    def data_ptr(self) -> int:
        return self.place


def launches_of_part(part: int, parts: int, capability: tuple[int, int], B: int, precision: Any) -> list[Launch]:
    """Every `parts`-th of the different launches, beginning with number `part`."""
    from xmae_fast.testing.resources import distinct

    return distinct(production_launches(capability, B, [precision]))[part::parts]


def warm_up(launch: Launch) -> None:
    """Compile the kernel of a launch for the current GPU; it is not run."""
    args = {name: _Pointer(x) if isinstance(x, Tensor) else x for name, x in launch.args.items()}
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True}
    launch.kernel.warmup(**args, **launch.constants, **options, grid=launch.grid)


def words_of(launch: Launch) -> str:
    """The launch in words, for a message."""
    options = {**launch.constants, "num_warps": launch.num_warps, "num_stages": launch.num_stages}
    return described(launch.kernel, options)
