"""Frozen weights: the CPU kernels do not read all their bytes at every call to see whether they have changed.

The kernels keep weights packed, and a digest of the bytes tells whether these are still the weights. It costs a tenth
of a call with one segment. Of frozen weights the version counters are compared instead, right before each call of an
operator, and only if none has moved are the kernels told so. Whatever changes a weight so that it counts is noticed:
then all that is packed is digested once more.

Only matrices and the weights of convolutions are frozen. Vectors are small, and the running statistics of BatchNorm are
written without being counted; so their bytes are always read. Fused optimisers do not count either: after each
`step` of an optimiser all is digested once.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from xmae_fast import backend

_DTYPES = (torch.float32, torch.bfloat16)  # of weights that the kernels pack
_version_of = attrgetter("_version")
_lock = threading.RLock()  # a frozen model may be freed by a garbage collection, in the middle of anything


class _Place(NamedTuple):
    """A frozen tensor, and where it lay when it was frozen; the storage cannot go while it is here."""

    tensor: Tensor
    storage: torch.UntypedStorage
    address: int
    bytes: int


_UNSEEN = -1  # no version; the next call reads the weights once
_versions: dict[int, int] = {}  # of the frozen tensors by id, when they were last seen
_tensors: dict[int, Tensor] = {}  # the frozen tensors by id
_holds: dict[int, int] = {}  # how many holds each has, by id


class Hold:
    """Keeps tensors frozen until `release`. Several holds may have the same tensors."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        """Freeze those of `tensors` that CPU kernels may pack.

        Raises:
            RuntimeError: one of them was made under torch.inference_mode and has no version counter.
        """
        tensors = list({id(x): x for x in tensors if _may_be_packed(x)}.values())
        if any(x.is_inference() for x in tensors):
            raise RuntimeError(
                "freeze: expected weights that count their changes, got some that were made under "
                "torch.inference_mode; make or load the model outside of it"
            )
        self._places = [_Place(x, x.untyped_storage(), x.data_ptr(), x.nbytes) for x in tensors]
        with _lock:
            for x in tensors:
                _holds[id(x)] = _holds.get(id(x), 0) + 1
                _tensors[id(x)] = x
            _tell_places(self._places, on=True)
            for x in tensors:
                _versions[id(x)] = _UNSEEN
        _watch_optimisers()

    def release(self) -> None:
        """Let the tensors go; a second time does nothing."""
        with _lock:
            places, self._places = self._places, []
            for x, *_ in places:
                _holds[id(x)] -= 1
                if not _holds[id(x)]:
                    del _holds[id(x)], _versions[id(x)], _tensors[id(x)]
            _tell_places(places, on=False)


def call(operator: Callable[..., Tensor], packed: Sequence[Tensor], *args: Any) -> Tensor:
    """`operator(*args)`, an operator of the CPU kernels that keeps the weights `packed` for the next call."""
    if torch.compiler.is_compiling() or not _versions or not _unchanged(packed):
        return operator(*args)
    library = _library()
    library.xmae_fast_vouch(1)
    try:
        return operator(*args)
    finally:
        library.xmae_fast_vouch(0)


def _unchanged(weights: Sequence[Tensor]) -> bool:
    """Whether all of `weights` are frozen and as the kernels have seen them, or will look at them once more."""
    known = list(map(_versions.get, map(id, weights)))
    if None in known:
        return False
    if list(map(_version_of, weights)) != known:
        _see_versions()
    return True


def _see_versions() -> None:
    """Let the kernels read all weights once more, and remember the versions of all frozen tensors from before that.

    The order matters: a version that is read after the bytes would hide a change in between, and one that is known
    before the kernels are told would let another thread meet what was packed before the change.
    """
    with _lock:
        now = {key: x._version for key, x in list(_tensors.items())}
        _library().xmae_fast_renew_trust()
        _versions.update((key, version) for key, version in now.items() if key in _versions)


def _may_be_packed(x: Tensor) -> bool:
    return (
        type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.dim() > 1
        and x.layout == torch.strided
        and x.is_contiguous()
        and x.numel() > 0
    )


def _tell_places(places: Sequence[_Place], *, on: bool) -> None:
    if places and not backend.cpu_reason():
        count = len(places)
        addresses = (ctypes.c_void_p * count)(*(place.address for place in places))
        sizes = (ctypes.c_int64 * count)(*(place.bytes for place in places))
        _library().xmae_fast_trust_weights(addresses, sizes, count, int(on))


def _watch_optimisers() -> None:
    """From the first frozen weight on, for good: a hook cannot be removed while another thread may go through them."""
    global _watching
    with _lock:
        if not _watching:
            register_optimizer_step_post_hook(_after_step)
            _watching = True


_watching = False


def _after_step(*_: Any) -> None:
    if _versions and not backend.cpu_reason():
        _library().xmae_fast_renew_trust()


def _library() -> ctypes.PyDLL:
    """The loaded extension. Its functions keep the interpreter's lock, which takes longer to give away than they do."""
    global _loaded
    if _loaded is None:
        library = ctypes.PyDLL(str(backend.extension_file("_C_cpu")))
        arrays = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64)
        library.xmae_fast_trust_weights.argtypes = (*arrays, ctypes.c_int64, ctypes.c_int)
        library.xmae_fast_renew_trust.argtypes = ()
        library.xmae_fast_vouch.argtypes = (ctypes.c_int,)
        for name in ("trust_weights", "renew_trust", "vouch"):
            getattr(library, f"xmae_fast_{name}").restype = None
        _loaded = library
    return _loaded


_loaded: ctypes.PyDLL | None = None
