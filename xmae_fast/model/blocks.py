"""Transformer blocks and the bridge as modules, under the published names.

Letters: B batch, N tokens (Nq queries, Nk keys), D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xmae_fast import ops
from xmae_fast.config import LagCfg
from xmae_fast.model import standard
from xmae_fast.model.calls import own_forward
from xmae_fast.model.lag import LagBias
from xmae_fast.model.standard import Accelerated, Span, Standard
from xmae_fast.ops._encoding import BlockWeights
from xmae_fast.ops.feed_forward import FeedForwardParams
from xmae_fast.ops.lag_attention import AttentionParams
from xmae_fast.ops.lag_attention.params import kernel_weights
from xmae_fast.ops.lag_attention.tables import gather_bias

BLOCK_OPS = ("lag_attention", "feed_forward")
_FEED_FORWARD = standard.LINEAR, standard.GELU, standard.LINEAR, standard.DROPOUT
_MLP = standard.sequential(*_FEED_FORWARD)


def attention_params(
    norm_q: nn.LayerNorm, norm_kv: nn.LayerNorm | None, attn: nn.MultiheadAttention
) -> AttentionParams:
    """The weights of an attention sublayer; norm_kv is None for self-attention."""
    kv_weight, kv_bias = (None, None) if norm_kv is None else (norm_kv.weight, norm_kv.bias)
    return AttentionParams(
        norm_q.weight, norm_q.bias, kv_weight, kv_bias,
        attn.in_proj_weight, attn.in_proj_bias, attn.out_proj.weight, attn.out_proj.bias,
    )  # fmt: skip


def feed_forward_params(norm: nn.LayerNorm, up: nn.Linear, down: nn.Linear) -> FeedForwardParams:
    return FeedForwardParams(norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias)


def _feed_forward_layers(d_model: int, mlp_ratio: float, dropout: float) -> tuple[nn.Module, ...]:
    hidden = int(d_model * mlp_ratio)
    return nn.Linear(d_model, hidden), nn.GELU(), nn.Linear(hidden, d_model), nn.Dropout(dropout)


class _SelfAttentionBlock(Accelerated):
    """Pre-norm block: x += MHA(norm(x)); x += MLP(norm(x)). [B, N, D] -> [B, N, D].

    NORMS: the published names of its two LayerNorms. RATIO: hidden width of the MLP / D.
    """

    NORMS: tuple[str, str]
    RATIO: float

    def __init__(self, d_model: int, nhead: int, mlp_ratio: float | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        first, second = self.NORMS
        self.add_module(first, nn.LayerNorm(d_model))
        self.attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=True)
        self.add_module(second, nn.LayerNorm(d_model))
        ratio = self.RATIO if mlp_ratio is None else mlp_ratio
        self.mlp = nn.Sequential(*_feed_forward_layers(d_model, ratio, dropout))
        self._attention = Span({first: standard.LAYER_NORM, "attn": standard.ATTENTION})
        self._feed_forward = Span({second: standard.LAYER_NORM, "mlp": _MLP})

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        if self.runs_as_modules("lag_attention", self._attention, self._attention_fault):
            h = self._modules[self.NORMS[0]](x)
            x = x + self.attn(h, h, h, need_weights=False)[0]
        else:
            x = self.attention_kernel(x)
        if self.runs_as_modules("feed_forward", self._feed_forward, self._feed_forward_fault):
            return x + self.mlp(self._modules[self.NORMS[1]](x))
        return self.feed_forward_kernel(x)

    def kernel(self, x: Tensor) -> Tensor:
        """`forward` in evaluation by the operators, whatever the mode. Check first that they may."""
        return self.feed_forward_kernel(self.attention_kernel(x, inference=True), inference=True)

    def weights(self) -> BlockWeights:
        """The weights as the operators of the kernels take them; the modules must be standard."""
        up, _, down, _ = self._modules["mlp"]._modules.values()
        attention = attention_params(self._modules[self.NORMS[0]], None, self._modules["attn"])
        feed_forward = feed_forward_params(self._modules[self.NORMS[1]], up, down)
        return BlockWeights(kernel_weights(attention, cross=False), [*feed_forward])

    def attention_kernel(self, x: Tensor, *, inference: bool = False) -> Tensor:
        """The attention sublayer by its operator, [B, N, D] -> [B, N, D]; `inference` leaves out dropout."""
        norm, attn = self._modules[self.NORMS[0]], self._modules["attn"]
        p = 0.0 if inference else attention_dropout(attn)
        params = attention_params(norm, None, attn)
        return ops.lag_attention(x, None, params, num_heads=attn.num_heads, dropout_p=p, impl=self.impl)

    def feed_forward_kernel(self, x: Tensor, *, inference: bool = False) -> Tensor:
        """The feed-forward sublayer by its operator, [B, N, D] -> [B, N, D]; `inference` leaves out dropout."""
        up, _, down, drop = self._modules["mlp"]._modules.values()
        params = feed_forward_params(self._modules[self.NORMS[1]], up, down)
        return ops.feed_forward(x, params, dropout_p=0.0 if inference else dropout_rate(drop), impl=self.impl)

    def _attention_fault(self) -> str:
        return _dropout_fault("attn", attention_dropout(self._modules["attn"]))

    def _feed_forward_fault(self) -> str:
        return _dropout_fault("mlp.3", dropout_rate(self._modules["mlp"]._modules["3"]))

    def faults(self) -> Iterator[tuple[str, str]]:
        """(operator, '<name>: <reason>') for each module that keeps a kernel from a span of this part."""
        attention, feed_forward = self._attention.faults(self), self._feed_forward.faults(self)
        yield from standard.pairs("lag_attention", attention or [self._attention_fault()])
        yield from standard.pairs("feed_forward", feed_forward or [self._feed_forward_fault()])


class TransformerEncoderBlock(_SelfAttentionBlock):
    """Block of an encoder, with norm1, attn, norm2, mlp (4 D wide): [B, N, D] -> [B, N, D]."""

    NORMS, RATIO = ("norm1", "norm2"), 4.0


class TransformerDecoderLite(_SelfAttentionBlock):
    """Block before the deconvolution, with ln1, attn, ln2, mlp (2 D wide): [B, N, D] -> [B, N, D]."""

    NORMS, RATIO = ("ln1", "ln2"), 2.0


class TransformerEncoder(nn.Module):
    """A stack of encoder blocks, [B, N, D] -> [B, N, D]."""

    def __init__(
        self, depth: int, d_model: int, nhead: int, mlp_ratio: float | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerEncoderBlock(d_model, nhead, mlp_ratio, dropout) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        for block in self.blocks:
            x = block(x)
        return x


_ENCODER_BLOCK = Standard(
    TransformerEncoderBlock,
    children={
        "norm1": standard.LAYER_NORM, "attn": standard.ATTENTION, "norm2": standard.LAYER_NORM, "mlp": _MLP
    },
)  # fmt: skip
ENCODER = Standard(TransformerEncoder, children={"blocks": Standard(nn.ModuleList, each=_ENCODER_BLOCK)})


class CrossAttentionBlock(Accelerated):
    """Bridge block: q += MHA(nq(q), nkv(kv)); q += FFN(q). Keys and values stay as they are.

    lag: a module that returns the lag bias, or None for the published attention.
    """

    def __init__(
        self, d_model: int, nhead: int, mlp_ratio: float = 4.0, dropout: float = 0.1, *, lag: LagBias | None = None
    ) -> None:
        super().__init__()
        self.nq, self.nkv = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=True)
        self.ffn = nn.Sequential(nn.LayerNorm(d_model), *_feed_forward_layers(d_model, mlp_ratio, dropout))
        self.lag = lag
        self._attention = Span({"nq": standard.LAYER_NORM, "nkv": standard.LAYER_NORM, "attn": standard.ATTENTION})
        self._feed_forward = Span({"ffn": standard.sequential(standard.LAYER_NORM, *_FEED_FORWARD)})

    def forward(self, q: Tensor, kv: Tensor, key_pos: Tensor | None = None) -> Tensor:
        """q [B, Nq, D], kv [B, Nk, D] -> [B, Nq, D].

        key_pos: [B, Nk] int64, the patch of each key, for the lag; None: 0..Nk-1.
        """
        table = None if self.lag is None else self.lag()
        if self.runs_as_modules("lag_attention", self._attention, self._attention_fault):
            q = q + self._attend(q, kv, table, key_pos)[0]
        else:
            q = self.attention_kernel(q, kv, table, key_pos)
        if self.runs_as_modules("feed_forward", self._feed_forward, self._feed_forward_fault):
            return q + self.ffn(q)
        return self.feed_forward_kernel(q)

    def kernel(self, q: Tensor, kv: Tensor) -> Tensor:
        """`forward` in evaluation by the operators, whatever the mode. Check first that they may."""
        table = None if self.lag is None else self.lag()
        return self.feed_forward_kernel(self.attention_kernel(q, kv, table, None, inference=True), inference=True)

    def attention_kernel(
        self, q: Tensor, kv: Tensor, table: Tensor | None, key_pos: Tensor | None, *, inference: bool = False
    ) -> Tensor:
        """The attention sublayer by its operator: q [B, Nq, D], kv [B, Nk, D] -> [B, Nq, D].

        table: [H, 2 N - 1], the bias by lag; `inference` leaves out dropout.
        """
        params, p = attention_params(self.nq, self.nkv, self.attn), 0.0 if inference else attention_dropout(self.attn)
        lag = {} if table is None else {"bias_table": table, "key_pos": key_pos}
        return ops.lag_attention(q, kv, params, num_heads=self.attn.num_heads, dropout_p=p, impl=self.impl, **lag)

    def feed_forward_kernel(self, q: Tensor, *, inference: bool = False) -> Tensor:
        """The feed-forward sublayer by its operator, [B, Nq, D] -> [B, Nq, D]; `inference` leaves out dropout."""
        norm, up, _, down, drop = self._modules["ffn"]._modules.values()
        params = feed_forward_params(norm, up, down)
        return ops.feed_forward(q, params, dropout_p=0.0 if inference else dropout_rate(drop), impl=self.impl)

    def attention_weights(self, q: Tensor, kv: Tensor, key_pos: Tensor | None) -> Tensor:
        """Attention probabilities [B, H, Nq, Nk] of this block; without dropout in evaluation mode."""
        table = None if self.lag is None else self.lag()
        return self._attend(q, kv, table, key_pos, need_weights=True, average_attn_weights=False)[1]

    def _attend(
        self, q: Tensor, kv: Tensor, table: Tensor | None, key_pos: Tensor | None, **options: bool
    ) -> tuple[Tensor, Any]:
        """Output [B, Nq, D] and weights of `attn` for the normalised tokens, with the lag's bias as its mask.

        The weights are None unless need_weights=True asks for them.
        """
        options.setdefault("need_weights", False)
        queries, keys = self.nq(q), self.nkv(kv)
        if table is None or kv.shape[1] == 0:  # without keys there is no lag to bias
            return self.attn(queries, keys, keys, **options)
        (B, Nq, _), Nk = q.shape, kv.shape[1]
        query_pos = torch.arange(Nq, device=q.device)[None]
        if key_pos is None:
            key_pos = torch.arange(Nk, device=q.device)[None]
        bias = gather_bias(table, query_pos, key_pos).to(q.dtype)
        admissible = (bias > -torch.inf).any(-1, keepdim=True)  # [B or 1, H, Nq, 1]
        mask = bias.expand(B, -1, -1, -1).flatten(0, 1)
        context, weights = self.attn(queries, keys, keys, attn_mask=mask, **options)
        if weights is not None:
            weights = torch.where(admissible, weights, 0.0)  # a query without admissible keys attends to nothing
        return context, weights

    def _attention_fault(self) -> str:
        return _dropout_fault("attn", attention_dropout(self.attn))

    def _feed_forward_fault(self) -> str:
        return _dropout_fault("ffn.4", dropout_rate(self._modules["ffn"]._modules["4"]))

    def faults(self) -> Iterator[tuple[str, str]]:
        """(operator, '<name>: <reason>') for each module that keeps a kernel from a span of this part."""
        attention, feed_forward = self._attention.faults(self), self._feed_forward.faults(self)
        yield from standard.pairs("lag_attention", attention or [self._attention_fault()])
        yield from standard.pairs("feed_forward", feed_forward or [self._feed_forward_fault()])


class Bridger(nn.Module):
    """Cross-attention of ECG tokens to PPG tokens. `ppg2ecg` is part of the published state dict and never runs."""

    def __init__(
        self, d_model: int, nhead: int, depth: int = 1, dropout: float = 0.1, *, lag: LagCfg | None = None,
        num_patches: int = 0, patch_seconds: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.ecg2ppg = nn.ModuleList(
            CrossAttentionBlock(
                d_model, nhead, dropout=dropout,
                lag=None if lag is None else LagBias(lag, nhead, num_patches, patch_seconds),
            )
            for _ in range(depth)
        )  # fmt: skip
        self.ppg2ecg = nn.ModuleList(CrossAttentionBlock(d_model, nhead, dropout=dropout) for _ in range(depth))

    def forward(
        self,
        t_ppg: Tensor | None,
        t_ecg: Tensor,
        alpha: float = 1.0,
        *,
        q_ecg_override: Tensor | None = None,
        q_ppg_override: Tensor | None = None,
        key_pos: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """ECG tokens attend to PPG tokens.

        Args:
            t_ppg: [B, Nk, D], the keys and values; None: nothing to attend to.
            t_ecg: [B, Nq, D].
            alpha: factor on the update of each block; at 0 and below there is no update.
            q_ecg_override: [B, N, D], queries in place of t_ecg.
            q_ppg_override: [B, Nk, D], returned in place of t_ppg.
            key_pos: [B, Nk] int64, the patches of the PPG tokens, for blocks with a lag; None: 0..Nk-1.

        Returns:
            The PPG tokens, unchanged, and the updated ECG tokens [B, Nq or N, D].
        """
        ppg = t_ppg if q_ppg_override is None else q_ppg_override
        ecg = t_ecg if q_ecg_override is None else q_ecg_override
        if t_ppg is None or alpha <= 0:
            return ppg, ecg
        for block in self.ecg2ppg:
            knows_lag = key_pos is not None and isinstance(block, CrossAttentionBlock)
            updated = block(ecg, t_ppg, key_pos) if knows_lag else block(ecg, t_ppg)
            ecg = updated if alpha == 1 else ecg + alpha * (updated - ecg)
        return ppg, ecg

    def foreign_parts(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(operators, '<name>: <reason>') for each block that is not the standard one, as in `SinglePath`."""
        for number, block in enumerate(self.ecg2ppg):
            if why := own_forward(block, CrossAttentionBlock):
                yield BLOCK_OPS, f"bridger.ecg2ppg.{number}: {why}"


class WaveformDecoder(nn.Module):
    """Each token becomes the P samples of its patch: ConvTranspose1d(D -> 1, kernel P, stride P).

    [B, N, D] -> [B, 1, N P].
    """

    def __init__(self, d_model: int, patch_len: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose1d(d_model, 1, patch_len, stride=patch_len)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, 1, N P]."""
        return self.deconv(tokens.transpose(1, 2))


def dropout_rate(module: nn.Dropout) -> float:
    """The rate that `module` applies now."""
    return module.p if module.training else 0.0


def attention_dropout(attn: nn.MultiheadAttention) -> float:
    """The rate that `attn` applies to its probabilities now."""
    return attn.dropout if attn.training else 0.0


def _dropout_fault(name: str, p: float) -> str:
    return f"{name}: its dropout of {p} leaves nothing" if p >= 1 else ""
