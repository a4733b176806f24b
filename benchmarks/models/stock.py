"""What xmae_fast is measured against: the published mask procedure, vectorised masks, and the best stock model."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.models.plain import PlainBlock, PlainCrossBlock, PlainStem, PlainXMAE
from xmae_fast.ops.random_masking.reference import published_draws

Masks = tuple[Tensor, Tensor, Tensor]  # patch_mask [B, N], ids_keep [B, N - k], ids_restore [B, N]


def published_masks(B: int, N: int, k: int, mode: str, device: torch.device) -> Masks:
    """Masks row by row, as published: on a GPU each row synchronises three times."""
    V = N - k
    scatter = torch.rand(B, N, device=device).argsort(dim=1)[:, :k]
    block_start = torch.randint(0, N - k + 1, (B,), device=device)
    anchor_start = torch.randint(0, N - V + 1, (B,), device=device)
    is_block = (torch.rand(B, device=device) < 0.5).tolist() if mode == "mixed" else [mode == "block"] * B
    patch_mask = torch.zeros(B, N, dtype=torch.bool, device=device)
    ids_keep, ids_restore = [], []
    for b in range(B):
        if is_block[b]:
            start = int(block_start[b].item())
            patch_mask[b, start : start + k] = True
        elif mode in ("scatter", "mixed"):
            patch_mask[b, scatter[b]] = True
        else:
            start = int(anchor_start[b].item())
            patch_mask[b] = True
            patch_mask[b, start : start + V] = False
        kept = torch.nonzero(~patch_mask[b]).flatten()
        masked = torch.nonzero(patch_mask[b]).flatten()
        ids_keep.append(kept)
        ids_restore.append(torch.argsort(torch.cat([kept, masked])))
    return patch_mask, torch.stack(ids_keep), torch.stack(ids_restore)


def sorted_masks(B: int, N: int, k: int, mode: str, device: torch.device) -> Masks:
    """The same masks without a loop, in the manner of MAE: sort the mask, then sort the order."""
    scores, start, coin = published_draws(B, N, k, mode, None, device)
    after_start = torch.arange(N, device=device) - start[:, None]
    if mode == "anchor":
        patch_mask = (after_start < 0) | (after_start >= N - k)
    else:
        patch_mask = (after_start >= 0) & (after_start < k)
    if mode in ("scatter", "mixed"):
        scattered = scores.argsort(dim=1).argsort(dim=1) < k
        patch_mask = scattered if mode == "scatter" else torch.where(coin[:, None] < 0.5, patch_mask, scattered)
    order = patch_mask.to(torch.uint8).argsort(dim=1, stable=True)
    return patch_mask, order[:, : N - k], order.argsort(dim=1)


class RuntimeDropout(nn.Module):
    """Dropout whose rate is a tensor, so that one compiled graph is checked at rate 0 and timed at 0.1."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.register_buffer("rate", torch.tensor(rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand_like(x) >= self.rate).to(x.dtype) / (1 - self.rate)


class StockAttention(nn.Module):
    """Packed QKV and scaled_dot_product_attention; takes the place of an nn.MultiheadAttention.

    With a RuntimeDropout the probabilities are written out: SDPA wants its rate as a number.
    """

    def __init__(self, attn: nn.MultiheadAttention, dropout: nn.Module) -> None:
        super().__init__()
        self.num_heads, self.dropout = attn.num_heads, dropout
        self.in_proj_weight, self.in_proj_bias, self.out_proj = attn.in_proj_weight, attn.in_proj_bias, attn.out_proj

    def forward(self, q: Tensor, k: Tensor, v: Tensor, need_weights: bool = False) -> tuple[Tensor, None]:
        D = q.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if q is k:
            parts = F.linear(q, weight, bias).chunk(3, dim=-1)
        else:
            parts = (F.linear(q, weight[:D], bias[:D]), *F.linear(k, weight[D:], bias[D:]).chunk(2, dim=-1))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        if isinstance(self.dropout, RuntimeDropout) and self.training:
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            context = self.dropout(scores.softmax(-1)) @ value
        else:
            p = self.dropout.p if self.training else 0.0
            context = F.scaled_dot_product_attention(query, key, value, dropout_p=p)
        return self.out_proj(context.transpose(1, 2).flatten(2)), None


class ChannelsLastStem(PlainStem):
    """The stem in two dimensions of height 1, activations [B, L, C] in memory."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        _to_2d(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, L] -> [B, S, 1, L]."""
        x = x[:, :, None].contiguous(memory_format=torch.channels_last)
        e1 = self.enc1(x)
        e2 = self.enc2(self.down1(e1))
        e3 = self.enc3(self.down2(e2))
        t2 = self.smooth2(self.lat2(e2) + _upsample(self.red3to2(e3), e2))
        t1 = self.smooth1(self.lat1(e1) + _upsample(self.red2to1(t2), e1))
        return self.head(t1) + self.skip_bn(self.skip(x))


class ChannelsLastPatches(nn.Module):
    """Patch embedding of channels-last features: one linear layer over P * S numbers."""

    def __init__(self, proj: nn.Conv1d) -> None:
        super().__init__()
        self.weight, self.bias = proj.weight, proj.bias

    def forward(self, features: Tensor) -> Tensor:
        """[B, S, 1, N * P] -> [B, D, N]."""
        D, S, P = self.weight.shape
        rows = features[:, :, 0].transpose(1, 2).reshape(features.shape[0], -1, P * S)
        return F.linear(rows, self.weight.transpose(1, 2).reshape(D, P * S), self.bias).transpose(1, 2)


def with_weights_of(stem: nn.Module, like: nn.Module) -> nn.Module:
    """`stem` in training with the weights of `like`, whose shapes may have dimensions of size 1 more or fewer."""
    shapes = {key: value.shape for key, value in stem.state_dict().items()}
    stem.load_state_dict({key: x.reshape(shapes[key]) for key, x in like.state_dict().items()})
    return stem.to(next(like.parameters()).device).train()


def stock_model(plain: PlainXMAE, *, channels_last: bool = True, compiled: bool = False) -> PlainXMAE:
    """A copy of the plain model with the best of stock PyTorch; in evaluation mode BatchNorm is folded.

    Args:
        channels_last: the stem as channels-last Conv2d.
        compiled: dropout is a RuntimeDropout.
    """
    model = copy.deepcopy(plain)
    if channels_last:
        for path in (model.ppg_path, model.ecg_path):
            path.stem = with_weights_of(ChannelsLastStem(path.stem.head[0].out_channels), path.stem)
            path.patcher["proj"] = ChannelsLastPatches(path.patcher["proj"])
    make = RuntimeDropout if compiled else nn.Dropout
    for block in [module for module in model.modules() if isinstance(module, PlainBlock | PlainCrossBlock)]:
        block.attn = StockAttention(block.attn, make(block.attn.dropout))
        layers = block.mlp if isinstance(block, PlainBlock) else block.ffn
        layers[-1] = make(layers[-1].p)
    model.to(plain.mask_token.device).train(plain.training)
    if channels_last and not plain.training:
        _fold_batch_norms(model)
    return model


def set_dropout(model: nn.Module, p: float) -> None:
    """Set the rate of every kind of dropout that the contestants use."""
    for module in model.modules():
        if isinstance(module, RuntimeDropout):
            module.rate.fill_(p)
        elif isinstance(module, nn.Dropout):
            module.p = p
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = p


def forget_compiled() -> None:
    """Drop all compiled code; the contestants of a finished group must not count against a limit of the next."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def compiled(function: Callable, *, freezing: bool = False, tuned: bool = False) -> Callable:
    """torch.compile for fixed shapes; `tuned` is max-autotune (with CUDA graphs on a GPU)."""
    from torch._inductor import list_mode_options

    options = list_mode_options("max-autotune") if tuned else {}
    return torch.compile(function, dynamic=False, options=options | {"freezing": freezing})


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _to_2d(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv1d):
            k, stride = child.kernel_size[0], child.stride[0]
            conv = nn.Conv2d(child.in_channels, child.out_channels, (1, k), (1, stride), (0, k // 2), bias=False)
            setattr(module, name, conv)
        elif isinstance(child, nn.BatchNorm1d):
            setattr(module, name, nn.BatchNorm2d(child.num_features))
        else:
            _to_2d(child)


def _fold_batch_norms(model: nn.Module) -> None:
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
        elif isinstance(module, ChannelsLastStem):
            module.skip, module.skip_bn = fuse_conv_bn_eval(module.skip, module.skip_bn), nn.Identity()
