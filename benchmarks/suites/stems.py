"""The stems of a training step, of a whole PPG and the visible part of an ECG together: forward, and with gradients.

In the precision of the run and with the batch's statistics. On a GPU all are captured as CUDA graphs, stock PyTorch
too, so that kernels are timed and not how fast Python launches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from benchmarks.harness.contest import BASELINE, OURS, PLAIN, Contestant, Group, by_worth
from benchmarks.harness.context import Context
from benchmarks.harness.numerics import Yardstick, season
from benchmarks.models.plain import PlainStem
from benchmarks.models.stock import ChannelsLastStem, compiled, forget_compiled, with_weights_of
from benchmarks.suites.ops import usable_impls
from xmae_fast import _graphs as graphs
from xmae_fast import ops
from xmae_fast.model.stem import UNetHalfInceptionStem1D
from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem.cases import stem_macs
from xmae_fast.testing import Error

BATCH_NORMS = 17  # one behind the other on the longest way through a stem
Signals = tuple[Tensor, Tensor]  # PPG [B, 1, L], visible ECG [B, 1, L_visible]
Forward = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def groups(context: Context) -> Iterator[Group]:
    """One batch size: 64 on a CPU, 512 on a GPU, 8 when quick."""
    forget_compiled()
    B = 8 if context.quick else 512 if context.device.type == "cuda" else 64
    for backward in (False, True):
        yield group(context, B, backward=backward)


def group(context: Context, B: int, *, backward: bool) -> Group:
    """The contest of one batch size, forward alone or with gradients of all weights."""
    return _Stems(context, B, backward).group()


def ours(context: Context, B: int, impl: str) -> StemsRun:
    """Forward and gradients by `ops.conv_stems`."""
    return _Stems(context, B, backward=True).ours(impl)


class StemsRun:
    """Calling it computes the features of a batch and, where wanted, gradients of a fixed projection of them.

    Args:
        forward: both signals -> features [B, S, L] of each, of any further dimensions of size 1.
        stems: modules whose parameters get the gradients.
        data: batches to rotate through.
    """

    def __init__(
        self, context: Context, forward: Forward, stems: nn.Module, data: list[Signals], backward: bool
    ) -> None:
        self.context, self.forward, self.backward, self.data = context, forward, backward, data
        self.parameters = list(stems.parameters())
        self.dtype = self.parameters[0].dtype
        self.inputs = tuple(x.to(self.dtype, copy=True) for x in data[0])
        self.cotangents = [Maker(1).normal(x.shape[0], 32, x.shape[2]).to(x) for x in self.inputs]
        self.replay: graphs.Replay | None = None

    def compute(self) -> tuple[Tensor, ...]:
        """Features of `inputs`, then gradients."""
        with torch.set_grad_enabled(self.backward), self._autocast():
            features = self.forward(*self.inputs)
        if not self.backward:
            return features
        pairs = zip(features, self.cotangents, strict=True)
        cotangents = [given.view(x.shape).to(x.dtype) for x, given in pairs]
        return *features, *torch.autograd.grad(features, self.parameters, cotangents)

    def __call__(self, i: int) -> tuple[Tensor, ...]:
        """Of a batch; on a GPU the first call captures a graph."""
        if self.replay is None and self.context.device.type == "cuda":
            self.replay = self._captured()
        self._load(i)
        return self.compute() if self.replay is None else self.replay()

    def probe(self) -> dict[str, Tensor]:
        """Results of the first batch, by a graph where there is one: features, and gradients in one vector."""
        self._load(0)
        results = [x.detach() for x in (self.compute() if self.replay is None else self.replay())]
        named = {"PPG features": results[0].flatten(), "ECG features": results[1].flatten()}
        return named | ({"gradients": torch.cat([x.flatten() for x in results[2:]])} if self.backward else {})

    def _load(self, i: int) -> None:
        for x, given in zip(self.inputs, self.data[i % len(self.data)], strict=True):
            x.copy_(given)

    def _captured(self) -> graphs.Replay:
        def warm_up() -> None:
            for _ in range(graphs.WARM_UP):
                self.compute()

        graphs.on_side_stream(warm_up, self.context.device)
        return graphs.Replay(self.compute, torch.cuda.graph_pool_handle())

    def _autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float64 and self.context.dtype == torch.bfloat16
        return torch.autocast(self.context.device.type, torch.bfloat16, enabled=enabled)


class _Stems:
    """The contestants of one batch size and their float64 results."""

    def __init__(self, context: Context, B: int, backward: bool) -> None:
        self.context, self.B, self.backward = context, B, backward
        self.lengths = context.cfg.seq_len, context.kept * context.cfg.patch_len

    def group(self) -> Group:
        impls = self._impls()
        macs = self.B * sum(stem_macs(L, 32) for L in self.lengths)
        contestants = [
            Contestant("plain PyTorch", self.plain, self._check, PLAIN),
            Contestant("stock: channels-last", self.stock, self._check_baseline, BASELINE),
            Contestant(
                "stock: the same + torch.compile",
                lambda: self.stock(True),
                self._check_baseline,
                BASELINE,
                left_out=self.context.left_out("default" if self.context.device.type == "cuda" else "all"),
            ),
            *(Contestant(f"xmae_fast impl={one}", partial(self.ours, one), self._check, OURS) for one in impls),
        ]
        return Group(
            title=f"both stems in training, {'forward + backward' if self.backward else 'forward'}: B={self.B}",
            contestants=by_worth(contestants) if self.context.device.type == "cuda" else contestants,
            items=self.B,
            unit="samples",
            flops=2 * macs * (3 if self.backward else 1),
        )

    def _impls(self) -> list[str]:
        """Ours that run here, those that "auto" passes over too, without the reference."""
        dtype = self.context.dtype
        both = (usable_impls("conv_stem", self.context.device, automatic=a, dtype=dtype) for a in (True, False))
        return [impl for some in both for impl in some if impl != "reference"]

    @cached_property
    def data(self) -> list[Signals]:
        L = self.lengths[1]
        return [(ppg[:, None].contiguous(), ecg[:, None, :L].contiguous()) for ppg, ecg in self.context.batches(self.B)]

    def plain(self) -> StemsRun:
        return self._run(self._seasoned())

    def stock(self, compiling: bool = False) -> StemsRun:
        stems = nn.ModuleList(with_weights_of(ChannelsLastStem(32), one) for one in self._seasoned())
        return self._run(stems, [compiled(stem) for stem in stems] if compiling else None)

    def ours(self, impl: str) -> StemsRun:
        stems = nn.ModuleList(with_weights_of(UNetHalfInceptionStem1D(), one) for one in self._seasoned())

        def forward(*xs: Tensor) -> tuple[Tensor, ...]:
            return ops.conv_stems(xs, tuple(stem.params() for stem in stems), training=True, impl=impl)

        return StemsRun(self.context, forward, stems, self.data, self.backward)

    def _run(self, stems: nn.ModuleList, calls: list[Callable] | None = None) -> StemsRun:
        """Each stem, or what is called in its place, with its signal."""

        def forward(*xs: Tensor) -> tuple[Tensor, ...]:
            return tuple(call(x) for call, x in zip(calls or stems, xs, strict=True))

        return StemsRun(self.context, forward, stems, self.data, self.backward)

    def _seasoned(self) -> nn.ModuleList:
        """New ones, always with the same weights."""
        torch.manual_seed(0)
        return nn.ModuleList(season(PlainStem(32), seed) for seed in range(2)).to(self.context.device).train()

    @cached_property
    def _yardstick(self) -> Yardstick:
        exact, plain = self._run(self._seasoned().double()), self.plain()
        return Yardstick(exact.probe(), plain.probe(), self.context.dtype)

    def _check(self, run: StemsRun) -> list[Error]:
        return self._yardstick.check(run.probe())

    def _check_baseline(self, run: StemsRun) -> list[Error]:
        """What sums in one BatchNorm lose (see there) passes through the next ones: at worst all of it adds up."""
        return self._yardstick.check(run.probe(), summed=BATCH_NORMS**2 * self.data[0][0].numel())
