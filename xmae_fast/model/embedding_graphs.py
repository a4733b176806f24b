"""Embedding by CUDA graphs: one for each bucket of batch sizes, captured after the bucket was used a few times."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xmae_fast import _graphs as graphs
from xmae_fast import backend
from xmae_fast.model.calls import first_hook, heads_of

if TYPE_CHECKING:
    from xmae_fast.model.xmae import xMAE

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # less than twice what is asked for


class _Bucket:
    """The runs of one batch size: a few eager ones, a capture, then replays. where: the weights that a replay reads."""

    def __init__(self, rows: int, where: tuple) -> None:
        self.rows, self.where = rows, where
        self.eager_runs = 0
        self.replay: graphs.Replay | None = None
        self.signal: Tensor  # what a replay reads; made before the capture


class _ModelGraphs:
    def __init__(self) -> None:
        self.lock = threading.Lock()  # a replay overwrites the result of the one before it
        self.pool = torch.cuda.graph_pool_handle()
        self.buckets: dict[tuple, _Bucket] = {}


_of_model: WeakKeyDictionary[nn.Module, _ModelGraphs] = WeakKeyDictionary()


def usable(model: xMAE, signal: Tensor) -> bool:
    """Whether a CUDA graph may embed `signal` [B, 1, L].

    It may on a GPU, by this library's kernels, with standard modules that have no hooks, and outside of another capture
    or a compilation.
    """
    return (
        signal.device.type == "cuda"
        and 0 < signal.shape[0] <= BUCKETS[-1]
        and not torch.compiler.is_compiling()
        and backend.resolve("conv_stem", model.impl, signal.device, signal.dtype) != "reference"
        and not torch.cuda.is_current_stream_capturing()
        and (path := model.ppg_path) is not None
        and not (first_hook(path) or any(model.irregular()) or path.head_fault())
    )


def embed(model: xMAE, signal: Tensor, function: Callable[[Tensor], Tensor], output: str = "projected") -> Tensor:
    """`function(signal)`, replayed where it has been captured: signal [B, 1, L] -> [B, ...], a tensor of its own.

    A captured run reads the weights where they lie, so values may change; after a weight has moved (`to`,
    `load_state_dict(assign=True)`) or lies there in another layout (`.data = .data.t()`) the bucket is captured again.

    Args:
        output: the name of what the function computes; each has graphs of its own.
    """
    B, device = signal.shape[0], signal.device
    rows = BUCKETS[bisect_left(BUCKETS, B)]
    autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    key = (output, rows, signal.dtype, autocast, model.impl, torch.get_float32_matmul_precision())
    where = graphs.places(model), heads_of(model)
    made = _of_model.get(model) or _of_model.setdefault(model, _ModelGraphs())
    with made.lock:
        bucket = made.buckets.get(key)
        if bucket is None or bucket.where != where:
            bucket = made.buckets[key] = _Bucket(rows, where)
        if bucket.replay is None and bucket.eager_runs < graphs.WARM_UP:
            bucket.eager_runs += 1
            padded = signal if rows == B else torch.cat([signal, signal.new_zeros(rows - B, *signal.shape[1:])])
            return graphs.on_side_stream(lambda: function(padded), device)[:B]
        if bucket.replay is None:
            bucket.signal = signal.new_zeros(rows, *signal.shape[1:])
            bucket.replay = graphs.Replay(lambda: function(bucket.signal), made.pool)
        bucket.signal[:B].copy_(signal)
        return bucket.replay()[:B].clone()
