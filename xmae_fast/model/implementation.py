"""Which implementation a model's operators use, and which parts of it run as they are because they are not standard."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from xmae_fast import backend
from xmae_fast.backend import choice_of
from xmae_fast.model.blocks import Bridger
from xmae_fast.model.calls import own_forward
from xmae_fast.model.path import SinglePath
from xmae_fast.model.standard import Accelerated

_PARTS = (("ppg_path", SinglePath), ("ecg_path", SinglePath), ("bridger", Bridger))


class ChoosesImplementation(nn.Module):
    """The part of xMAE that holds the choice `impl` and tells it to every module that calls an operator."""

    @property
    def impl(self) -> str:
        """Which implementation the operators use; setting it checks that they can, and tells every part."""
        return self._impl

    @impl.setter
    def impl(self, value: str) -> None:
        for op in backend.MODEL_OPS:
            backend.check_usable(op, value)
        self._impl = value
        for name, part in self.named_modules():
            if isinstance(part, Accelerated):
                part.impl, part.where = value, name

    def irregular(self) -> Iterator[tuple[str, str]]:
        """(operator, '<module>: <reason>') for each module that keeps a kernel from its span, which runs as modules."""
        yield from ((", ".join(operators), fault) for operators, fault in self._foreign_parts())
        for name, part in self.named_modules():
            if isinstance(part, Accelerated) and not name.startswith("bridger.ppg2ecg"):  # these never run
                yield from ((op, part.named(fault)) for op, fault in part.faults())

    def _foreign_parts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(operators, '<name>: <reason>') for each part of another class, which runs as it is."""
        for name, kind in _PARTS:
            part = getattr(self, name)
            if isinstance(part, kind):
                decodes = {"decodes": name == "ecg_path"} if kind is SinglePath else {}
                yield from part.foreign_parts(**decodes)
            if part is not None and (why := own_forward(part, kind)):
                yield backend.MODEL_OPS, f"{name}: {why}"

    def refuse_foreign_parts(self) -> None:
        """Check that kernels which were asked for by name have standard parts to compute.

        Parts that were put in since `impl` was set are told of it.

        Raises:
            BackendError: a part of another class stands where such a kernel would be called.
        """
        if self._impl == "auto":
            return
        for name, _ in _PARTS:
            part = getattr(self, name)
            blocks = getattr(getattr(part, "encoder", None), "blocks", ()) or getattr(part, "ecg2ppg", ())
            for each in (part, getattr(part, "stem", None), getattr(part, "dec_blk", None), *blocks):
                if isinstance(each, Accelerated) and each.impl != self._impl:
                    self.impl = self._impl
        if self._impl == "reference":
            return
        for operators, fault in self._foreign_parts():
            for op in operators:
                if (choice := choice_of(self._impl, op)) not in ("auto", "reference"):
                    raise backend.BackendError(
                        f"impl={choice!r} was asked for {op}, but {fault}; impl='auto' runs it as it is"
                    )
