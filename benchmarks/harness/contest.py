"""A contest: implementations of the same work, each checked, then all timed against each other."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch

from benchmarks.harness.interruption import Interruption
from benchmarks.harness.load import OtherWork
from benchmarks.harness.timing import Effort, Run, Spread, interleave, ratio, spread
from xmae_fast.backend import BackendError
from xmae_fast.testing import Error

PLAIN, BASELINE, OURS, INFO = "plain path", "baseline", "xmae_fast", "information"
OK, FAILED, BROKEN, LEFT_OUT = "ok", "FAILED", "could not run", "left out"
RUNNING = "running"  # only in files: what was being built or checked when the process ended
WITHOUT = "left out by --without"
FIRST_LOOK = Effort(budget_s=0.3, min_rounds=3, max_rounds=20)


class ContextLost(RuntimeError):
    """A kernel's fault has taken the process's GPU context along: only a new process can go on."""


@dataclass(frozen=True)
class Contestant:
    """One implementation.

    Attributes:
        build: makes the callable that is timed (inputs, weights, compilation); only now is memory taken.
        check: compares what that callable computes with float64; AssertionError where it is out of bounds.
        role: PLAIN (what ratios refer to), BASELINE, OURS, or INFO (another precision: shown, without ratios).
        left_out: why it is not run at all; it is listed all the same.
        part: the part of the work that it does, where a group is divided into parts; only those of one part compete.
        flops: of that part.
        peak: measures the most memory in bytes that one call holds, where counting in this process would not do.
        remark: what is to be said once it was timed, behind the table.
        stands: whether, as built, it is of the group's class of precision; if not, its row is INFO.
        share: of the group's work that one call does, where all of it would take too long; times are divided by it.
    """

    name: str
    build: Callable[[], Run]
    check: Callable[[Run], list[Error]]
    role: str = BASELINE
    note: str = ""
    left_out: str = ""
    part: str = ""
    flops: int = 0
    peak: Callable[[], int] | None = None
    remark: Callable[[], str] | None = None
    stands: Callable[[], bool] | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Group:
    """Contestants that do the same work on the same sizes: `items` of `unit`, `flops` and `bytes_moved` per call.

    Attributes:
        precision: class of the arithmetic, "float32", "bfloat16" or "int8"; ratios never lead from one to another.
        settle_s: pause before each sample, where threads of one runtime would spin on while the next one is timed.
        after_other_work: each sample is one call after an `Interruption`.
        informative: it has no headline.
        not_in_sum: those of the contestants' parts that do not add up to the work.
    """

    title: str
    contestants: list[Contestant]
    items: int = 1
    unit: str = "calls"
    flops: int = 0
    bytes_moved: int = 0
    cold: bool = False
    precision: str = ""
    settle_s: float = 0.0
    after_other_work: bool = False
    informative: bool = False
    not_in_sum: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """The title, with the class of precision."""
        return self.title if self.precision in self.title else f"{self.title}, {self.precision}"


@dataclass
class Row:
    """What became of one contestant; `seconds` per call, one figure per round; `setup_s` includes compilation.

    `alone`: its rounds are not those of the others in its group.
    """

    name: str
    role: str
    status: str = OK
    note: str = ""
    errors: list[Error] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    setup_s: float = 0.0
    peak_bytes: int = 0
    part: str = ""
    flops: int = 0
    alone: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """A row of `Result.to_dict`."""
        return cls(**values | {"errors": [Error(**error) for error in values["errors"]]})


@dataclass
class Result:
    """A finished group; `other_work` is the share of the processors that other processes used during timing."""

    group: Group
    rows: list[Row]
    other_work: float = 0.0

    def timed(self, *roles: str) -> list[Row]:
        """Rows with times, the fastest first; of all roles unless some are named."""
        rows = [row for row in self.rows if row.seconds and (not roles or row.role in roles)]
        return sorted(rows, key=lambda row: sorted(row.seconds)[len(row.seconds) // 2])

    @property
    def plain(self) -> Row | None:
        return next((row for row in self.rows if row.role == PLAIN and row.seconds), None)

    @property
    def best_baseline(self) -> Row | None:
        """The fastest row that is not ours, the plain path included."""
        return next(iter(self.timed(PLAIN, BASELINE)), None)

    @property
    def best_ours(self) -> Row | None:
        return next(iter(self.timed(OURS)), None)

    def speed(self, row: Row, reference: Row | None) -> Spread | None:
        """How many times as fast as `reference` a row is, by paired rounds; by medians where rounds are no pairs."""
        if not reference or not row.seconds:
            return None
        if row.alone or reference.alone:
            return Spread(*[spread(reference.seconds).median / spread(row.seconds).median] * 3)
        return ratio(reference.seconds, row.seconds)

    def parts(self) -> dict[str, Result]:
        """A result for each part, in order; empty where the work is not divided."""
        rows: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.part:
                rows.setdefault(row.part, []).append(row)
        return {name: Result(replace(self.group, title=name, flops=part[0].flops), part) for name, part in rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        about = {key: value for key, value in vars(self.group).items() if key != "contestants"}
        rows = [asdict(row) | {"errors": [error._asdict() for error in row.errors]} for row in self.rows]
        return about | {"other_work": self.other_work, "rows": rows}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """A result of `to_dict`, without what could be run again."""
        names = {one.name for one in fields(Group)} - {"contestants"}
        about = {name: value for name, value in values.items() if name in names}
        about["not_in_sum"] = tuple(about.get("not_in_sum", ()))
        rows = [Row.from_dict(row) for row in values["rows"]]
        return cls(Group(contestants=[], **about), rows, values["other_work"])


def measure(
    group: Group,
    device: torch.device,
    effort: Effort,
    report: Callable[[str], None],
    known: Mapping[tuple[str, str], Row] | None = None,
    save: Callable[[Result], None] | None = None,
) -> Result:
    """Build and check each contestant, then time those that passed, interleaved.

    A baseline that cannot be built or called is listed with the reason; wrong numbers, and any failure of ours, FAIL.

    Args:
        known: rows of an earlier process by part and name; these contestants are not run, and nothing is timed in turns
            with them.
        save: is called before and after each contestant, which then is timed briefly by itself at once, and at the
            end: a process that is ended keeps what it knows.

    Raises:
        ContextLost: after `save` of the row that has lost it.
    """
    known, rows, runs = known or {}, [], {}
    between = Interruption(torch.get_num_threads()) if group.after_other_work else None

    def saved() -> None:
        """With the known rows that are still to come: they must not be lost if the process ends now."""
        later = ((one.part, one.name) for one in group.contestants[len(rows) :])
        if save is not None:
            save(Result(group, [*rows, *(known[key] for key in later if key in known)]))

    for contestant in group.contestants:
        if (contestant.part, contestant.name) in known:
            rows.append(known[contestant.part, contestant.name])
            continue
        about = {"part": contestant.part, "flops": contestant.flops}
        row = Row(contestant.name, contestant.role, note=contestant.note, **about)
        rows.append(row)
        if contestant.left_out:
            row.status, row.note = LEFT_OUT, contestant.left_out
            continue
        report(f"{group.title}: checking {contestant.name}")
        row.status = RUNNING
        saved()
        run = _checked(contestant, row)
        if run is None:
            saved()
            _need_context(device, row, saved)
            continue
        runs[contestant.name] = run
        if contestant.stands is not None and not contestant.stands():
            row.role = INFO
        try:
            row.peak_bytes = contestant.peak() if contestant.peak else peak_bytes(run, device)
        except (OSError, RuntimeError) as error:
            row.note = f"peak memory not measured: {_shortened(error)}"
        if save is not None:
            seconds = interleave({"": run}, device, FIRST_LOOK, group.cold, between=between)[""]
            _take_times(row, contestant, seconds, alone=True)
        saved()
    if not runs:
        return Result(group, rows)
    for row in rows:
        row.alone = row.alone or (bool(row.seconds) and row.name not in runs)  # known ones were timed in other rounds
    report(f"{group.title}: timing")
    others = OtherWork()
    for name, seconds in interleave(runs, device, effort, group.cold, group.settle_s, between).items():
        contestant, row = next(pair for pair in zip(group.contestants, rows, strict=True) if pair[1].name == name)
        _take_times(row, contestant, seconds, alone=False)
        if contestant.remark is not None:
            row.note = contestant.remark()
    result = Result(group, rows, others.share())
    if save is not None:
        save(result)
    return result


def _checked(contestant: Contestant, row: Row) -> Run | None:
    """Build and check it; `row` says what came of it."""
    start = time.perf_counter()
    try:
        with redirect_stderr(io.StringIO()):  # compilers are talkative
            run = contestant.build()
            run(0)
        row.setup_s = time.perf_counter() - start
        row.errors = contestant.check(run)
    except AssertionError as error:
        row.status, row.note = FAILED, str(error)
    except Exception as error:  # compilers raise anything; the reason is listed
        row.status = FAILED if contestant.role == OURS else BROKEN
        launch = culprit(error)
        row.note = f"{type(error).__name__}: {_shortened(error)}{f' in {launch}' if launch else ''}"
        if isinstance(error, BackendError) and WITHOUT in str(error):
            row.status, row.note = LEFT_OUT, WITHOUT
    else:
        row.status = OK
        return run
    return None


def culprit(error: BaseException | None) -> str:
    """The launch that an error, or what caused it, comes from, in words (ops/_launch.py); '' if it comes from none."""
    while error is not None:
        if found := getattr(error, "launch", ""):
            return found
        error = error.__cause__ or error.__context__
    return ""


def _take_times(row: Row, contestant: Contestant, seconds: list[float], *, alone: bool) -> None:
    row.seconds = [s / contestant.share for s in seconds]
    row.alone = alone


def _need_context(device: torch.device, row: Row, saved: Callable[[], None]) -> None:
    """Raise ContextLost where a failure has made the GPU unusable for this process."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        row.note += f" (the GPU context is lost: {_shortened(error)})"
        saved()
        raise ContextLost(row.note) from error


def by_worth(contestants: list[Contestant]) -> list[Contestant]:
    """For a run that may be cut off: ours first, and of ours the captured ones, the others in their order."""
    return sorted(contestants, key=lambda one: (one.role != OURS, "GraphedStep" not in one.name))


def failures(results: list[Result]) -> Iterator[str]:
    """A line per contestant whose numbers were wrong."""
    for result in results:
        for row in result.rows:
            if row.status == FAILED:
                yield f"{result.group.title}, {row.name}: {row.note}"


def _shortened(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def peak_bytes(run: Run, device: torch.device) -> int:
    """Most device memory that one call holds beyond what was there; 0 on a CPU, which does not count it."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run(1)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
