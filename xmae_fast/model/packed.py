"""Weights that the CPU kernels keep packed for inference are freed together with their model.

The kernels know weights by their addresses and cannot tell whether a model still has them. So when a model is freed or
its weights move, the packed copies of all weights that no living model has are dropped. That may drop too much (a part
of a model that is used alone, tensors that the caller owns): the next call that uses such weights packs them again.
The copies are bounded even where nobody drops them: each operator keeps the 32 sets of weights that were used last.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xmae_fast import backend

_living: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_DTYPES = (torch.float32, torch.bfloat16)  # of weights that the kernels pack


def packed_bytes() -> int:
    """Bytes of weights that the CPU kernels keep packed now; 0 without them."""
    library = _library()
    return 0 if library is None else library.xmae_fast_packed_bytes()


def drop_packed() -> None:
    """Free the packed copies of weights that no living model has."""
    library = _library()
    if library is None or library.xmae_fast_packed_bytes() == 0:
        return
    with torch._C.DisableTorchFunction():
        weights = {where for model in list(_living) for where in _places(model)}
    addresses, sizes = zip(*weights, strict=True) if weights else ((), ())
    count = len(weights)
    library.xmae_fast_keep_packed((ctypes.c_void_p * count)(*addresses), (ctypes.c_int64 * count)(*sizes), count)


class FreesPackedWeights(nn.Module):
    """A module that calls `drop_packed` when it is freed, and when its weights move or are replaced."""

    def __new__(cls, *args: Any, **options: Any):
        """Copies, replicas and unpickled models are made here too, without `__init__`."""
        self = super().__new__(cls)
        _living.add(self)
        weakref.finalize(self, drop_packed).atexit = False
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        result = super()._apply(fn, recurse)
        drop_packed()
        return result

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False):
        """See `torch.nn.Module.load_state_dict`."""
        result = super().load_state_dict(state_dict, strict, assign)
        if assign:
            drop_packed()
        return result


def _library() -> ctypes.CDLL | None:
    """The loaded extension, for its plain C functions, because a model may be freed in the middle of a dispatch."""
    global _loaded
    if _loaded is None and not backend.cpu_reason():
        library = ctypes.CDLL(str(backend.extension_file("_C_cpu")))
        library.xmae_fast_packed_bytes.restype = ctypes.c_int64
        library.xmae_fast_packed_bytes.argtypes = ()
        arrays = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64)
        library.xmae_fast_keep_packed.argtypes = (*arrays, ctypes.c_int64)
        library.xmae_fast_keep_packed.restype = None
        _loaded = library
    return _loaded


_loaded: ctypes.CDLL | None = None


def _places(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Address and bytes of each tensor that the kernels may have packed.

    It also serves a model that is half made, or that changes in another thread.
    """
    modules, seen = [model], set()
    while modules:
        module = modules.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        state = module.__dict__
        for tensors in (state.get("_parameters", {}), state.get("_buffers", {}), state):
            for x in list(tensors.values()):
                if type(x) in (Tensor, nn.Parameter) and x.dtype in _DTYPES and x.device.type == "cpu":
                    yield x.data_ptr(), x.numel() * x.element_size()
        modules += list(state.get("_modules", {}).values())
