"""Launching Triton kernels: which configuration, where, and what is written down.

A launcher names the few configurations worth trying, best guess first, per architecture. The first is used unless
`xmae_fast.tuning` has measured a better one for the same key on the same kind of GPU. Where the GPU cannot run it, the
next one is taken, with a warning, and `KernelFailure` is raised where there is none left.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast import tuning
from xmae_fast.backend.errors import KernelFailure, is_kernel_failure
from xmae_fast.ops import _triton

Config = Mapping[str, int]  # constants of a kernel to choose, with num_warps and num_stages
Grid = Callable[[Mapping[str, Any]], tuple[int, ...]]
TL_DTYPE = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_forced: dict[str, int] = {}  # number of the configuration, by name of the kernel; "": of all others
_trace: Callable[[str], None] | None = None  # is told of every launch before it happens
_overlapping = False  # see `overlap_launches`
_impossible: dict[tuple, str] = {}  # launches that a GPU cannot run, see `_name`, and why


class Launch(NamedTuple):
    """One launch as `_triton.recording` keeps it; tensors are kept as they came (fake)."""

    kernel: Any  # triton.JITFunction
    grid: tuple[int, ...]
    args: Mapping[str, Any]  # all but constants, by name
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int


def launch(
    kernel: Any,
    grid: Grid,
    args: Mapping[str, Any],
    constants: Mapping[str, Any],
    configs: Mapping[int, Sequence[Config]],
    key: tuple = (),
) -> None:
    """Launch `kernel` on the device of its first tensor; an empty grid launches nothing.

    Args:
        grid: constants (of the configuration too) -> programs along up to three axes.
        args: run-time arguments by name: tensors, numbers, None.
        constants: compile-time arguments (tl.constexpr) that do not depend on the configuration.
        configs: what may be chosen, per architecture (80, 89, 90; the nearest one not above the device's counts), best
            guess first. Kernels may run several times on the same arguments while tuning, so they must not read what
            they write, unless they wrote it themselves in the same launch.
        key: sizes that the best configuration depends on.
    """
    device = _device_of(args)
    candidates = configs_for(configs, _triton.capability(device))

    def run(config: Config) -> None:
        options = {**constants, **config}
        programs = grid(options)
        if 0 in programs:
            return
        recorded = _triton.recorded_launches()
        if recorded is not None:
            warps, stages = options.pop("num_warps", 4), options.pop("num_stages", 3)
            recorded.append(Launch(kernel, programs, dict(args), options, warps, stages))
            return
        if _trace is not None:
            _trace(described(kernel, options))
        try:
            with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
                _start(kernel, programs, args, options)
        except Exception as error:
            # Which of many it was, for whoever reports the error; an exception may carry any attribute.
            error.launch = described(kernel, options)  # pyright: ignore[reportAttributeAccessIssue]
            raise

    forced = _forced.get(kernel.__name__, _forced.get("")) if _forced else None
    if forced is not None:
        run(candidates[forced % len(candidates)])
        return
    first = candidates[0]
    if len(candidates) > 1 and device.type == "cuda" and _triton.recorded_launches() is None:
        first = tuning.choose(kernel.__name__, key, candidates, device, run)
    in_order = [first, *(config for config in candidates if config != first)]
    _run_first_possible(run, in_order, lambda config: _name(kernel, args, {**constants, **config}, device))


def _start(kernel: Any, programs: tuple[int, ...], args: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    if _overlapping and _triton.capability(_device_of(args)) >= (9, 0):
        options = {**options, "launch_pdl": True}
    kernel[programs](**args, **options, enable_fp_fusion=True)


def _device_of(args: Mapping[str, Any]) -> torch.device:
    return next(x.device for x in args.values() if isinstance(x, Tensor))


def overlap_launches(on: bool) -> bool:
    """Whether from now on a launch may begin while the previous one ends (programmatic dependent launch, sm_90 on);
    returns what it was before.

    Every kernel first waits for the one before it (`_device.wait_for_previous_launch`), so only the cost of beginning
    overlaps. Off by default: not yet run on a GPU.
    """
    global _overlapping
    before, _overlapping = _overlapping, on
    return before


def _run_first_possible(
    run: Callable[[Config], None], configs: Sequence[Config], name_of: Callable[[Config], tuple]
) -> None:
    """Run with the first configuration that the GPU can run; those that it cannot are not tried again."""
    failed = ""
    for config in configs:
        if _impossible and name_of(config) in _impossible:
            continue
        try:
            run(config)
        except Exception as error:
            if not is_kernel_failure(error):
                raise
            failed = f"{name_of(config)[0]}: {type(error).__name__}: {error}"
            _impossible[name_of(config)] = failed
            continue
        if failed:
            warnings.warn(f"{failed}; {name_of(config)[0]} runs in its place", stacklevel=4)
        return
    reason = failed or _impossible[name_of(configs[-1])]
    raise KernelFailure(f"no configuration of its kernels can run on this GPU ({reason})")


def _name(kernel: Any, args: Mapping[str, Any], options: Mapping[str, Any], device: torch.device) -> tuple:
    """What tells a compiled kernel from others: its description, the types of its arguments, the GPU."""
    types = [x.dtype if isinstance(x, Tensor) else None for x in args.values()]
    return described(kernel, options), device.index, *types


def configs_for(configs: Mapping[int, Sequence[Config]], capability: tuple[int, int]) -> Sequence[Config]:
    """The configurations for a GPU of this compute capability."""
    at = 10 * capability[0] + capability[1]
    return configs[max((known for known in configs if known <= at), default=min(configs))]


def described(kernel: Any, options: Mapping[str, Any]) -> str:
    """A launch in words: "kernel(BLOCK=64, num_warps=4)"."""
    chosen = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{kernel.__name__}({chosen})"


def trace_launches(tell: Callable[[str], None] | None) -> None:
    """From now on `tell` hears of every launch before it happens, which names one that ends the process or hangs."""
    global _trace
    _trace = tell


def force_config(index: int, kernel: str = "") -> None:
    """From now on launches of `kernel` (no name: of all kernels without a number of their own) take their
    configuration number `index` modulo how many there are."""
    _forced[kernel] = index


@contextlib.contextmanager
def forced_config(index: int) -> Iterator[None]:
    """Within it, every launch takes its configuration number `index` (modulo how many there are); for tests."""
    before = dict(_forced)
    _forced.clear()
    force_config(index)
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


def dot_precision(compute: torch.dtype) -> str:
    """`input_precision` of float32 products, as torch.set_float32_matmul_precision asks; others ignore it."""
    return "ieee" if compute != torch.float32 or torch.get_float32_matmul_precision() == "highest" else "tf32"


def block(size: int, least: int = 16) -> int:
    """The power of two that holds `size`, at least `least` (16: what tl.dot takes)."""
    return max(least, triton.next_power_of_2(size))
