"""Evaluation of modules that may be in training mode, and are in it again afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

_lock = threading.Lock()
_evaluations: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # how many threads evaluate this module now


@contextmanager
def evaluating(*parts: nn.Module | None) -> Iterator[None]:
    """Put `parts` and all their modules into evaluation mode, and each back into its own mode afterwards.

    Several threads may do so with the same modules. One that trains them meanwhile would find them in evaluation mode.
    """
    modules = [module for part in parts if part is not None for module in part.modules()]
    if torch.compiler.is_compiling():
        modules = [module for module in modules if module.training]
        for module in modules:
            module.training = False
    else:
        modules = _enter(modules)
    try:
        yield
    finally:
        if torch.compiler.is_compiling():
            for module in modules:
                module.training = True
        else:
            _leave(modules)


def _enter(modules: list[nn.Module]) -> list[nn.Module]:
    """Evaluate `modules`; returns those in training mode, or that would be in it if no other thread evaluated them."""
    with _lock:
        modules = [module for module in modules if module.training or module in _evaluations]
        for module in modules:
            _evaluations[module] = _evaluations.get(module, 0) + 1
            module.training = False
    return modules


def _leave(modules: list[nn.Module]) -> None:
    """Undo `_enter` for the modules that it returned; the last thread to leave brings training mode back."""
    with _lock:
        for module in modules:
            _evaluations[module] -= 1
            if not _evaluations[module]:
                del _evaluations[module]
                module.training = True
