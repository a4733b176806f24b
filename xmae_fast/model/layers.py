"""Modules that hold the model's parameters under the published names and hand them to the operators."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from xmae_fast import ops
from xmae_fast.config import ModelCfg
from xmae_fast.model.lag import LagBias
from xmae_fast.ops.conv_stem import ConvBN, Inception, StemParams
from xmae_fast.ops.feed_forward import FeedForwardParams
from xmae_fast.ops.lag_attention import AttentionParams

STEM_WIDTHS = (32, 64, 128)


def attribute(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer as `getattr` finds it, five times as fast: a stem has 150, and a segment takes 2 ms."""
    found = module._parameters.get(name)
    if found is None:
        found = module._buffers.get(name)
    return getattr(module, name) if found is None else found  # parametrised and pruned weights are plain attributes


def conv_bn_params(conv: nn.Conv1d, norm: nn.BatchNorm1d) -> ConvBN:
    return ConvBN(
        attribute(conv, "weight"), attribute(norm, "weight"), attribute(norm, "bias"), attribute(norm, "running_mean"),
        attribute(norm, "running_var"), attribute(norm, "num_batches_tracked"),
    )  # fmt: skip


class ConvBNAct(nn.Sequential):
    """Conv1d without bias, BatchNorm1d, SiLU."""

    def __init__(self, c_in: int, c_out: int, k: int, stride: int = 1) -> None:
        conv = nn.Conv1d(c_in, c_out, k, stride=stride, padding=k // 2, bias=False)
        super().__init__(conv, nn.BatchNorm1d(c_out), nn.SiLU())

    def params(self) -> ConvBN:
        conv, norm, _ = self._modules.values()
        return conv_bn_params(conv, norm)


class InceptionBlock(nn.Module):
    """Kernels 3, 5 and 7 side by side (c_out // 3, c_out // 3, the rest), fused by a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        third = c_out // 3
        widths = (third, third, c_out - 2 * third)
        self.branches = nn.ModuleList(ConvBNAct(c_in, width, k) for k, width in zip((3, 5, 7), widths, strict=True))
        self.fuse = ConvBNAct(c_out, c_out, 1)

    def params(self) -> Inception:
        branches, fuse = self._modules["branches"], self._modules["fuse"]
        k3, k5, k7 = branches._modules.values()
        return Inception((k3.params(), k5.params(), k7.params()), fuse.params())


class Stem(nn.Module):
    """The convolutional stem's parameters; `ops.conv_stem` computes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c1, c2, c3 = STEM_WIDTHS
        self.enc1 = nn.Sequential(InceptionBlock(1, c1), InceptionBlock(c1, c1))
        self.down1 = ConvBNAct(c1, c2, 3, stride=2)
        self.enc2 = nn.Sequential(InceptionBlock(c2, c2), InceptionBlock(c2, c2))
        self.down2 = ConvBNAct(c2, c3, 3, stride=2)
        self.enc3 = nn.Sequential(InceptionBlock(c3, c3), InceptionBlock(c3, c3))
        self.lat2 = nn.Conv1d(c2, c2, 1, bias=False)
        self.lat1 = nn.Conv1d(c1, c1, 1, bias=False)
        self.red3to2 = nn.Conv1d(c3, c2, 1, bias=False)
        self.red2to1 = nn.Conv1d(c2, c1, 1, bias=False)
        self.smooth2 = ConvBNAct(c2, c2, 3)
        self.smooth1 = ConvBNAct(c1, c1, 3)
        self.head = ConvBNAct(c1, channels, 3)
        self.skip = nn.Conv1d(1, channels, 1, bias=False)
        self.skip_bn = nn.BatchNorm1d(channels)

    def params(self) -> StemParams:
        parts = self._modules
        levels = {
            name: tuple(block.params() for block in parts[name]._modules.values()) for name in ("enc1", "enc2", "enc3")
        }
        layers = {name: parts[name].params() for name in ("down1", "down2", "smooth2", "smooth1", "head")}
        mixes = {name: attribute(parts[name], "weight") for name in ("lat2", "lat1", "red3to2", "red2to1")}
        return StemParams(**levels, **layers, **mixes, skip=conv_bn_params(parts["skip"], parts["skip_bn"]))

    def _norms(self) -> Iterator[nn.Module]:
        for name in ("enc1", "enc2", "enc3"):
            for block in self._modules[name]._modules.values():
                for branch in block._modules["branches"]._modules.values():
                    yield branch._modules["1"]
                yield block._modules["fuse"]._modules["1"]
        for name in ("down1", "down2", "smooth2", "smooth1", "head"):
            yield self._modules[name]._modules["1"]
        yield self._modules["skip_bn"]

    def uses_batch_statistics(self) -> bool:
        """Whether the BatchNorms are in training mode; ValueError when some are and some are not."""
        modes = {norm.training for norm in self._norms()}
        if len(modes) > 1:
            raise ValueError("stem: expected all of its BatchNorms in one mode, got some in training and some not")
        return modes.pop()


def attention_params(norm_q: nn.LayerNorm, norm_kv: nn.LayerNorm, attn: nn.MultiheadAttention) -> AttentionParams:
    return AttentionParams(
        norm_q.weight, norm_q.bias, norm_kv.weight, norm_kv.bias,
        attn.in_proj_weight, attn.in_proj_bias, attn.out_proj.weight, attn.out_proj.bias,
    )  # fmt: skip


def feed_forward_params(norm: nn.LayerNorm, up: nn.Linear, down: nn.Linear) -> FeedForwardParams:
    return FeedForwardParams(norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias)


def dropout_rate(module: nn.Dropout, inference: bool) -> float:
    """The rate that `module` would apply now."""
    return module.p if module.training and not inference else 0.0


def attention_dropout(attn: nn.MultiheadAttention, inference: bool) -> float:
    """The rate that `attn` would apply to its probabilities now."""
    return attn.dropout if attn.training and not inference else 0.0


def attention_module(cfg: ModelCfg) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(cfg.d_model, cfg.nhead, dropout=cfg.dropout, batch_first=True)


class Block(nn.Module):
    """Pre-norm self-attention block: x += MHA(norm(x)); x += MLP(norm(x)).

    `norm_names` are the published names of its two LayerNorms: norm1, norm2 in encoders and ln1, ln2 in decoders.
    """

    def __init__(self, cfg: ModelCfg, hidden: int, norm_names: tuple[str, str]) -> None:
        super().__init__()
        self.norm_names = norm_names
        D = cfg.d_model
        self.add_module(norm_names[0], nn.LayerNorm(D))
        self.attn = attention_module(cfg)
        self.add_module(norm_names[1], nn.LayerNorm(D))
        self.mlp = nn.Sequential(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D), nn.Dropout(cfg.dropout))

    def forward(self, x: Tensor, *, inference: bool = False, impl: str = "auto") -> Tensor:
        """[B, N, D] -> [B, N, D]; `inference` switches dropout off whatever the mode."""
        norm1, norm2 = (getattr(self, name) for name in self.norm_names)
        params = attention_params(norm1, norm1, self.attn)
        p = attention_dropout(self.attn, inference)
        x = ops.lag_attention(x, None, params, num_heads=self.attn.num_heads, dropout_p=p, impl=impl)
        p = dropout_rate(self.mlp[3], inference)
        return ops.feed_forward(x, feed_forward_params(norm2, self.mlp[0], self.mlp[2]), dropout_p=p, impl=impl)


class CrossBlock(nn.Module):
    """Bridge block: q += MHA(nq(q), nkv(kv)); q += FFN(q). Keys and values stay as they are."""

    def __init__(self, cfg: ModelCfg, lag: LagBias | None) -> None:
        super().__init__()
        D = cfg.d_model
        self.nq, self.nkv = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn = attention_module(cfg)
        self.ffn = nn.Sequential(
            nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D), nn.Dropout(cfg.dropout)
        )
        self.lag = lag

    def _lag_arguments(self, key_pos: Tensor | None) -> dict[str, Tensor | None]:
        return {} if self.lag is None else {"bias_table": self.lag(), "key_pos": key_pos}

    def forward(
        self, q: Tensor, kv: Tensor, key_pos: Tensor | None = None, *, inference: bool = False, impl: str = "auto"
    ) -> Tensor:
        """q [B, Nq, D], kv [B, Nk, D], key_pos [B, Nk] or None (0..Nk-1) -> [B, Nq, D]; `inference` as in Block."""
        params = attention_params(self.nq, self.nkv, self.attn)
        p, lag = attention_dropout(self.attn, inference), self._lag_arguments(key_pos)
        q = ops.lag_attention(q, kv, params, num_heads=self.attn.num_heads, dropout_p=p, impl=impl, **lag)
        p = dropout_rate(self.ffn[4], inference)
        return ops.feed_forward(q, feed_forward_params(self.ffn[0], self.ffn[1], self.ffn[3]), dropout_p=p, impl=impl)

    def attention_weights(self, q: Tensor, kv: Tensor, key_pos: Tensor | None) -> Tensor:
        """Attention probabilities [B, H, Nq, Nk] of this block, without dropout."""
        params = attention_params(self.nq, self.nkv, self.attn)
        return ops.attention_weights(q, kv, params, num_heads=self.attn.num_heads, **self._lag_arguments(key_pos))


def truncated_normal(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))
