"""Ctrl-C (SIGINT) and SIGTERM: a command ends in order, and says in one line what becomes of its work."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A SIGINT or SIGTERM has arrived."""


class Interrupts:
    """A context in which the first SIGINT or SIGTERM raises `Interrupted` in the main thread. The same signal once more
    ends the process at once; the other one, which torchrun sends after Ctrl-C, is not heard then.

    Outside the main thread, where Python receives no signals, it changes nothing.

    Attributes:
        received: the number of the signal that has arrived, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and the like
                    self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for other in self._before:
            signal.signal(other, signal.SIG_DFL if other == number else signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)
