"""How the mask ratio of ECG changes in a run: not at all, by validation loss (a ladder) or by step (a schedule)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

LADDER = (0.80, 0.85, 0.90)


class Curriculum(Protocol):
    """What the training loop asks of a curriculum."""

    def ratio(self, step: int) -> float:
        """The mask ratio of step number `step`, counted from 0."""
        ...

    def validated(self, loss: float) -> str:
        """Take a validation loss (one an epoch), and return what changed because of it, for the log, or ''."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class _Stateless:
    def validated(self, loss: float) -> str:
        return ""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@dataclass
class Constant(_Stateless):
    """The same ratio at every step."""

    value: float

    def ratio(self, step: int) -> float:
        return self.value


@dataclass
class Schedule(_Stateless):
    """Ratios that are given for some steps.

    Args:
        points: pairs (step, ratio), with rising steps. Before the first point its ratio holds, after the last one the
            last ratio.
        linear: True for straight lines between the points; False lets each ratio hold until the next point.

    Raises:
        ValueError: `points` is something else.
    """

    points: Sequence[tuple[int, float]]
    linear: bool = True

    def __post_init__(self) -> None:
        points: list[Any] = [tuple(point) if isinstance(point, (list, tuple)) else point for point in self.points]
        fits = points and all(
            isinstance(point, tuple) and len(point) == 2 and isinstance(point[0], int) and _is_ratio(point[1])
            for point in points
        )
        if not fits or any(a[0] >= b[0] for a, b in pairwise(points)):
            raise ValueError(
                f"curriculum.schedule: expected [step, ratio] pairs, steps rising, ratios in [0, 1], got {self.points}"
            )
        self.points = points

    def ratio(self, step: int) -> float:
        after = bisect_right(self.points, step, key=lambda point: point[0])
        if after == 0 or after == len(self.points) or not self.linear:
            return self.points[max(after - 1, 0)][1]
        (s0, r0), (s1, r1) = self.points[after - 1 : after + 1]
        return r0 + (r1 - r0) * (step - s0) / (s1 - s0)


@dataclass
class Ladder:
    """The published curriculum, which goes from each of `ratios` (a rung) to the next.

    The first rung begins once a validation loss lies below `start_below`. The next one begins when the exponential
    moving average of the losses has come down by the share `improvement` since the rung began, and the rung has had at
    least `min_epochs` validations.

    Args:
        before: the ratio before the first rung.
        ratios: the ratios of the rungs.
        start_below: the loss below which the first rung begins.
        beta: decay of the moving average, in [0, 1).
        improvement: in [0, 1).
        min_epochs: validations.
        level, average, entry, epochs: the state, as `state_dict` returns it.

    Raises:
        ValueError: an option is no such number.
    """

    before: float
    ratios: Sequence[float] = LADDER
    start_below: float = 0.09
    beta: float = 0.8
    improvement: float = 0.1
    min_epochs: int = 3
    level: int = -1  # number of the rung; -1 before the first
    average: float = 0.0
    entry: float = 0.0  # the average when the rung began
    epochs: int = 0  # validations since the rung began

    def __post_init__(self) -> None:
        if not (isinstance(self.ratios, (list, tuple)) and self.ratios and all(map(_is_ratio, self.ratios))):
            raise ValueError(f"curriculum.ladder: expected ratios in [0, 1], got {self.ratios!r}")
        for name in ("start_below", "beta", "improvement", "min_epochs"):
            value = getattr(self, name)
            if not _is_number(value) or value < 0 or (name in ("beta", "improvement") and value >= 1):
                raise ValueError(f"curriculum.{name}: expected a number >= 0, of a share < 1, got {value!r}")

    def ratio(self, step: int) -> float:
        return self.before if self.level < 0 else self.ratios[self.level]

    def validated(self, loss: float) -> str:
        if self.level < 0:
            if loss >= self.start_below:
                return ""
            self.level, self.average, self.entry, self.epochs = 0, loss, loss, 0
            return f"the curriculum begins at mask ratio {self.ratios[0]:g}, validation loss {loss:.4g}"
        self.average = self.beta * self.average + (1 - self.beta) * loss
        self.epochs += 1
        climbs = self.average <= (1 - self.improvement) * self.entry and self.epochs >= self.min_epochs
        if not climbs or self.level + 1 == len(self.ratios):
            return ""
        was, self.level, self.entry, self.epochs = self.entry, self.level + 1, self.average, 0
        return f"mask ratio {self.ratios[self.level]:g}: averaged validation loss {was:.4g} -> {self.average:.4g}"

    def state_dict(self) -> dict[str, Any]:
        return {name: asdict(self)[name] for name in ("level", "average", "entry", "epochs")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not -1 <= state["level"] < len(self.ratios):
            raise ValueError(f"curriculum: the state is on rung {state['level']}, this ladder has {len(self.ratios)}")
        for name in ("level", "average", "entry", "epochs"):
            setattr(self, name, state[name])


_LADDER_KEYS = ("ladder", "start_below", "beta", "improvement", "min_epochs")
_SCHEDULE_KEYS = ("schedule", "interpolation")


def make_curriculum(options: Mapping[str, Any] | None, mask_ratio: float) -> Curriculum:
    """The curriculum that a configuration describes.

    Args:
        options: {"schedule": [[step, ratio], ...], "interpolation": "linear" (default) or "steps"}; or any keys of the
            published {"ladder": [0.80, 0.85, 0.90], "start_below": 0.09, "beta": 0.8, "improvement": 0.1,
            "min_epochs": 3}; or None for a constant ratio.
        mask_ratio: the constant ratio, and the one before a ladder begins.

    Raises:
        ValueError: a key is unknown or its value is wrong; the message names it.
    """
    if options is None:
        return Constant(mask_ratio)
    known = _SCHEDULE_KEYS if "schedule" in options else _LADDER_KEYS
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"curriculum: unknown key {unknown[0]!r}; known keys are {', '.join(known)}")
    if "schedule" not in options:
        values = dict(options)
        return Ladder(mask_ratio, values.pop("ladder", LADDER), **values)
    how = options.get("interpolation", "linear")
    if how not in ("linear", "steps"):
        raise ValueError(f"curriculum.interpolation: expected 'linear' or 'steps', got {how!r}")
    if not isinstance(options["schedule"], (list, tuple)):
        raise ValueError(f"curriculum.schedule: expected a list of [step, ratio], got {options['schedule']!r}")
    return Schedule(options["schedule"], how == "linear")


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _is_ratio(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and 0 <= x <= 1
