"""csrc/cuda/conv_stem/train_*.h on the host (see host/): the operators of the stem's training on CPU tensors."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.ops.cuda.stem_host import KINDS, Banks, host_library
from xmae_fast.ops.conv_stem.cuda import schema as cuda_schema


class Launched(NamedTuple):
    """A launch: its kernel, bytes of shared memory of a CTA, CTAs that a multiprocessor shall hold, CTAs."""

    kernel: str
    shared_bytes: int
    together: int
    blocks: int


class HostTrain:
    """The kernels on the host.

    Attributes:
        options: order, late, tanh and without of `Options` in host/cta.h; backwards: CTAs in descending order;
            multiprocessors: that CTAs are dealt to.
        launched: of the last forward or backward.
    """

    def __init__(self) -> None:
        self.library = host_library("train_host")
        self.library.train_host.restype = self.library.launch_at.restype = ctypes.c_char_p
        self.library.kept_numbers.restype = ctypes.c_int64
        self.options: dict[str, int] = {}
        self.launched: list[Launched] = []

    @contextlib.contextmanager
    def registered(self, **options: int) -> Iterator[HostTrain]:
        """Within it the operators serve CPU tensors. Raises AssertionError where threads race or wait for ever."""
        with torch.library._scoped_library("xmae_fast", "IMPL") as library:
            library.impl("conv_stem_train_cuda", self.train, "CPU")
            library.impl("conv_stem_backward_cuda", self.backward, "CPU")
            self.options = options
            yield self

    def kept_numbers(self, sizes: list[int]) -> int:
        return self.library.kept_numbers(len(sizes) // 2, (ctypes.c_int * len(sizes))(*sizes))

    def train(
        self, x: Tensor, flat: Tensor, sizes: list[int], batch_statistics: bool, compute: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stems, plan = len(sizes) // 2, cuda_schema.layout()
        features = Guarded((len(x), 32), compute)
        norms = Guarded((stems, 5, plan.channels + 1), torch.float32)
        kept = Guarded((self.kept_numbers(sizes),), compute)
        moments = Guarded((stems, 36), torch.float32)
        self._run(x, flat, sizes, batch_statistics, compute, kept.tensor, norms.tensor, moments.tensor, features.tensor)
        return features.checked(), norms.checked(), kept.checked(), moments.checked()

    def backward(
        self, grads: list[Tensor], x: Tensor, flat: Tensor, norms: Tensor, kept: Tensor, moments: Tensor,
        sizes: list[int], batch_statistics: bool,
    ) -> Tensor:  # fmt: skip
        assert all(grad.is_contiguous() and grad.dtype == kept.dtype for grad in grads)
        plan, before = cuda_schema.layout(), [tensor.clone() for tensor in (kept, norms, moments)]
        out = Guarded((len(sizes) // 2, plan.weights + 2 * plan.channels), torch.float32)
        self._run(x, flat, sizes, batch_statistics, kept.dtype, kept, norms, moments, None, grads, out.tensor)
        for tensor, old in zip((kept, norms, moments), before, strict=True):
            assert torch.equal(tensor.view(torch.uint8), old.view(torch.uint8)), "the backward changed what was kept"
        return out.checked()

    def _run(self, x, flat, sizes, batch, compute, kept, norms, moments, features, grads=(), gradients=None) -> None:
        def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
            return ctypes.c_void_p(0 if tensor is None else tensor.data_ptr())

        option = self.options.get
        message = self.library.train_host(
            len(sizes) // 2, (ctypes.c_int * len(sizes))(*sizes), int(batch), int(compute == torch.float16), pointer(x),
            int(x.dtype == torch.float32), pointer(flat), ctypes.c_int64(flat.shape[1]), pointer(kept), pointer(norms),
            pointer(moments), pointer(features), (ctypes.c_void_p * 2)(*(grad.data_ptr() for grad in grads)),
            pointer(gradients), option("order", 0), option("late", 0), option("tanh", 0), option("backwards", 0),
            option("count_banks", 0), option("without", -1),
            option("multiprocessors", 132),
        )  # fmt: skip
        assert message == b"", message.decode()
        numbers = (ctypes.c_int * 3)()
        self.launched = [
            Launched(re.split(r", Arguments", self.library.launch_at(i, numbers).decode())[0], *numbers)
            for i in range(self.library.launch_count())
        ]

    def banks(self) -> list[Banks]:
        """Accesses to shared memory in the last run, which counted them; `layer` is the number of the launch."""
        rows = np.zeros((2000, 6), np.int64)
        count = self.library.access_counts(rows.ctypes.data_as(ctypes.c_void_p), len(rows))
        return [Banks(int(row[0]), KINDS[row[1]], *map(int, row[2:])) for row in rows[:count]]


class Guarded:
    """A tensor of NaN between numbers that must stay as they are."""

    MARGIN = 64

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.memory = torch.full((torch.Size(shape).numel() + 2 * self.MARGIN,), 7.0, dtype=dtype)
        self.tensor = self.memory[self.MARGIN : -self.MARGIN].view(shape)
        self.tensor.fill_(float("nan"))

    def checked(self) -> Tensor:
        """The tensor, of which every number was written."""
        assert (self.memory[: self.MARGIN] == 7).all(), "written before a tensor"
        assert (self.memory[-self.MARGIN :] == 7).all(), "written after a tensor"
        assert not self.tensor.isnan().any()
        return self.tensor
