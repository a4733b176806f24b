"""bfloat16 on a CPU: which kernels of ours there are and which ran, and PyTorch's switch for float32 modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.autograd.profiler_legacy import profile  # the newer one writes to the console when it starts and stops

from benchmarks.harness.timing import Run
from xmae_fast import backend


def kernels_of_ours() -> str:
    """The instruction set of our bfloat16 kernels for inference here, or ''."""
    return backend.cpu_bfloat16() if hasattr(backend, "cpu_bfloat16") else ""


def why_none() -> str:
    """ " (reason)", where xmae_fast says why it has no bfloat16 kernels here, or ''."""
    reason = backend.cpu_bfloat16_reason() if hasattr(backend, "cpu_bfloat16_reason") else ""
    return f" ({reason})" if reason else ""


def operators_in_bfloat16(run: Run) -> list[str]:
    """Those of our operators that one call computes in bfloat16, as PyTorch's profiler sees them."""
    with profile() as record:
        run(0)
    ours = {event.name.removeprefix("xmae_fast::") for event in record.function_events if "xmae_fast::" in event.name}
    return sorted(name for name in ours if "bf16" in name and "kernels" not in name)


class Ours:
    """A contestant of ours in bfloat16, and what is said about it once it is built.

    It stands in its class only if some of our operators ran in bfloat16: float32 under autocast is another class.
    """

    def __init__(self, build: Callable[[], Run]) -> None:
        self._build = build
        self.operators: list[str] = []

    def build(self) -> Run:
        run = self._build()
        self.operators = operators_in_bfloat16(run)
        return run

    def stands(self) -> bool:
        return bool(self.operators)

    def remark(self) -> str:
        if self.operators:
            return f"operators that ran in bfloat16: {', '.join(self.operators)}"
        return f"information alone, as none of its operators ran in bfloat16{why_none()}"


@contextmanager
def by_mkldnn() -> Iterator[None]:
    """Within it, oneDNN may multiply float32 convolutions and linear layers in bfloat16."""
    parts = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "bf16"
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision
