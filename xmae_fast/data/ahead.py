"""Items that a background thread makes ahead of their use."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def made_ahead(make: Callable[[], Iterator[T]], count: int, prefetch: int, name: str) -> Generator[T, None, None]:
    """The first `count` items of `make()`, which runs in a thread.

    The thread starts with the first item that is asked for, and ends with the iterator, also where that is closed
    early. Nothing here holds an item while the next one is made: memory may be used again by its owner.

    Args:
        make: gives the items; it is called and iterated in the thread.
        count: how many items are asked for at most.
        prefetch: how many are made ahead.
        name: of the thread.

    Raises:
        Whatever `make` or its iterator raises, in place of the item that could not be made.
    """
    ready: queue.Queue = queue.Queue(prefetch)
    stop = threading.Event()
    thread = threading.Thread(target=_make, args=(make, ready, stop), name=name, daemon=True)
    thread.start()
    try:
        for _ in range(count):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            del item
    finally:
        stop.set()
        while thread.is_alive():  # it may be waiting to hand over an item
            with suppress(queue.Empty):
                ready.get_nowait()
            thread.join(timeout=0.001)


def _make(make: Callable[[], Iterator[Any]], ready: queue.Queue, stop: threading.Event) -> None:
    """Run by the thread: put the items into `ready`, or the exception that ends them."""
    try:
        items = make()
        while not stop.is_set():
            ready.put(next(items))
    except StopIteration:
        return
    except BaseException as error:
        ready.put(error)
