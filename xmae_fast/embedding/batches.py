"""Encoding batch after batch of prepared segments, while the next batch is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch

from xmae_fast.model.frozen import frozen
from xmae_fast.model.outputs import encode
from xmae_fast.model.xmae import xMAE

T = TypeVar("T")


def encode_batches(
    model: xMAE, batches: Iterable[tuple[T, np.ndarray]], output: str, autocast: torch.dtype | None = None
) -> Iterator[tuple[T, np.ndarray]]:
    """Features of batches, one after the other.

    On a GPU the features of a batch are fetched after the next batch was started. On a CPU the model is frozen from
    the second batch to the last (see `xMAE.freeze`): only a write that PyTorch does not count, made by another
    thread or by the caller's loop meanwhile, would go unnoticed.

    Args:
        model: with a PPG encoder.
        batches: pairs (tag, ppg), ppg [B, L] float32, prepared; tags are passed on.
        output: "pooled", "projected" or "tokens", see `model.outputs.encode`.
        autocast: the dtype to autocast the encoder to; None for its own.

    Yields:
        Pairs (tag, features), features [B, D], [B, proj_dim] or [B, N, D] float32, in the order of the batches.
    """
    place = model.mask_token
    waiting: list[tuple[T, torch.Tensor]] = []
    with ExitStack() as until_the_last:
        for number, (tag, ppg) in enumerate(batches):
            if number == 1:  # one batch alone would take longer by the freezing
                until_the_last.enter_context(frozen(model))
            signal = torch.from_numpy(ppg)
            if place.device.type == "cuda":
                signal = signal.pin_memory()
            signal = signal.to(place.device, place.dtype, non_blocking=True)
            with torch.autocast(place.device.type, autocast) if autocast is not None else nullcontext():
                features = encode(model, signal, output)
            waiting.append((tag, features.float()))
            if len(waiting) > (place.device.type == "cuda"):
                tag, features = waiting.pop(0)
                yield tag, features.cpu().numpy()
    for tag, features in waiting:
        yield tag, features.cpu().numpy()


def made_ahead(batches: Iterable[T]) -> Iterator[T]:
    """The same batches. A thread makes each one while the one before it is used; an error replaces its batch."""
    iterator = iter(batches)
    end: Any = object()  # of no type that `batches` has
    with ThreadPoolExecutor(1, "xmae_fast batches") as pool:
        coming = pool.submit(next, iterator, end)
        while (batch := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield batch
