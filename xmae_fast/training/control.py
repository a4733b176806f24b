"""Reasons to stop a run early, which are signals and time, and how all processes stop at the same step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from torch import distributed

_MEETING_S = 1.0  # about the time between two meetings of the processes
_MOST_STEPS = 200  # between two meetings


class Signals:
    """A context in which a first SIGTERM or SIGINT (Ctrl-C) is only noted, and a second one acts as it always does.

    In threads other than the main one, where Python receives no signals, it changes nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}  # handlers as signal.signal returns and takes them

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.__exit__()


class Control:
    """Whether to stop. Every process asks once a step, and all of them get the same answer.

    A single process looks at its own clock and signals. Several processes meet about once a second, in one small
    all_reduce; between two meetings `elapsed_s`, which is that of rank 0, does not change.

    Args:
        signals: the signals that this process has received.
        limit_s: seconds after which the run is out of time; None for no limit.
        elapsed_s: seconds of the run before this process began.
        device: where the tensors of the all_reduce lie.
    """

    def __init__(self, signals: Signals, limit_s: float | None, elapsed_s: float, device: torch.device) -> None:
        self.signals, self.limit_s, self.device = signals, limit_s, device
        self._began = time.perf_counter() - elapsed_s
        self._several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self._elapsed_s, self._signal = elapsed_s, 0
        self._last = (time.perf_counter(), 0)
        self._next = 0

    @property
    def clock_s(self) -> float:
        """Seconds of the run by the clock of this process, with those before the run was resumed."""
        return time.perf_counter() - self._began

    @property
    def elapsed_s(self) -> float:
        """Seconds of the run as the processes agreed on them at their last meeting; decisions depend on these."""
        return self._elapsed_s if self._several else self.clock_s

    @property
    def signal(self) -> int:
        """The signal that has arrived at any process, or 0."""
        return self._signal if self._several else self.signals.received

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit has passed."""
        return self.limit_s is not None and self.elapsed_s >= self.limit_s

    def poll(self, step: int) -> None:
        """Let the processes meet if it is time to; called before step number `step`."""
        if not self._several or step < self._next:
            return
        now, (then, at) = time.perf_counter(), self._last
        pace = (now - then) / max(1, step - at)
        wait = max(1, min(_MOST_STEPS, int(_MEETING_S / max(pace, 1e-6))))
        leads = distributed.get_rank() == 0
        told = [self.signals.received, (now - self._began) * leads, wait * leads]
        agreed = torch.tensor(told, dtype=torch.float64, device=self.device)
        distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
        self._signal, self._elapsed_s, steps = int(agreed[0]), float(agreed[1]), int(agreed[2])
        self._last, self._next = (now, step), step + steps
