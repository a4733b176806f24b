"""Checkers of this library, for its tests, for benchmarks, and for whoever adds an operator.

Names here check numbers: see `numerics` and, for inference in bfloat16, `bfloat16`. `launches` writes down what a step
would launch on a GPU, `resources` compiles those kernels and reads what they use, `offsets` finds offsets that
overflow; all without a GPU.
"""

from xmae_fast.testing.bfloat16 import check_bfloat16
from xmae_fast.testing.numerics import (
    DRAWS,
    WAYS_TO_ROUND,
    Error,
    check_op,
    hostile_layout,
    largest_errors,
    named_tensors,
    relative_error,
    several_roundings,
    within_rounding,
)

__all__ = [
    "DRAWS",
    "WAYS_TO_ROUND",
    "Error",
    "check_bfloat16",
    "check_op",
    "hostile_layout",
    "largest_errors",
    "named_tensors",
    "relative_error",
    "several_roundings",
    "within_rounding",
]
