"""Freezing of a model: its weights are watched by their version counters, so that inference need not read them again.

`xmae_fast.ops._frozen` says what is watched and how. Here is who asks for it: a model that its owner freezes until
further notice, and a loop that freezes a model while it computes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn

from xmae_fast.model.packed import FreesPackedWeights
from xmae_fast.ops._frozen import Hold

_Model = TypeVar("_Model", bound="Freezes")
# What ends the freezing of each frozen model. It is not part of the model, so that copies and pickles are not frozen.
_ends: weakref.WeakKeyDictionary[nn.Module, weakref.finalize] = weakref.WeakKeyDictionary()


class Freezes(FreesPackedWeights):
    """A model that can be frozen: on a CPU, inference then no longer reads all weights at every call."""

    @property
    def is_frozen(self) -> bool:
        """Whether `freeze` was called, and not `unfreeze` after it."""
        return self in _ends

    def freeze(self: _Model) -> _Model:
        """Let inference on a CPU watch the weights' version counters instead of reading all weights at every call.

        The C++ kernels keep the weights packed, and read them at every call to see whether they have changed: a tenth
        of the time of a call with one segment. Of a frozen model they read only the vectors (biases, norms and
        their statistics), and the matrices once more after any of them has changed. Results are the same bit for bit.
        Nothing else changes: modes, gradients, training, files and copies of the model, which are not frozen. On
        another device, and where the modules themselves or a graph of torch.compile compute, freezing has no effect.

        The model may be trained or loaded while it is frozen. Changes in place, steps of optimisers,
        `load_state_dict`, replaced parameters (`p.data = other` too) are noticed. **Not noticed** are writes to a
        matrix that PyTorch does not count: through `p.data` (`p.data.mul_(2)`) or another tensor over the same memory
        that `.data` has made, through NumPy, a storage or a pointer, by another process, and by operators of PyTorch
        that do not count (`torch._fused_adam_` without its optimiser). Call `freeze` again after such writes.

        Returns:
            The model.

        Raises:
            RuntimeError: weights were made under torch.inference_mode, which gives them no version counters.
        """
        hold = Hold(chain(self.parameters(), self.buffers()))
        self.unfreeze()
        _ends[self] = end = weakref.finalize(self, hold.release)
        end.atexit = False
        return self

    def unfreeze(self: _Model) -> _Model:
        """Undo `freeze`: every call reads all weights again. Returns the model."""
        if (end := _ends.pop(self, None)) is not None:
            end()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        result = super()._apply(fn, recurse)
        self._freeze_again()
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """See `torch.nn.Module.load_state_dict`."""
        result = super().load_state_dict(state_dict, strict, assign)
        if assign:
            self._freeze_again()
        return result

    def _freeze_again(self) -> None:
        """Freeze the tensors that the model has now in place of those that it had, or none if they cannot be."""
        if self.is_frozen:
            self.unfreeze()
            freeze_if_possible(self)


def freeze_if_possible(model: Freezes) -> None:
    """Freeze `model`, unless weights were made under torch.inference_mode and cannot be frozen."""
    with suppress(RuntimeError):
        model.freeze()


@contextmanager
def frozen(model: Freezes) -> Iterator[None]:
    """Freeze `model` while the context lasts, if it is not frozen and can be."""
    hold = None
    if not model.is_frozen:
        with suppress(RuntimeError):  # as in freeze_if_possible
            hold = Hold(chain(model.parameters(), model.buffers()))
    try:
        yield
    finally:
        if hold is not None:
            hold.release()
