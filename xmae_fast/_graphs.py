"""CUDA graphs: a function of tensors that stay where they are is recorded once and replayed with one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 3  # eager runs before a capture: kernels are compiled, libraries and optimisers make their state


class Replay:
    """A captured function. `result` holds its tensors, overwritten by each call.

    Args:
        function: without arguments; reads and writes tensors that stay where they are, and synchronises nothing.
        pool: memory shared with other captures that never run at the same time, from torch.cuda.graph_pool_handle().
            Other threads may use the GPU meanwhile: NCCL has one that watches what was sent.

    Raises:
        RuntimeError: the capture failed; nothing has been executed.
    """

    def __init__(self, function: Callable[[], Any], pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.result = function()

    def __call__(self) -> Any:
        self.graph.replay()
        return self.result


def places(model: nn.Module) -> tuple:
    """Addresses and layouts of a model's parameters and buffers, which a replay reads and writes."""
    tensors = (*model.parameters(), *model.buffers())
    return (*map(Tensor.data_ptr, tensors), *map(Tensor.size, tensors), *map(Tensor.stride, tensors))


def on_side_stream(function: Callable[[], Any], device: torch.device) -> Any:
    """`function()`, run as a capture runs it: on a stream of its own, ordered with the current one."""
    current = torch.cuda.current_stream(device)
    side = torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        result = function()
    current.wait_stream(side)
    return result
