"""When a run stops before its last step: signals, and time; and how all processes come to know it at the same step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

import torch
from torch import distributed

_MEETING_S = 1.0  # between two meetings of the processes, about
_MOST_STEPS = 200


class Signals:
    """Within it, a first SIGTERM or SIGINT (Ctrl-C) is only noted; a second one acts as it did before.

    In threads other than the main one, where Python takes no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}

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
    """Asked once a step by every process; all of them get the same answers.

    A single process answers at once. Several meet about once a second, in one small all_reduce; `elapsed_s` is rank
    0's then, and stays between two meetings.
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
        """Seconds of the run, those before it was resumed included, by this process's clock."""
        return time.perf_counter() - self._began

    @property
    def elapsed_s(self) -> float:
        """The same, as agreed on: what decisions depend on."""
        return self._elapsed_s if self._several else self.clock_s

    @property
    def signal(self) -> int:
        """The signal that has arrived at any process, or 0."""
        return self._signal if self._several else self.signals.received

    @property
    def out_of_time(self) -> bool:
        return self.limit_s is not None and self.elapsed_s >= self.limit_s

    def poll(self, step: int) -> None:
        """Before step number `step`."""
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
