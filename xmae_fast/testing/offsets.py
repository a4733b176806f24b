"""Proof that no offset of a Triton kernel leaves 32 bits where it is computed in 32 bits, by interval arithmetic.

The intermediate code of a launch is read with the launch's own grid and arguments: every integer gets the interval of
the values that it can take, and an addition, subtraction or multiplication in 32 bits whose interval leaves 32 bits is
reported if its result reaches a pointer. Values from memory have no interval and are not judged. Where a kernel
compares its program's number with a size (of two stems in one launch, say), programs on either side are judged apart.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from triton.backends.nvidia.compiler import CUDABackend

from xmae_fast.ops._launch import Launch
from xmae_fast.testing.resources import code_of, distinct

Interval = tuple[int, int]
_FITS = {"i32": (-(2**31), 2**31 - 1), "i64": (-(2**63), 2**63 - 1)}
_SAME = ("splat", "expand_dims", "broadcast", "reshape", "trans", "extsi", "extui", "trunci", "unsplat")
_DEFINED = re.compile(r"^\s*(%[\w$.-]+)(?::\d+)? = ([\w.]+)\s?(.*)$")
_LOOP = re.compile(r"scf\.for (?:unsigned )?(%[\w$.-]+) = (%[\w$.-]+) to (%[\w$.-]+) step")
_NAME = re.compile(r"%[\w$.-]+(?:#\d+)?")


class _Op(NamedTuple):
    """One operation of the intermediate code: its name, operands, the rest of its line and the kind of its result."""

    name: str
    operands: list[str]
    text: str
    kind: str  # "i32", "i64" or anything else


class _Stopped(Exception):
    def __init__(self, ttir: str) -> None:
        super().__init__()
        self.ttir = ttir


def narrow_offsets(launches: Iterable[Launch]) -> list[str]:
    """A line for every offset that may leave 32 bits: kernel, operation, interval. Empty: none can."""
    largest: dict[str, Launch] = {}
    for launch in launches:
        known = largest.setdefault(launch.kernel.__name__ + repr(launch.constants), launch)
        if _programs(launch) > _programs(known):
            largest[launch.kernel.__name__ + repr(launch.constants)] = launch
    return [line for launch in distinct(largest.values()) for line in offsets_of(launch)]


def offsets_of(launch: Launch) -> list[str]:
    """`narrow_offsets` of one launch."""
    values = {f"%{name}": value for name, value in launch.args.items() if type(value) is int}
    return [f"{launch.kernel.__name__}: {line}" for line in overflows(_ttir(launch), values, launch.grid)]


def _ttir(launch: Launch) -> str:
    """Triton's intermediate code of a launch. The stages after it, which take most of the time, are left out."""

    def stop(module: Any, _: Any) -> None:
        raise _Stopped(str(module))

    add = CUDABackend.add_stages

    def add_stages(self: CUDABackend, stages: dict[str, Any], *options: Any) -> None:
        add(self, stages, *options)
        stages["ttgir"] = stop

    with mock.patch.object(CUDABackend, "add_stages", add_stages):
        try:
            return code_of(launch, 90).asm["ttir"]  # if Triton's cache has all of it
        except _Stopped as stopped:
            return stopped.ttir


def overflows(ttir: str, values: dict[str, int], grid: tuple[int, ...]) -> list[str]:
    """Operations in 32 bits on the way to a pointer whose interval leaves 32 bits.

    Args:
        ttir: Triton's intermediate code of one kernel, calls inlined.
        values: of the integer arguments, by name ("%N").
        grid: programs along up to three axes.
    """
    ops = _parse(ttir)
    known: dict[str, Interval | None] = {name: (value, value) for name, value in values.items()}
    lines = (_overflows_among(ops, known, programs) for programs in _parts_of_grid(ops, known, grid))
    return list(dict.fromkeys(itertools.chain(*lines)))


def _parts_of_grid(
    ops: dict[str, _Op], values: dict[str, Interval | None], grid: tuple[int, ...]
) -> Iterator[tuple[Interval, ...]]:
    """Programs along the axes, cut where the kernel compares their number with a size."""
    whole = tuple((0, count - 1) for count in grid)
    cuts = [{0, count} for count in grid]
    intervals = dict(values)
    for name, op in ops.items():
        intervals[name] = _interval(op, intervals, whole)
        if op.name == "cmpi" and len(op.operands) == 2:
            number, size = (ops.get(op.operands[0]), intervals.get(op.operands[1]))
            if number and number.name == "get_program_id" and size and size[0] == size[1]:
                axis = _axis(number)
                if axis < len(grid):
                    cuts[axis] |= {at for at in (size[0], size[0] + 1) if 0 < at < grid[axis]}
    return itertools.product(*([(a, b - 1) for a, b in itertools.pairwise(sorted(cut))] for cut in cuts))


def _overflows_among(
    ops: dict[str, _Op], values: dict[str, Interval | None], programs: tuple[Interval, ...]
) -> list[str]:
    intervals, wide = dict(values), {}
    for name, op in ops.items():
        intervals[name] = found = _interval(op, intervals, programs)
        if found and op.kind == "i32" and op.name in ("addi", "subi", "muli") and not _inside(found, "i32"):
            of = ", ".join(str(intervals.get(operand)) for operand in op.operands)
            wide[name] = f"{name} = {op.name} of {of}: {found}"
            intervals[name] = None
    reached: set[str] = set()
    for op in ops.values():
        if op.name == "addptr":
            _slice(op.operands[1], ops, reached)
    return [line for name, line in wide.items() if name in reached]


def _parse(ttir: str) -> dict[str, _Op]:
    ops: dict[str, _Op] = {}
    for line in ttir.splitlines():
        line = re.sub(r" loc\(.*$", "", line)
        if loop := _LOOP.search(line):
            ops[loop[1]] = _Op("induction", [loop[2], loop[3]], "", "i32")
        if (found := _DEFINED.match(line)) and not line.lstrip().startswith("scf.for"):
            name, dialect_op, rest = found.groups()
            body, _, kinds = rest.partition(" : ")
            kind = re.search(r"(i32|i64)>?\s*$", kinds.rpartition("->")[2].rpartition(" to ")[2].strip())
            ops[name] = _Op(dialect_op.rpartition(".")[2], _NAME.findall(body), rest, kind[1] if kind else "")
    return ops


def _axis(op: _Op) -> int:
    return "xyz".index(op.text.split()[0])


def _attribute(name: str, op: _Op) -> int:
    found = re.search(rf"{name} = (\d+)", op.text)
    if found is None:
        raise ValueError(f"{op.name}: expected the attribute {name}, got {op.text!r}")
    return int(found[1])


def _interval(op: _Op, known: dict[str, Interval | None], programs: tuple[Interval, ...]) -> Interval | None:
    if op.name == "constant":
        number = re.match(r"(?:dense<)?(-?\d+)>? :", op.text)
        return (int(number[1]), int(number[1])) if number and op.kind else None
    if op.name == "get_program_id":
        axis = _axis(op)
        return programs[axis] if axis < len(programs) else (0, 0)
    if op.name == "make_range":
        return _attribute("start", op), _attribute("end", op) - 1
    operands = [known.get(name) for name in op.operands]
    if op.name == "select":
        condition, *operands = operands
        if condition in ((0, 0), (1, 1)):
            return operands[0] if condition == (1, 1) else operands[1]
    if op.name == "cmpi":
        return _comparison(op.text.split(",")[0], *operands)
    if not operands or None in operands:
        return _bounded_by_one(op, operands)
    if op.name in _SAME:
        return operands[0]
    rule = _RULES.get(op.name)
    return rule(*operands) if rule else None


def _comparison(predicate: str, a: Interval | None, b: Interval | None) -> Interval:
    """(1, 1): always true; (0, 0): never."""
    if a is None or b is None:
        return 0, 1
    if predicate in ("slt", "sle"):
        predicate, a, b = {"slt": "sgt", "sle": "sge"}[predicate], b, a
    if predicate == "sge":
        return int(a[0] >= b[1]), int(a[1] >= b[0])
    if predicate == "sgt":
        return int(a[0] > b[1]), int(a[1] > b[0])
    return 0, 1


def _bounded_by_one(op: _Op, operands: list[Interval | None]) -> Interval | None:
    """A remainder or a minimum is bounded although the other operand is not known."""
    if op.name == "remsi" and len(operands) == 2 and operands[1]:
        most = max(abs(bound) for bound in operands[1]) - 1
        return -most, most
    return None


def _corners(function: Callable[[int, int], int]) -> Callable[[Interval, Interval], Interval]:
    def rule(a: Interval, b: Interval) -> Interval:
        values = [function(x, y) for x in a for y in b]
        return min(values), max(values)

    return rule


def _quotient(x: int, y: int) -> int:
    return 0 if y == 0 else int(x / y) if abs(x) < 2**52 else x // y


_RULES: dict[str, Callable[..., Interval | None]] = {
    "addi": _corners(lambda x, y: x + y),
    "subi": _corners(lambda x, y: x - y),
    "muli": _corners(lambda x, y: x * y),
    "divsi": _corners(_quotient),
    "minsi": _corners(min),
    "maxsi": _corners(max),
    "remsi": lambda a, b: (0 if a[0] >= 0 else -(max(b) - 1), min(max(a), max(b) - 1)),
    "select": lambda a, b: (min(a[0], b[0]), max(a[1], b[1])),
    "induction": lambda low, high: (low[0], max(low[0], high[1] - 1)),
}


def _inside(interval: Interval, kind: str) -> bool:
    low, high = _FITS[kind]
    return low <= interval[0] and interval[1] <= high


def _slice(name: str, ops: dict[str, _Op], reached: set[str]) -> None:
    """All integers that `name` is computed from."""
    pending = [name]
    while pending:
        name = pending.pop()
        if name in reached or name not in ops:
            continue
        reached.add(name)
        if ops[name].name not in ("load", "cmpi", "cmpf"):
            pending += ops[name].operands


def _programs(launch: Launch) -> int:
    total = 1
    for count in launch.grid:
        total *= count
    return total
