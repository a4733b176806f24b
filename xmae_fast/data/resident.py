"""Segments in the memory of a device: copied there once, and made into batches by the device alone.

A batch has the bits that the reader in C++ gives: the same segments, augmentation and arithmetic. On a GPU, batches of
the usual size are made by a CUDA graph of their own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from xmae_fast import _graphs as graphs
from xmae_fast.data.device_draws import draw_augmentations
from xmae_fast.data.repacking.source import RepackSource
from xmae_fast.data.segments import Segments

_PORTION = 1 << 28  # bytes that are read at a time
_SPARE = 0.1  # share of a GPU's memory that is left for the model at least


class ResidentSegments:
    """The signals of all segments of a data set on a device.

    Args:
        segments: the selected segments. All of them are read now.
        device: where they go.
        batch_size: B, the usual size of a batch.

    Raises:
        ValueError: the device has too little memory; the message says how much is needed.
        ShardChangedError: a segment has become unusable since it was indexed.
    """

    def __init__(self, segments: Segments, device: torch.device, batch_size: int) -> None:
        self.segments, self.device, self.batch_size = segments, device, batch_size
        self.dtype = getattr(torch, segments.normalize_dtype)
        n, L = len(segments), segments.seq_len
        _check_room(n * L * len(segments.names) * self.dtype.itemsize, n, device)
        self._signals = [torch.empty(n, L, dtype=self.dtype, device=device) for _ in segments.names]
        for start, part in _portions(segments):
            for signal, values in zip(self._signals, part, strict=True):
                signal[start : start + len(values)].copy_(torch.from_numpy(values))
        everything = np.arange(n)
        columns = {"subject": segments.subject_of(everything)} | segments.labels_of(everything)
        self._columns = {name: torch.from_numpy(values).to(device) for name, values in columns.items()}
        self._given: list[Tensor] | None = None  # items, factors and shifts that the graph reads
        self._replay: graphs.Replay | None = None
        self._eager = 0

    def batches(
        self, order: np.ndarray, epoch: int, first: int, count: int
    ) -> Generator[dict[str, Tensor], None, None]:
        """The batches from number `first` to `count` of an epoch that visits segments in this order."""
        items = torch.from_numpy(order.astype(np.int64)).to(self.device)
        factors, shifts = None, None
        if self.segments.augmenting:
            factors, shifts = draw_augmentations(items, self.segments.seed, epoch, self.dtype)
        for number in range(first, count):
            part = slice(number * self.batch_size, (number + 1) * self.batch_size)
            arguments = [x[part] for x in (items, factors, shifts) if x is not None]
            signals = self._made(arguments)
            columns = {name: values[arguments[0]] for name, values in self._columns.items()}
            yield dict(zip(self.segments.names, signals, strict=True)) | columns

    def _made(self, arguments: list[Tensor]) -> list[Tensor]:
        """Signals [B, L] float32 of the items, factors and shifts of a batch."""
        if self.device.type != "cuda" or len(arguments[0]) != self.batch_size:
            return self._prepared(*arguments)
        if self._replay is None and self._eager < graphs.WARM_UP:
            self._eager += 1
            return self._prepared(*arguments)
        if self._given is None:
            self._given = [torch.empty_like(x) for x in arguments]
        for given, values in zip(self._given, arguments, strict=True):
            given.copy_(values)
        if self._replay is None:
            given = self._given
            self._replay = graphs.Replay(lambda: self._prepared(*given), torch.cuda.graph_pool_handle())
        return [signal.clone() for signal in self._replay()]  # the next replay writes to the same place

    def _prepared(self, items: Tensor, factors: Tensor | None = None, shifts: Tensor | None = None) -> list[Tensor]:
        made = []
        for k, signal in enumerate(self._signals):
            x = signal[items]
            if factors is not None and shifts is not None:
                x = augmented(x, factors[:, k, None], shifts[:, k, None])
            made.append(min_max(x))
        return made


def augmented(x: Tensor, factors: Tensor, shifts: Tensor) -> Tensor:
    """`augment.augmented` of many segments.

    Args:
        x: [B, L] float16 or float32.
        factors: [B, 1] of the same dtype; negative where the signal is flipped.
        shifts: [B, 1] int64, in samples; a positive one is towards later times.
    """
    L = x.shape[1]
    places = (torch.arange(L, device=x.device) - shifts).clamp(0, L - 1)
    changed = x.gather(1, places) * factors
    low, high = (bound.float() for bound in changed.aminmax(dim=1, keepdim=True))
    usable = low.isfinite() & high.isfinite() & (2.5 * (high - low) <= torch.finfo(x.dtype).max) & (low != high)
    return torch.where(usable, changed, x)


def min_max(x: Tensor) -> Tensor:
    """`augment.min_max` of many segments: 2 (x - min) / (max - min) - 1, every operation rounded to the dtype of x
    [B, L]; [B, L] float32."""
    low, high = x.aminmax(dim=1, keepdim=True)
    return (2 * (x - low) / (high - low) - 1).float()


def _portions(segments: Segments) -> Iterator[tuple[int, np.ndarray]]:
    """All signals in order: the first segment of a part, and the part, [S, k, L]."""
    source = RepackSource(segments, np.dtype(segments.normalize_dtype))
    step = max(1, _PORTION // (segments.seq_len * len(segments.names) * source.dtype.itemsize))
    for start in range(0, len(segments), step):
        yield start, source.read(start, min(start + step, len(segments)), start + 2 * step)


def _check_room(needed: int, count: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    free, whole = torch.cuda.mem_get_info(device)
    room = free - int(_SPARE * whole)
    if needed > room:
        fits = max(0, count * room // needed)
        raise ValueError(
            f"resident: expected segments that fit {device}, which has {room / 1e9:.1f} GB for them, got {count:,} of"
            f" {needed / 1e9:.1f} GB; {fits:,} would fit (quality, subjects or split select fewer, and several"
            " processes do not share the memory of a GPU)"
        )
