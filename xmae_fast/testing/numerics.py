"""Checks of implementations against the float64 oracle, shared by the tests and by the benchmarks.

The error budget is derived, never tuned: an implementation may be off by at most twice the plain path's own error in
the same dtype, plus four units of rounding, both relative to the norm of the float64 result.

The plain path's own error is that of the problem and not of one run on one processor. A single run can be right by
luck, above all where a result is a few numbers, so it is the largest of `DRAWS` runs in each way in which PyTorch
computes here (`WAYS_TO_ROUND`: one thread and two, oneDNN on and off), each on inputs with every number moved by up to
half a unit in its last place: all intermediate roundings are drawn again. With 24 such runs the figure differs by a
factor of at most 2.4 between processors with AVX-512, AVX2 and SSE4 alone, over all cases of all operators.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmae_fast.ops.cases import Case, Maker, OpCases

WAYS_TO_ROUND = ((1, True), (1, False), (2, True), (2, False))
"""Ways in which plain PyTorch computes here: its threads, and whether it may use oneDNN."""
DRAWS = 6
"""Runs of the plain path in each of `WAYS_TO_ROUND`."""


class Error(NamedTuple):
    """Error of one result or gradient against float64, relative to its norm, and what was allowed."""

    name: str
    error: float
    bound: float


def relative_error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want|| in float64 (||got|| where want is zero); inf for wrong shapes or non-finite numbers."""
    if got.shape != want.shape:
        return float("inf")
    got, want = got.detach().double(), want.detach().double()
    if not torch.isfinite(got).all():
        return float("inf")
    scale = want.norm()
    return float((got - want).norm() / (scale if scale > 0 else 1.0))


def check_op(
    cases: OpCases,
    case: Case,
    run: Callable[[dict[str, Any]], Any],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    draws: int = DRAWS,
) -> list[Error]:
    """Compare `run(inputs)`, results and gradients, with the float64 oracle on one case.

    Args:
        run: inputs -> a tensor or tuple of tensors, e.g. lambda inputs: cases.call(inputs, "cpu").
        prepare: applied to the inputs of `run` only; e.g. `hostile_layout`, which changes strides but no values.
        draws: runs of the plain path in each of `WAYS_TO_ROUND`; fewer for sizes at which a run takes long.

    Returns:
        The errors, each with its bound.

    Raises:
        AssertionError: listing what is out of bounds.
    """
    inputs = cases.make_inputs(case.sizes, Maker(seed, dtype, device))
    oracle, plain = _yardstick(cases, case, inputs, (seed, dtype, torch.device(device), draws))
    ours = _run(cases, prepare(_map_tensors(torch.clone, inputs)), run)
    if ours.keys() != oracle.keys():
        raise AssertionError(f"{cases.op} {case.name}: expected results {sorted(oracle)}, got {sorted(ours)}")
    rounding = 4 * torch.finfo(dtype).eps
    errors = []
    for name, want in oracle.items():
        if cases.exact:
            same = ours[name].dtype == want.dtype and torch.equal(ours[name], want)
            errors.append(Error(name, 0.0 if same else float("inf"), 0.0))
        else:
            bound = 2 * plain[name] + rounding
            errors.append(Error(name, relative_error(ours[name], want), bound))
    if bad := [error for error in errors if not error.error <= error.bound]:
        listing = "\n".join(f"  {e.name}: relative error {e.error:.2e}, allowed {e.bound:.2e}" for e in bad)
        raise AssertionError(f"{cases.op} {case.name} differs from the float64 oracle:\n{listing}")
    return errors


def within_rounding(x: Tensor, generator: torch.Generator) -> Tensor:
    """A copy of `x` with every finite number moved by up to half a unit in its last place; other dtypes: a copy."""
    if not x.is_floating_point():
        return x.clone()
    move = torch.rand(x.shape, generator=generator).to(x) - 0.5
    return torch.where(x.isfinite(), x + x * move * torch.finfo(x.dtype).eps, x)


def several_roundings(run: Callable[[], dict[str, Tensor]], draws: int = DRAWS) -> Iterator[dict[str, Tensor]]:
    """Results of `run()`, `draws` times in each of `WAYS_TO_ROUND`; `run` moves its inputs by `within_rounding`."""
    for threads, onednn in WAYS_TO_ROUND:
        for _ in range(draws):
            with _computing(threads, onednn):
                results = run()
            yield results


@contextlib.contextmanager
def _computing(threads: int, onednn: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")  # of Intel GPUs
            with torch.backends.mkldnn.flags(enabled=torch.backends.mkldnn.enabled and onednn):
                yield
    finally:
        torch.set_num_threads(before)


def largest_errors(want: dict[str, Tensor], runs: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """The largest relative error of each result over several runs."""
    errors = dict.fromkeys(want, 0.0)
    for run in runs:
        errors = {name: max(error, relative_error(run[name], want[name])) for name, error in errors.items()}
    return errors


_yardsticks: OrderedDict[tuple, tuple[dict[str, Tensor], dict[str, float]]] = OrderedDict()
_KEPT_YARDSTICKS = 64


def _yardstick(
    cases: OpCases, case: Case, inputs: dict[str, Any], made_with: tuple
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """float64 results of the oracle, and the plain path's own errors.

    They are the problem's, so every implementation, layout and instruction set is measured with the same ones.
    """
    device = made_with[2].type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    sizes = tuple((key, repr(value)) for key, value in case.sizes.items())
    key = (cases.make_inputs, cases.oracle, cases.no_grad, cases.differentiable, sizes, *made_with, autocast)
    if key not in _yardsticks:
        _yardsticks[key] = _measured_yardstick(cases, inputs, made_with[0], made_with[3])
        if len(_yardsticks) > _KEPT_YARDSTICKS:
            _yardsticks.popitem(last=False)
    _yardsticks.move_to_end(key)
    return _yardsticks[key]


def _measured_yardstick(
    cases: OpCases, inputs: dict[str, Any], seed: int, draws: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    oracle = _run(
        cases, _map_tensors(lambda x: x.double() if x.is_floating_point() else x.clone(), inputs), cases.oracle
    )
    if cases.exact:
        return oracle, {}
    generator = torch.Generator().manual_seed(seed)

    def run() -> dict[str, Tensor]:
        return _run(cases, _map_tensors(lambda x: within_rounding(x, generator), inputs), cases.oracle)

    return oracle, largest_errors(oracle, several_roundings(run, draws))


def hostile_layout(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same values as views into larger, poisoned buffers with permuted strides."""
    return _map_tensors(_hostile_view, inputs)


def _hostile_view(x: Tensor) -> Tensor:
    if x.dim() == 0 or not x.is_floating_point():
        return x
    poison = float("nan")
    buffer = torch.full([size + 2 for size in reversed(x.shape)], poison, dtype=x.dtype, device=x.device)
    view = buffer.permute(*reversed(range(x.dim())))[tuple(slice(1, size + 1) for size in x.shape)]
    return view.copy_(x)


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dictionaries and (named) tuples, with a dotted name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple):
        keys = getattr(value, "_fields", range(len(value)))
        for key, item in zip(keys, value, strict=True):
            yield from named_tensors(item, f"{name}.{key}" if name else str(key))


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [_map_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def _run(cases: OpCases, inputs: dict[str, Any], run: Callable[[dict[str, Any]], Any]) -> dict[str, Tensor]:
    """Results, gradients of a fixed random projection of them, and buffers changed in place; by name."""
    tensors = dict(named_tensors(inputs))
    buffers = {name: x for name, x in tensors.items() if name.rsplit(".", 1)[-1] in cases.no_grad}
    leaves = {name: x for name, x in tensors.items() if name not in buffers and x.is_floating_point()}
    if cases.differentiable:
        for x in leaves.values():
            x.requires_grad_()
    outputs = run(inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    results = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    results |= {f"buffer {name}": x.detach() for name, x in buffers.items()}
    if cases.differentiable:
        cotangents = Maker(seed=1)
        total: Any = sum((out * cotangents.normal(*out.shape).to(out)).sum() for out in outputs if out.requires_grad)
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        results |= {
            f"gradient {name}": gradient
            for name, gradient in zip(leaves, gradients, strict=True)
            if gradient is not None
        }
    return results
