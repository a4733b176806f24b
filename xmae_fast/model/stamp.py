"""A record of all that a walk over standard modules has looked at; the next call compares it without leaving C."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from xmae_fast.model.calls import CALLS, GLOBAL_HOOKS, HOOKS, calls

FORWARD_OF = attrgetter("forward", "__call__")
_HOOKS_OF = tuple(map(itemgetter, HOOKS))  # one getter for each kind of hooks: a pass each, without a tuple per module
_FORWARD_HOOKS_OF = _HOOKS_OF[:2]
_MODULES_OF, _PARAMETERS_OF, _BUFFERS_OF = map(itemgetter, ("_modules", "_parameters", "_buffers"))
_END = object()


class Stamp:
    """All that a walk has looked at, in flat lists. The root is not in them: a model that is dropped is freed at once.

    Modules are in order of their kinds, those with tensors first and those with children last, so that each group is a
    slice of one list of their dictionaries.
    """

    def __init__(self) -> None:
        self.looked_at: list[tuple[nn.Module, Sequence[str], bool]] = []
        self.gathered: Any = None

    def add(self, module: nn.Module, settings: Sequence[str], has_tensors: bool) -> None:
        """Add a module that is standard, the names of its settings, and whether its tensors were looked at."""
        self.looked_at.append((module, settings, has_tensors))

    def finished(self, root: nn.Module) -> Stamp:
        """This stamp, after the walk from `root` has added all modules."""
        numbers = {kind: number for number, kind in enumerate(dict.fromkeys(type(m) for m, *_ in self.looked_at))}
        self.looked_at.sort(key=lambda each: (not each[2], bool(each[0]._modules), numbers[type(each[0])]))
        self.modules = [module for module, *_ in self.looked_at]
        with_tensors = sum(has_tensors for *_, has_tensors in self.looked_at)
        without_children = next(
            (at for at, module in enumerate(self.modules) if at >= with_tensors and module._modules),
            len(self.modules),
        )
        self.own = own = list(map(vars, self.modules))
        self.own_with_tensors, self.own_with_children = own[:with_tensors], own[without_children:]
        self.own_with_both = [each for each in self.own_with_tensors if each["_modules"]]
        self.kinds, self.sizes = list(map(type, self.modules)), list(map(len, own))
        self.used_kinds = list(numbers)
        self.forwards = list(map(FORWARD_OF, self.used_kinds))
        self.settings = list(self._settings(own))
        children = self._children(root)
        self.counts = list(map(len, children))
        self.children = [*chain.from_iterable(map(dict.values, children)), _END]
        self.held = [*self._tensors(), _END]
        self.tensor_kinds = list(map(type, self.held))
        del self.looked_at
        return self

    def _settings(self, own: list[dict]) -> Iterator[tuple[Callable, list[dict], list]]:
        """For each run of modules of one kind: a reader of its settings, the dictionaries, and the settings."""
        begin = 0
        for _, run in groupby(self.looked_at, key=lambda each: type(each[0])):
            run = list(run)
            end, keys = begin + len(run), [key for key in run[0][1] if key in own[begin]]
            if keys:
                get = itemgetter(*keys)
                yield get, own[begin:end], list(map(get, own[begin:end]))
            begin = end

    def holds(self, root: nn.Module) -> bool:
        """Whether a walk from `root` would find what it found before."""
        if any(GLOBAL_HOOKS) or calls() != CALLS:
            return False
        own = self.own
        for hooks_of in _HOOKS_OF if torch.is_grad_enabled() else _FORWARD_HOOKS_OF:  # no gradient: no backward hooks
            if any(map(hooks_of, own)):
                return False
        children = self._children(root)
        return (
            list(map(len, children)) == self.counts
            and _same(chain.from_iterable(map(dict.values, children)), self.children)
            and list(map(type, self.modules)) == self.kinds
            and list(map(len, own)) == self.sizes
            and list(map(FORWARD_OF, self.used_kinds)) == self.forwards
            and all(list(map(get, some)) == found for get, some, found in self.settings)
            and _same(self._tensors(), self.held)
            and list(map(type, self.held)) == self.tensor_kinds
        )

    def _children(self, root: nn.Module) -> list[dict[str, nn.Module | None]]:
        """The dictionaries of children of every module that had some, the root's last."""
        return list(map(_MODULES_OF, chain(self.own_with_children, self.own_with_both, (vars(root),))))

    def _tensors(self) -> Iterator[Tensor | None]:
        """Parameters and buffers of the modules whose tensors were looked at."""
        parameters = map(_PARAMETERS_OF, self.own_with_tensors)
        buffers = filter(None, map(_BUFFERS_OF, self.own_with_tensors))
        return chain.from_iterable(map(dict.values, chain(parameters, buffers)))


def _same(now: Iterable, before: list) -> bool:
    """Whether `now` gives the very objects of `before`, as many and in its order; `before` has _END at its end."""
    return all(map(is_, chain(now, (_END,)), before))
