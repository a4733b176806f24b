"""The convolutional stem and the patch embedding as modules, under the published names.

Letters: B batch, L samples, S channels that the stem returns, P patch length, N = L / P patches, D width of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmae_fast import ops
from xmae_fast.backend import choice_of
from xmae_fast.model import standard
from xmae_fast.model.calls import own_forward, own_reason
from xmae_fast.model.standard import Accelerated, Span, Standard
from xmae_fast.ops.conv_stem import ConvBN, Inception, StemParams

STEM_WIDTHS = (32, 64, 128)
_MOMENTUM = 0.1  # of the kernels, and BatchNorm's default
_LEVELS, _LAYERS = ("enc1", "enc2", "enc3"), ("down1", "down2", "smooth2", "smooth1", "head")
_MIXES = ("lat2", "lat1", "red3to2", "red2to1")


class ConvBNAct(nn.Sequential):
    """Conv1d without bias (padding k // 2), BatchNorm1d, SiLU: [B, c_in, L] -> [B, c_out, ceil(L / stride)]."""

    _modules: dict[str, Any]  # read without the search of torch.nn.Module, where they are standard

    def __init__(self, c_in: int, c_out: int, k: int, stride: int = 1) -> None:
        conv = nn.Conv1d(c_in, c_out, k, stride=stride, padding=k // 2, bias=False)
        super().__init__(conv, nn.BatchNorm1d(c_out), nn.SiLU())

    def params(self) -> ConvBN:
        """Weights of the convolution, weights and statistics of the BatchNorm, as `ops.conv_stem` takes them."""
        conv, norm, _ = self._modules.values()
        return conv_bn_params(conv, norm)


class InceptionBlock1D(nn.Module):
    """Kernels 3, 5 and 7 side by side (c_out // 3, c_out // 3, the rest), fused by a 1x1 convolution.

    [B, c_in, L] -> [B, c_out, L].
    """

    _modules: dict[str, Any]  # as in ConvBNAct

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        third = c_out // 3
        widths = (third, third, c_out - 2 * third)
        self.branches = nn.ModuleList(ConvBNAct(c_in, width, k) for k, width in zip((3, 5, 7), widths, strict=True))
        self.fuse = ConvBNAct(c_out, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, L] -> [B, c_out, L]."""
        return self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))

    def params(self) -> Inception:
        """Those of the three branches and of the fusion, as `ops.conv_stem` takes them."""
        branches, fuse = self._modules["branches"], self._modules["fuse"]
        k3, k5, k7 = branches._modules.values()
        return Inception((k3.params(), k5.params(), k7.params()), fuse.params())


def _conv_bn_act(k: int, stride: int = 1) -> Standard:
    parts = standard.conv(k, stride), standard.BATCH_NORM, standard.SILU
    return Standard(ConvBNAct, children={str(number): part for number, part in enumerate(parts)})


_BRANCHES = Standard(nn.ModuleList, children={str(i): _conv_bn_act(k) for i, k in enumerate((3, 5, 7))})
_INCEPTION = Standard(InceptionBlock1D, children={"branches": _BRANCHES, "fuse": _conv_bn_act(1)})
_LEVEL, _DOWN, _MIX = standard.sequential(_INCEPTION, _INCEPTION), _conv_bn_act(3, stride=2), standard.conv(1)
STEM_CHILDREN = {
    "enc1": _LEVEL, "down1": _DOWN, "enc2": _LEVEL, "down2": _DOWN, "enc3": _LEVEL,
    **dict.fromkeys(_MIXES, _MIX), **dict.fromkeys(("smooth2", "smooth1", "head"), _conv_bn_act(3)),
    "skip": _MIX, "skip_bn": standard.BATCH_NORM,
}  # fmt: skip


class Ready(NamedTuple):
    """The arguments of the kernels: weights, the BatchNorms in their order, and why the widths do not fit, or ''."""

    params: StemParams
    norms: list[nn.BatchNorm1d]
    width_fault: str


class UNetHalfInceptionStem1D(Accelerated):
    """The stem: a small U-net over three levels of 32, 64 and 128 channels, plus a linear skip from its input.

    [B, in_ch, L] -> [B, out_ch, L], any L >= 1. Where both widths are equal, the skip is the input itself.
    """

    def __init__(self, in_ch: int = 1, out_ch: int = 32) -> None:
        super().__init__()
        c1, c2, c3 = STEM_WIDTHS
        self.enc1 = nn.Sequential(InceptionBlock1D(in_ch, c1), InceptionBlock1D(c1, c1))
        self.down1 = ConvBNAct(c1, c2, 3, stride=2)
        self.enc2 = nn.Sequential(InceptionBlock1D(c2, c2), InceptionBlock1D(c2, c2))
        self.down2 = ConvBNAct(c2, c3, 3, stride=2)
        self.enc3 = nn.Sequential(InceptionBlock1D(c3, c3), InceptionBlock1D(c3, c3))
        self.lat2 = nn.Conv1d(c2, c2, 1, bias=False)
        self.lat1 = nn.Conv1d(c1, c1, 1, bias=False)
        self.red3to2 = nn.Conv1d(c3, c2, 1, bias=False)
        self.red2to1 = nn.Conv1d(c2, c1, 1, bias=False)
        self.smooth2 = ConvBNAct(c2, c2, 3)
        self.smooth1 = ConvBNAct(c1, c1, 3)
        self.head = ConvBNAct(c1, out_ch, 3)
        self.skip = nn.Conv1d(in_ch, out_ch, 1, bias=False) if in_ch != out_ch else nn.Identity()
        self.skip_bn = nn.BatchNorm1d(out_ch) if in_ch != out_ch else nn.Identity()
        self._span = Span(STEM_CHILDREN)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, L] -> [B, S, L]."""
        if self.runs_as_modules("conv_stem", self._span, self._mode_fault) or x.shape[-1] == 0:
            return self._modules_forward(x)
        return ops.conv_stem(x, self._ready().params, training=self.uses_batch_statistics(), impl=self.impl)

    def uses_batch_statistics(self) -> bool:
        """Whether the BatchNorms are in training mode; all are in one mode where `_mode_fault` finds nothing."""
        return self.skip_bn.training

    def fault(self) -> str:
        """Why no kernel may compute this stem now, or ''."""
        return self._span.fault(self) or self._mode_fault()

    def _mode_fault(self) -> str:
        """Why the kernels do not compute these layers with their widths, modes and momenta, or ''.

        Call it right after the span was found to be standard.
        """
        return next(self._mode_faults(), "")

    def _mode_faults(self) -> Iterator[str]:
        if why := self._ready().width_fault:
            yield why
        norms = self._ready().norms
        training = norms[-1].training
        if training and len({id(norm.running_mean) for norm in norms}) < len(norms):
            yield "skip_bn: two of the stem's BatchNorms share their statistics"
        for norm in norms:
            if norm.training != training:
                yield f"{self._name_of(norm)}: its mode, training={norm.training}, is not that of the others"
            elif training and norm.momentum != _MOMENTUM:
                yield f"{self._name_of(norm)}: its momentum is {norm.momentum}, not {_MOMENTUM}"

    def _name_of(self, part: nn.Module) -> str:
        return next(name for name, module in self.named_modules() if module is part)

    def _modules_forward(self, x: Tensor) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(self.down1(e1))
        e3 = self.enc3(self.down2(e2))
        t2 = self.smooth2(_merge(self.lat2(e2), self.red3to2(e3)))
        t1 = self.smooth1(_merge(self.lat1(e1), self.red2to1(t2)))
        return self.head(t1) + self.skip_bn(self.skip(x))

    def params(self) -> StemParams:
        """The parameters and statistics of all layers, as `ops.conv_stem` takes them."""
        parts = self._modules
        levels: dict[str, Any] = {
            name: tuple(block.params() for block in parts[name]._modules.values()) for name in _LEVELS
        }
        layers: dict[str, Any] = {name: parts[name].params() for name in _LAYERS}
        mixes: dict[str, Any] = {name: attribute(parts[name], "weight") for name in _MIXES}
        return StemParams(**levels, **layers, **mixes, skip=conv_bn_params(parts["skip"], parts["skip_bn"]))

    def _ready(self) -> Ready:
        return self._span.gathered(self.ready)

    def ready(self) -> Ready:
        """The arguments of the kernels as they are now; the layers must be standard."""
        params = self.params()
        return Ready(params, list(self._norms()), _width_fault(params))

    def _norms(self) -> Iterator[nn.BatchNorm1d]:
        for name in _LEVELS:
            for block in self._modules[name]._modules.values():
                for branch in block._modules["branches"]._modules.values():
                    yield branch._modules["1"]
                yield block._modules["fuse"]._modules["1"]
        for name in _LAYERS:
            yield self._modules[name]._modules["1"]
        yield self._modules["skip_bn"]

    def faults(self) -> Iterator[tuple[str, str]]:
        """(operator, '<name>: <reason>') for each module that keeps a kernel from a span of this part."""
        return standard.pairs("conv_stem", self._span.faults(self) if self._span.fault(self) else self._mode_faults())


def is_one_operator(stem: nn.Module) -> bool:
    """Whether a call of `stem` is one call of the operator conv_stem, and nothing else happens in it."""
    if not isinstance(stem, UNetHalfInceptionStem1D) or own_forward(stem, UNetHalfInceptionStem1D):
        return False
    choice = choice_of(stem.impl, "conv_stem")
    if choice == "reference" or (choice == "auto" and standard.is_watched()):
        return False
    return not (own_reason(stem) or stem.fault())


def _width_fault(params: StemParams) -> str:
    """Why the kernels do not compute these widths, or ''. They compute three levels, each of one width."""
    widths = [level[0].fuse.weight.shape[0] for level in (params.enc1, params.enc2, params.enc3)]
    c1, c2, c3 = widths
    wanted = [("down1", params.down1, c1, c2), ("down2", params.down2, c2, c3), ("smooth2", params.smooth2, c2, c2),
              ("smooth1", params.smooth1, c1, c1), ("head", params.head, c1, params.skip.weight.shape[0])]  # fmt: skip
    for name, level, width in zip(_LEVELS, (params.enc1, params.enc2, params.enc3), widths, strict=True):
        c_in = 1 if name == "enc1" else width
        for number, block in enumerate(level):
            for i, branch in enumerate(block.branches):
                wanted.append((f"{name}.{number}.branches.{i}", branch, c_in, branch.weight.shape[0]))
            wanted.append((f"{name}.{number}.fuse", block.fuse, sum(b.weight.shape[0] for b in block.branches), width))
            if block.fuse.weight.shape[1] != width:
                return f"{name}.{number}.fuse: it reads {block.fuse.weight.shape[1]} channels, not {width}"
            c_in = width
    shapes = [(name, layer.weight, c_in, c_out) for name, layer, c_in, c_out in wanted]
    mixes = {"lat2": (c2, c2), "lat1": (c1, c1), "red3to2": (c3, c2), "red2to1": (c2, c1)}
    shapes += [(name, getattr(params, name), *between) for name, between in mixes.items()]
    shapes.append(("skip", params.skip.weight, 1, params.skip.weight.shape[0]))
    for name, weight, c_in, c_out in shapes:
        if weight.shape[0] != c_out or weight.shape[1] != c_in:
            return f"{name}: it turns {weight.shape[1]} channels into {weight.shape[0]}, not {c_in} into {c_out}"
    return ""


STEM = Standard(UNetHalfInceptionStem1D, children=STEM_CHILDREN)


def _merge(fine: Tensor, coarse: Tensor) -> Tensor:
    """[B, c, L] + [B, c, L / 2] interpolated to L, linearly between the centres of samples."""
    return fine + F.interpolate(coarse, size=fine.shape[-1], mode="linear", align_corners=False)


def attribute(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer that `getattr` finds, five times as fast: a stem has 150, and a segment takes 2 ms."""
    found = module._parameters.get(name)
    if found is None:
        found = module._buffers.get(name)
    return getattr(module, name) if found is None else found  # parametrised and pruned weights are plain attributes


def conv_bn_params(conv: nn.Conv1d, norm: nn.BatchNorm1d) -> ConvBN:
    return ConvBN(
        attribute(conv, "weight"), attribute(norm, "weight"), attribute(norm, "bias"), attribute(norm, "running_mean"),
        attribute(norm, "running_var"), attribute(norm, "num_batches_tracked"),
    )  # fmt: skip


class PatchEmbed1D(nn.Module):
    """One token per patch: Conv1d(S -> D, kernel P, stride P). [B, S, N P] -> [B, N, D]."""

    def __init__(self, in_ch: int, d_model: int, patch_len: int) -> None:
        super().__init__()
        self.proj = nn.Conv1d(in_ch, d_model, patch_len, stride=patch_len)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, N P] -> [B, N, D]."""
        return self.proj(x).transpose(1, 2)
