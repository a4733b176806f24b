"""bfloat16 on a CPU: which kernels of ours there are and which ran, and PyTorch's switch for float32 modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness.timing import Run
from xmae_fast import backend


def kernels_of_ours() -> tuple[str, str]:
    """The instruction set of our bfloat16 kernels for inference, or '' and the reason why there are none here."""
    if not hasattr(backend, "cpu_bfloat16"):
        return "", "this xmae_fast has no bfloat16 kernels for CPUs"
    name = backend.cpu_bfloat16()
    return name, "" if name else f"no bfloat16 kernels here: {backend.cpu_bfloat16_reason()}"


def operators_in_bfloat16(run: Run) -> str:
    """Which of our operators one call computes in bfloat16, in words, as PyTorch's profiler has seen it."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        run(0)
    ours = {event.key.removeprefix("xmae_fast::") for event in record.key_averages() if "xmae_fast::" in event.key}
    names = sorted(name for name in ours if name.endswith("_bf16"))
    if not names:
        return "none of its operators ran in bfloat16"
    return f"operators that ran in bfloat16: {', '.join(names)}"


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
