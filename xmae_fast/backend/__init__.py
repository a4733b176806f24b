"""Which implementations of which operators exist in this installation, and why the others do not.

Every public operator takes `impl="auto" | "reference" | "cpu" | "triton" | "cuda"`, or different choices for single
operators ("auto, conv_stem=cuda"). An explicit choice means exactly that, or a `BackendError` that says why it cannot
be; `auto` takes the fastest one that serves the device, and plain PyTorch for an operator whose Triton kernels cannot
be made for the GPU, with one warning that names it. Nothing falls back silently and no environment variable changes
numerics: `explain` tells what would run.

`OPS` are the names of all operators, `MODEL_OPS` of those that a model's forward runs, both in the order in which
`xmae_fast.ops` imports them; `IMPLS` are the names of implementations.
"""

from __future__ import annotations

from xmae_fast.backend.choices import check_choice, choice_of
from xmae_fast.backend.errors import BackendError, KernelFailure
from xmae_fast.backend.explaining import explain
from xmae_fast.backend.extensions import (
    cpu_bfloat16,
    cpu_bfloat16_reason,
    cpu_kernels,
    cpu_reason,
    extension_file,
    release_cpu_memory,
    use_cpu_bfloat16,
    use_cpu_kernels,
)
from xmae_fast.backend.registry import (
    IMPLS,
    NOT_AUTOMATIC,
    Availability,
    available,
    declare,
    is_usable,
    leave_out,
    operator_names,
    register,
)
from xmae_fast.backend.resolving import (
    check_usable,
    do_without,
    may_read_values,
    needs_plain_torch,
    record_launches,
    resolve,
)

OPS: tuple[str, ...]
MODEL_OPS: tuple[str, ...]

__all__ = [
    "IMPLS",
    "MODEL_OPS",
    "NOT_AUTOMATIC",
    "OPS",
    "Availability",
    "BackendError",
    "KernelFailure",
    "available",
    "check_choice",
    "check_usable",
    "choice_of",
    "cpu_bfloat16",
    "cpu_bfloat16_reason",
    "cpu_kernels",
    "cpu_reason",
    "declare",
    "do_without",
    "explain",
    "extension_file",
    "is_usable",
    "leave_out",
    "may_read_values",
    "needs_plain_torch",
    "record_launches",
    "register",
    "release_cpu_memory",
    "resolve",
    "use_cpu_bfloat16",
    "use_cpu_kernels",
]


def __getattr__(name: str) -> tuple[str, ...]:
    """`OPS` and `MODEL_OPS`, which follow from what the operators declare."""
    if name in ("OPS", "MODEL_OPS"):
        return operator_names(in_model=name == "MODEL_OPS")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
