"""All launches of the default model's training step and embedding on a GPU, written down without one.

python -m xmae_fast.testing.launches [--batch 512] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xmae_fast import ModelCfg, xMAE
from xmae_fast.ops import _triton
from xmae_fast.ops._launch import Launch
from xmae_fast.training import GraphedStep

PUBLISHED_CFG = ModelCfg(d_model=256, proj_dim=256, dropout=0.1)
_NO_LAUNCH = {
    "empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach", "detach_", "set_", "resize_",
    "lift_fresh", "is_same_size", "record_stream", "promote_types",
}  # fmt: skip
# PyTorch packs pointers of at most this many tensors in one launch: multi_tensor_apply by the number of its lists (as
# torch._fused_adamw_, which has 4), and torch.cat.
_FOREACH_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36}
_CAT_TENSORS = 128
_ADAMW_BYTES = 28  # of a parameter: it, its gradient and two moments are read, and all but the gradient written


class AtenLaunch(NamedTuple):
    """A launch (at least one) of PyTorch's own, e.g. "aten.cat", and the bytes of its arguments and results."""

    name: str
    bytes: int = 0


class _AtenLaunches(TorchDispatchMode):
    """Writes down PyTorch's operators that are neither views nor allocations."""

    def __init__(self, into: Callable[[], list[Any] | None]) -> None:
        super().__init__()
        self.into = into

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")
        is_view = any(x.alias_info is not None and not x.alias_info.is_write for x in func._schema.returns)
        if name[0] == "aten" and name[2] not in _NO_LAUNCH and not is_view:
            recorded = self.into()
            assert recorded is not None  # this mode is entered while launches are recorded
            place = len(recorded)
            recorded.append(AtenLaunch(f"aten.{name[2]}"))
            result = func(*args, **(kwargs or {}))
            count = _launches_for(name[2], args)
            size = bytes_of((args, kwargs, result)) // count
            recorded[place : place + 1] = [AtenLaunch(f"aten.{name[2]}", size)] * count
            return result
        return func(*args, **(kwargs or {}))


def _launches_for(name: str, args: tuple) -> int:
    """How many launches an operator of PyTorch takes for the tensors in its lists."""
    lists = [len(x) for x in args if isinstance(x, (list, tuple)) and x and isinstance(x[0], torch.Tensor)]
    if not lists or not name.startswith(("cat", "_foreach_")):
        return 1
    return -(-lists[0] // (_CAT_TENSORS if name == "cat" else _FOREACH_TENSORS[len(lists)]))


def bytes_of(values: Any) -> int:
    """The bytes of all tensors in nested values, of each place in memory once."""
    tensors = [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]
    places = {(id(x.untyped_storage()), x.storage_offset()): x.numel() * x.element_size() for x in tensors}
    return sum(places.values())


def launches_of(
    run: Callable[[Callable[[], None], Callable[[], _AtenLaunches]], Any], capability: tuple[int, int] = (9, 0)
) -> list[Launch | AtenLaunch]:
    """Everything that `run(start, watch)` would launch, in order.

    Args:
        run: calls `start()` when all is prepared, because only what happens after that counts; PyTorch's own operators
            count within `with watch():`.
        capability: the compute capability of the GPU, as in (9, 0).
    """
    watch = partial(_AtenLaunches, _triton.recorded_launches)
    with FakeTensorMode(allow_non_fake_inputs=True), _triton.recording(capability, watch) as launches:
        run(launches.clear, watch)
    return list(launches)


def training_step(B: int, autocast: torch.dtype | None, capability: tuple[int, int]) -> list[Launch | AtenLaunch]:
    """One step of the default model: masks, forward, loss, backward, fused AdamW."""

    real = xMAE(PUBLISHED_CFG, impl="triton").train()

    def run(start: Callable[[], None], watch: Callable[[], _AtenLaunches]) -> None:
        model = _faked(real)
        optimizer = cast(torch.optim.Optimizer, _NoOptimizer())  # has what a step uses of one
        step = GraphedStep(model, optimizer, autocast=autocast)
        ppg, ecg = torch.empty(2, B, PUBLISHED_CFG.seq_len)
        parameters, trained, values = list(model.parameters()), 0, 0

        def backward(loss: torch.Tensor) -> None:
            """Real gradients become `.grad` as they are; fake ones would be copied, which is no launch of a step."""
            nonlocal trained, values
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            trained += sum(gradient is not None for gradient in gradients)
            values += sum(gradient.numel() for gradient in gradients if gradient is not None)

        start()
        with watch(), mock.patch.object(torch.Tensor, "backward", backward):
            step(ppg, ecg)
        launches = _triton.recorded_launches()
        assert launches is not None  # `launches_of` records
        count = -(-trained // _FOREACH_TENSORS[4])
        launches += [AtenLaunch("aten._fused_adamw_", _ADAMW_BYTES * values // count)] * count

    return launches_of(run, capability)


def embedding(B: int, autocast: torch.dtype | None, capability: tuple[int, int]) -> list[Launch | AtenLaunch]:
    """One call of `embed` of the default model."""

    real = xMAE(PUBLISHED_CFG, impl="triton").eval()

    def run(start: Callable[[], None], watch: Callable[[], _AtenLaunches]) -> None:
        model = _faked(real)
        ppg = torch.empty(B, PUBLISHED_CFG.seq_len)
        start()
        with watch(), torch.autocast("cpu", autocast, enabled=autocast is not None):
            model.embed(ppg)

    return launches_of(run, capability)


def _faked(model: xMAE) -> xMAE:
    """`model` with fake tensors in place of its own (initial values need real ones)."""
    for module in model.modules():
        for name, x in module._parameters.items():
            module._parameters[name] = None if x is None else torch.nn.Parameter(torch.empty_like(x))
        for name, x in module._buffers.items():
            module._buffers[name] = None if x is None else torch.empty_like(x)
    return model


def production_launches(
    capability: tuple[int, int] = (9, 0),
    B: int = 512,
    precisions: Iterable[torch.dtype | None] = (torch.bfloat16, None),
) -> list[Launch]:
    """The Triton launches of a training step and an embedding; a precision is autocast's, or None for float32."""
    found = []
    for autocast in precisions:
        found += training_step(B, autocast, capability) + embedding(B, autocast, capability)
    return [launch for launch in found if isinstance(launch, Launch)]


def name_of(launch: Launch | AtenLaunch) -> str:
    return launch.name if isinstance(launch, AtenLaunch) else launch.kernel.__name__


def table(launches: Iterable[Launch | AtenLaunch]) -> str:
    """How often each kernel is launched, as markdown, most often first."""
    counts = Counter(map(name_of, launches))
    lines = [f"| {name} | {count} |" for name, count in counts.most_common()]
    return "\n".join(["| launch | times |", "|---|---|", *lines, f"| **all** | **{counts.total()}** |"])


class _NoOptimizer:
    """AdamW's launches are added by number: its kernel has no implementation for fake tensors in every torch."""

    param_groups = ()

    def zero_grad(self, set_to_none: bool = True) -> None:
        pass

    def step(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--out", type=Path, help="also write the lists here, as JSON")
    args = parser.parse_args()
    works = {"training step": training_step, "embedding": embedding}
    lists = {name: work(args.batch, torch.bfloat16, (9, 0)) for name, work in works.items()}
    for name, launches in lists.items():
        print(f"\n{name}, B = {args.batch}, bfloat16 autocast\n\n{table(launches)}")
    if args.out:
        args.out.write_text(json.dumps({name: list(map(name_of, it)) for name, it in lists.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
