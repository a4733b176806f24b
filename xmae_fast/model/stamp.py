"""What a walk over standard modules has looked at, compared at the next call without leaving C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from xmae_fast.model.calls import CALLS, GLOBAL_HOOKS, HOOKS, calls

FORWARD_OF = attrgetter("forward", "__call__")
_HOOKS_OF, _FORWARD_HOOKS_OF = itemgetter(*HOOKS), itemgetter(*HOOKS[:2])
_MODULES_OF, _PARAMETERS_OF, _BUFFERS_OF = map(itemgetter, ("_modules", "_parameters", "_buffers"))


class Stamp:
    """All that a walk has looked at, in flat lists. The root is not in them: a model that is dropped is freed at once.

    Modules are in order of their kinds, those with tensors first and those with children last, so that each group is a
    slice of one list of their dictionaries.
    """

    def __init__(self) -> None:
        self.looked_at: list[tuple[nn.Module, Sequence[str], bool]] = []
        self.gathered: Any = None

    def add(self, module: nn.Module, settings: Sequence[str], has_tensors: bool) -> None:
        """A module that is standard, the names of its settings, and whether its tensors were looked at."""
        self.looked_at.append((module, settings, has_tensors))

    def finished(self, root: nn.Module) -> Stamp:
        numbers = {kind: number for number, kind in enumerate(dict.fromkeys(type(m) for m, *_ in self.looked_at))}
        self.looked_at.sort(key=lambda each: (not each[2], bool(each[0]._modules), numbers[type(each[0])]))
        self.modules = [module for module, *_ in self.looked_at]
        self.with_tensors = sum(has_tensors for *_, has_tensors in self.looked_at)
        self.without_children = next(
            (at for at, module in enumerate(self.modules) if at >= self.with_tensors and module._modules),
            len(self.modules),
        )
        self.parents_with_tensors = [m for m in self.modules[: self.with_tensors] if m._modules]
        self.own = own = list(map(vars, self.modules))
        self.kinds, self.sizes = list(map(type, self.modules)), list(map(len, own))
        self.used_kinds = list(numbers)
        self.forwards = list(map(FORWARD_OF, self.used_kinds))
        self.settings = list(self._settings(own))
        self.counts = list(map(len, map(_MODULES_OF, own[self.without_children :])))
        self.children, self.held = self._children(root, own), self._tensors(own)
        self.tensor_kinds = list(map(type, self.held))
        del self.looked_at
        return self

    def _settings(self, own: list[dict]) -> Iterator[tuple[Callable, slice, list]]:
        """How to read the settings of each run of modules of one kind, where they are, and what they were."""
        begin = 0
        for _, run in groupby(self.looked_at, key=lambda each: type(each[0])):
            run = list(run)
            end, keys = begin + len(run), [key for key in run[0][1] if key in own[begin]]
            if keys:
                get = itemgetter(*keys)
                yield get, slice(begin, end), list(map(get, own[begin:end]))
            begin = end

    def holds(self, root: nn.Module) -> bool:
        """Whether a walk from `root` would find what it found before."""
        if any(GLOBAL_HOOKS) or calls() != CALLS:
            return False
        own = self.own
        hooks_of = _HOOKS_OF if torch.is_grad_enabled() else _FORWARD_HOOKS_OF  # of a backward that there will be
        return (
            not any(map(any, map(hooks_of, own)))
            and list(map(len, map(_MODULES_OF, own[self.without_children :]))) == self.counts
            and _same(self._children(root, own), self.children)
            and list(map(type, self.modules)) == self.kinds
            and list(map(len, own)) == self.sizes
            and list(map(FORWARD_OF, self.used_kinds)) == self.forwards
            and all(list(map(get, own[where])) == found for get, where, found in self.settings)
            and _same(held := self._tensors(own), self.held)
            and list(map(type, held)) == self.tensor_kinds
        )

    def _children(self, root: nn.Module, own: list[dict]) -> list[nn.Module]:
        parents = own[self.without_children :]
        if self.parents_with_tensors:
            parents += map(vars, self.parents_with_tensors)
        parents.append(vars(root))
        return list(chain.from_iterable(map(dict.values, map(_MODULES_OF, parents))))

    def _tensors(self, own: list[dict]) -> list[Tensor | None]:
        own = own[: self.with_tensors]
        parameters, buffers = map(_PARAMETERS_OF, own), filter(None, map(_BUFFERS_OF, own))
        return list(chain.from_iterable(map(dict.values, chain(parameters, buffers))))


def _same(now: list, before: list) -> bool:
    return len(now) == len(before) and all(map(is_, now, before))
