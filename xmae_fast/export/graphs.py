"""The graphs that are exported: inference in PyTorch's own operations, with BatchNorm folded into the convolutions.

The stem is written in two dimensions, for which runtimes have their fast kernels. Letters: B batch, L samples, P patch
length, N = L / P patches, Nk visible patches, D width, S channels of the stem.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmae_fast.model.blocks import Bridger
from xmae_fast.model.path import SinglePath
from xmae_fast.model.stem import UNetHalfInceptionStem1D
from xmae_fast.model.xmae import xMAE
from xmae_fast.ops.conv_stem.params import ConvBN, Inception
from xmae_fast.ops.conv_stem.reference import EPS
from xmae_fast.ops.token_gather import reference as token_gather
from xmae_fast.ops.waveform_loss import reference as waveform_loss

BLOCK = 16  # the convolutions of runtimes compute so many channels together
ENTRIES = ("embed", "reconstruct")


def folded(layer: ConvBN) -> tuple[Tensor, Tensor]:
    """Weight [c_out, c_in, k] and bias [c_out], float64, of a convolution that computes what `layer` does."""
    gamma, beta, mean, var = (x.detach().double() for x in layer[1:5])
    scale = gamma / (var + EPS).sqrt()
    return layer.weight.detach().double() * scale[:, None, None], beta - mean * scale


def convolution(weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> nn.Conv2d:
    """A convolution along the last of two dimensions, with padding k // 2.

    Args:
        weight: [c_out, c_in, k].
        bias: [c_out], or None.
        stride: along the last dimension.
    """
    c_out, c_in, k = weight.shape
    conv = nn.Conv2d(c_in, c_out, (1, k), (1, stride), (0, k // 2), bias=bias is not None)
    conv.weight.data.copy_(weight.detach()[:, :, None])
    if bias is not None and conv.bias is not None:
        conv.bias.data.copy_(bias)
    return conv


class FoldedInception(nn.Module):
    """An inception block whose branches are merged into convolutions of whole blocks of channels.

    Branches have 10 or 21 channels, which do not fill the blocks of channels in which runtimes compute convolutions.
    Where two branches share a block, it is computed with the longer kernel, whose outer taps are zero for the channels
    of the shorter one.

    Args:
        params: the block as it was trained.
        block: channels of a block.
    """

    def __init__(self, params: Inception, block: int = BLOCK) -> None:
        super().__init__()
        branches = [folded(branch) for branch in params.branches]
        taps = [weight.shape[-1] for weight, bias in branches for _ in bias]  # of each channel, ascending
        longest = taps[-1]
        weight = torch.cat([F.pad(weight, [(longest - weight.shape[-1]) // 2] * 2) for weight, _ in branches])
        bias = torch.cat([bias for _, bias in branches])
        needed = torch.tensor([max(taps[i - i % block : i - i % block + block]) for i in range(len(taps))])
        self.parts = nn.ModuleList()
        for k in needed.unique().tolist():
            outer = (longest - k) // 2
            self.parts.append(convolution(weight[needed == k, :, outer : longest - outer], bias[needed == k]))
        self.fuse = convolution(*folded(params.fuse))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c_in, 1, L] -> [B, c_out, 1, L]."""
        return F.silu(self.fuse(F.silu(torch.cat([part(x) for part in self.parts], 1))))


class FoldedStem(nn.Module):
    """A module that computes what `ops.conv_stem` does in evaluation."""

    enc1: nn.Sequential
    enc2: nn.Sequential
    enc3: nn.Sequential
    down1: nn.Conv2d
    down2: nn.Conv2d
    smooth2: nn.Conv2d
    smooth1: nn.Conv2d
    head: nn.Conv2d
    skip: nn.Conv2d
    lat2: nn.Conv2d
    lat1: nn.Conv2d
    red3to2: nn.Conv2d
    red2to1: nn.Conv2d

    def __init__(self, stem: UNetHalfInceptionStem1D, block: int = BLOCK) -> None:
        super().__init__()
        params = stem.params()
        for name in ("enc1", "enc2", "enc3"):
            blocks = (FoldedInception(part, block) for part in getattr(params, name))
            self.add_module(name, nn.Sequential(*blocks))
        for name, stride in (("down1", 2), ("down2", 2), ("smooth2", 1), ("smooth1", 1), ("head", 1), ("skip", 1)):
            self.add_module(name, convolution(*folded(getattr(params, name)), stride=stride))
        for name in ("lat2", "lat1", "red3to2", "red2to1"):
            self.add_module(name, convolution(getattr(params, name)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 1, L] -> [B, S, 1, L]."""
        e1 = self.enc1(x)
        e2 = self.enc2(F.silu(self.down1(e1)))
        e3 = self.enc3(F.silu(self.down2(e2)))
        t2 = F.silu(self.smooth2(self.lat2(e2) + _upsample(self.red3to2(e3), e2)))
        t1 = F.silu(self.smooth1(self.lat1(e1) + _upsample(self.red2to1(t2), e1)))
        return F.silu(self.head(t1)) + self.skip(x)


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class PathEncoder(nn.Module):
    """The encoder of one signal, from its samples to its tokens."""

    blocks: Any  # a ModuleList, whose type does not say which modules it holds

    def __init__(self, path: SinglePath) -> None:
        super().__init__()
        self.patch_len = path.patch_len
        self.stem = FoldedStem(path.stem)
        weight = path.patcher.proj.weight.detach()  # [D, S, P]
        self.patches = nn.Linear(weight[0].numel(), len(weight))
        self.patches.weight.data.copy_(weight.transpose(1, 2).flatten(1))
        self.patches.bias.data.copy_(cast(Tensor, path.patcher.proj.bias).detach())  # a standard patcher has one
        self.pos, self.blocks = path.pos, path.encoder.blocks

    def forward(self, waveform: Tensor) -> Tensor:
        """[B, Nk * P] -> [B, Nk, D], Nk >= 1. The first Nk positions are added, as published."""
        features = self.stem(waveform[:, None, None])[:, :, 0]
        rows = features.transpose(1, 2).unflatten(1, (-1, self.patch_len)).flatten(2)  # [B, Nk, P * S]
        x = self.patches(rows) + self.pos[:, : rows.shape[1]]
        for block in self.blocks:
            x = block.kernel(x)
        return x


class Graph(nn.Module):
    """A graph that is exported.

    Attributes:
        entry: the entry point.
        inputs: names in their order.
        outputs: names in their order.
    """

    entry: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class EmbedGraph(Graph):
    """ppg [B, L] -> projected [B, proj_dim], pooled [B, D], tokens [B, N, D]."""

    entry, inputs, outputs = "embed", ("ppg",), ("projected", "pooled", "tokens")

    def __init__(self, model: xMAE) -> None:
        super().__init__()
        path = cast(SinglePath, model.ppg_path)  # make_graph has checked that there is one
        self.encoder, self.proj = PathEncoder(path), path.proj

    def forward(self, ppg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.encoder(ppg)
        pooled = tokens.mean(1)
        return self.proj(pooled), pooled, tokens


class _Decoder(Graph):
    """The encoder of the ECG, and the decoder from all N tokens to its samples."""

    entry, outputs = "reconstruct", ("ecg_reconstructed",)

    def __init__(self, model: xMAE) -> None:
        super().__init__()
        path = cast(SinglePath, model.ecg_path)  # make_graph has checked that there is one
        self.ecg_encoder, self.pos, self.dec_blk, self.deconv = (
            PathEncoder(path), path.pos, path.dec_blk, path.decoder.deconv
        )  # fmt: skip

    def decode(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, L]."""
        bias = cast(Tensor, self.deconv.bias)  # a standard decoder has one
        waveform = waveform_loss.decode_waveform(self.dec_blk.kernel(tokens), self.deconv.weight, bias)
        return waveform[:, 0]


class ReconstructGraph(_Decoder):
    """ppg [B, L], ecg_visible [B, Nk, P], ids_keep [B, Nk] -> ecg_reconstructed [B, L]."""

    inputs = ("ppg", "ecg_visible", "ids_keep")
    bridge: Any  # a ModuleList, whose type does not say which modules it holds

    def __init__(self, model: xMAE) -> None:
        super().__init__(model)
        # A model with a bridge has both encoders.
        self.ppg_encoder = PathEncoder(cast(SinglePath, model.ppg_path))
        self.bridge = cast(Bridger, model.bridger).ecg2ppg
        self.mask_loc_table = cast(SinglePath, model.ecg_path).mask_loc_table

    def forward(self, ppg: Tensor, ecg_visible: Tensor, ids_keep: Tensor) -> Tensor:
        tokens = self.ecg_encoder(ecg_visible.flatten(1))
        tokens = token_gather.assemble_queries(tokens, ids_keep, self.pos, self.mask_loc_table.weight)
        ppg_tokens = self.ppg_encoder(ppg)
        for block in self.bridge:
            tokens = block.kernel(tokens, ppg_tokens)
        return self.decode(tokens)


class EcgAloneGraph(_Decoder):
    """ecg_visible [B, Nk, P], ids_keep [B, Nk] -> ecg_reconstructed [B, L], for a model without a bridge."""

    inputs = ("ecg_visible", "ids_keep")

    def __init__(self, model: xMAE) -> None:
        super().__init__(model)
        self.mask_token = model.mask_token

    def forward(self, ecg_visible: Tensor, ids_keep: Tensor) -> Tensor:
        tokens = self.ecg_encoder(ecg_visible.flatten(1))
        B, N = ids_keep.shape[0], self.pos.shape[1]
        index = ids_keep[:, :, None].expand(-1, -1, tokens.shape[-1])
        tokens = self.mask_token.expand(B, N, -1).scatter(1, index, tokens)
        hidden = tokens.new_ones(1, 1).expand(B, N).scatter(1, ids_keep, torch.zeros_like(ids_keep, dtype=tokens.dtype))
        # As published, positions are added unless all patches are visible.
        return self.decode(tokens + self.pos * hidden.amax(1)[:, None, None])


def make_graph(model: xMAE, entry: str) -> Graph:
    """Make the graph of an entry point, with float32 copies of the weights, on the CPU, without gradients.

    Args:
        model: with standard modules.
        entry: "embed" or "reconstruct", see `export_model`.

    Returns:
        The graph, in evaluation mode.

    Raises:
        ValueError: the entry is unknown or needs a signal that the model does not take, or a module is no standard one.
    """
    if entry not in ENTRIES:
        raise ValueError(f"entry: expected one of {', '.join(map(repr, ENTRIES))}, got {entry!r}")
    needed, other = ("PPG", "ecg") if entry == "embed" else ("ECG", "ppg")
    if model.cfg.source == other:
        raise ValueError(f"entry: expected a model with a {needed} encoder for {entry!r}, got source={other!r}")
    model = copy.deepcopy(model).cpu().float()
    model.impl = "reference"
    if changed := [fault for _, fault in model.irregular()]:
        raise ValueError(
            f"model: expected the standard modules, which an exported graph computes, got {'; '.join(changed)}."
            " Merge adapters, remove hooks and parametrisations first, or use torch.export on the model itself."
        )
    if entry == "embed":
        graph = EmbedGraph(model)
    else:
        graph = ReconstructGraph(model) if model.has_bridge else EcgAloneGraph(model)
    return graph.eval().requires_grad_(False)
