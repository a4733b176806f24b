"""The half of the model for one signal: it turns the signal into tokens, and tokens into a signal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast, overload

import torch
from torch import Tensor, nn

from xmae_fast import backend, ops
from xmae_fast.backend import choice_of
from xmae_fast.model import standard
from xmae_fast.model.blocks import (
    BLOCK_OPS,
    ENCODER,
    TransformerDecoderLite,
    TransformerEncoder,
    TransformerEncoderBlock,
    WaveformDecoder,
)
from xmae_fast.model.calls import own_forward
from xmae_fast.model.modes import evaluating
from xmae_fast.model.standard import Accelerated, Span, Standard
from xmae_fast.model.stem import STEM, PatchEmbed1D, Ready, UNetHalfInceptionStem1D, is_one_operator
from xmae_fast.ops import _encoding
from xmae_fast.ops._encoding import EncoderWeights
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.conv_stem.params import flatten

_ENCODING_OPS = ("conv_stem", "patch_embed", *BLOCK_OPS)


def _patch_embedding(patch_len: int) -> Standard:
    proj = standard.conv(patch_len, stride=patch_len, padding=0, bias=True)
    return Standard(PatchEmbed1D, children={"proj": proj})


def _decoder(patch_len: int) -> Standard:
    settings = {
        "stride": (patch_len,), "padding": (0,), "output_padding": (0,), "dilation": (1,), "groups": 1,
        "padding_mode": "zeros",
    }  # fmt: skip
    deconv = Standard(nn.ConvTranspose1d, settings, ("weight", "bias"), kernel_size=patch_len)
    return Standard(WaveformDecoder, children={"deconv": deconv})


class _Encoder(NamedTuple):
    """Stem, patch embedding and encoder as the kernels take them."""

    stem: Ready
    weights: EncoderWeights
    floating: list[Tensor]  # the weights that hold floating-point numbers


class SinglePath(Accelerated):
    """All parts for one signal: stem, patch embedding, encoder, embedding head, decoder.

    Attributes:
        seq_len: L, samples of the signal.
        patch_len: P, samples of one patch.
        n_patches: N = L / P.
        d_model: D, width of the tokens.
    """

    def __init__(
        self,
        seq_len: int = 1000,
        patch_len: int = 40,
        d_model: int = 512,
        nhead: int = 8,
        depth: int = 2,
        stem_ch: int = 32,
        dropout: float = 0.1,
        proj_dim: int = 384,
    ) -> None:
        super().__init__()
        self.seq_len, self.patch_len, self.d_model = seq_len, patch_len, d_model
        self.n_patches = seq_len // patch_len
        # One seed makes one model: parameters are drawn in the published order.
        self.stem = UNetHalfInceptionStem1D(1, stem_ch)
        self.patcher = PatchEmbed1D(stem_ch, d_model, patch_len)
        self.pos = truncated_normal(1, self.n_patches, d_model)
        self.encoder = TransformerEncoder(depth, d_model, nhead, dropout=dropout)
        self.proj = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, proj_dim))
        self.dec_blk = TransformerDecoderLite(d_model, nhead, dropout=dropout)
        self.decoder = WaveformDecoder(d_model, patch_len)
        self.mask_loc_table = nn.Embedding(self.n_patches, d_model)
        nn.init.xavier_uniform_(self.mask_loc_table.weight)
        patcher, decoder = _patch_embedding(patch_len), _decoder(patch_len)
        self._patcher_span = Span({"patcher": patcher})
        self._encoding_span = Span({"stem": STEM, "patcher": patcher, "encoder": ENCODER})
        self._decoder_span = Span({"decoder": decoder})
        self._head_span = Span({"proj": standard.sequential(standard.LAYER_NORM, standard.LINEAR)})

    def visible_tokens_from_wave(self, x: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Tokens of the visible patches: x [B, 1, L], ids_keep [B, Nk] or None (all) -> [B, Nk, D].

        The stem runs over the visible patches side by side, and the first Nk positions are added, not those of the
        kept patches: both as published.
        """
        return self.tokens(self.features(self.visible(x, ids_keep)))

    def encode(self, signal: Tensor, ids_keep: Tensor | None = None, *, inference: bool = False) -> Tensor:
        """`visible_tokens_from_wave`: signal [B, 1, L], ids_keep [B, Nk] or None (all) -> [B, Nk, D].

        inference: by running statistics and without dropout, whatever the mode.
        """
        if not inference:
            return self.visible_tokens_from_wave(signal, ids_keep)
        if self._is_encoded_by_operators():
            visible = self.visible(signal, ids_keep)
            if visible.shape[-1]:
                return self._encoded(visible)
        with evaluating(self):
            return self.visible_tokens_from_wave(signal, ids_keep)

    def visible(self, signal: Tensor, ids_keep: Tensor | None) -> Tensor:
        """The visible patches side by side: [B, 1, L] -> [B, 1, Nk P]."""
        if ids_keep is None:
            return signal
        return ops.gather_patches(signal, ids_keep, self.patch_len, impl=self.impl)

    def features(self, visible: Tensor) -> Tensor:
        """The stem's features of visible patches side by side: [B, 1, Nk P] -> [B, S, Nk P]."""
        if visible.shape[-1] == 0:
            return self.pos.new_empty(visible.shape[0], 0, 0)
        return self.stem(visible)

    def tokens(self, features: Tensor) -> Tensor:
        """From the stem's features [B, S, Nk P] to tokens [B, Nk, D]."""
        kept = features.shape[-1] // self.patch_len
        if kept == 0:
            return self.pos.new_empty(features.shape[0], 0, self.d_model)
        return self.encoder(self._embed_patches(features, self.pos[:, :kept]))

    def _embed_patches(self, features: Tensor, pos: Tensor) -> Tensor:
        if self.runs_as_modules("patch_embed", self._patcher_span):
            return self.patcher(features) + pos
        return self._patch_kernel(features, pos)

    def _patch_kernel(self, features: Tensor, pos: Tensor) -> Tensor:
        proj: Any = self.patcher.proj  # with a bias: it is standard
        return ops.patch_embed(features, proj.weight, proj.bias, pos, impl=self.impl)

    def _is_encoded_by_operators(self) -> bool:
        """Whether kernels may compute stem, patch embedding and encoder in evaluation, all of them."""
        chosen = {choice_of(self.impl, op) for op in _ENCODING_OPS}
        if "reference" in chosen or ("auto" in chosen and standard.is_watched()):
            return False
        if self.overrides("visible_tokens_from_wave") or self._encoding_span.fault(self):
            return False
        return not self._encoding_span.gathered(self._gather).stem.width_fault

    def overrides(self, method: str) -> bool:
        """Whether a subclass, or a patch of this path, has a method of its own."""
        return method in self.__dict__ or getattr(type(self), method) is not getattr(SinglePath, method)

    def _encoded(self, visible: Tensor) -> Tensor:
        """Tokens in evaluation by the operators, for modules that are all standard: [B, 1, Nk P] -> [B, Nk, D]."""
        encoder = self._encoding_span.gathered(self._gather)
        pos = self.pos[:, : visible.shape[-1] // self.patch_len]
        blocks: Any = self.encoder.blocks  # of TransformerEncoderBlock: they are standard
        if _encoding.may_encode(visible, self.impl, [*encoder.floating, pos]):
            return _encoding.encode(visible, encoder.weights, pos, [block.attn.num_heads for block in blocks])
        features = ops.conv_stem(visible, encoder.stem.params, training=False, impl=self.impl)
        x = self._patch_kernel(features, pos)
        for block in blocks:
            x = block.kernel(x)
        return x

    def _gather(self) -> _Encoder:
        """The arguments of the kernels as they are now; stem, patch embedding and encoder must be standard."""
        stem, proj, blocks = self.stem.ready(), cast(Any, self.patcher.proj), cast(Any, self.encoder.blocks)
        weights = EncoderWeights(flatten(stem.params), (proj.weight, proj.bias), [block.weights() for block in blocks])
        return _Encoder(stem, weights, list(weights.floating()))

    def embedding(self, tokens: Tensor) -> Tensor:
        """Mean over tokens, LayerNorm, Linear: [B, Nk, D] -> [B, proj_dim].

        Where the kernels for the CPU answer to bfloat16 autocast, the head computes in float32 and its result is
        rounded: PyTorch would round the weights first, at every call, which takes longer than all of the head.
        """
        pooled = tokens.mean(dim=1)
        plain = torch.is_grad_enabled() or tokens.dtype != torch.float32
        if plain or not tokens.is_cpu or compute_dtype(tokens, "cpu", inference=True) == torch.float32:
            return self.proj(pooled)
        with torch.autocast("cpu", enabled=False):
            return self.proj(pooled).to(torch.bfloat16)

    def make_query_tokens_from_pre_encoded(
        self, tokens: Tensor, ids_keep: Tensor, tokens_of_the_other: Tensor | None = None
    ) -> Tensor:
        """Queries of the bridge: the encoder's token for every visible patch, a learned vector for every other.

        Args:
            tokens: [B, Nk, D], from the encoder.
            ids_keep: [B, Nk], the patch of each token.
            tokens_of_the_other: tokens of the other signal; not used, but part of the published call.

        Returns:
            [B, N, D].
        """
        return ops.assemble_queries(
            tokens, whole_numbers(ids_keep), self.pos, self.mask_loc_table.weight, impl=self.impl
        )

    def decode_full_wave(self, tokens: Tensor, ids_restore: Tensor | None, mask_token: Tensor) -> Tensor:
        """tokens [B, Nk or N, D], ids_restore [B, N], mask_token [1, 1, D] -> [B, 1, L].

        Fewer than N tokens are those of the visible patches: mask_token takes the places of the others, and the
        positions are added.
        """
        return self.waveform(self.decoded(tokens, ids_restore, mask_token))

    def decoded(self, tokens: Tensor, ids_restore: Tensor | None, mask_token: Tensor) -> Tensor:
        """All N tokens after the decoder block: [B, Nk or N, D] -> [B, N, D]."""
        if tokens.shape[1] < self.n_patches:
            restore: Any = whole_numbers(ids_restore)  # the operator refuses None
            tokens = ops.restore_tokens(tokens, restore, mask_token, self.pos, impl=self.impl)
        return self.dec_blk(tokens)

    def waveform(self, decoded: Tensor) -> Tensor:
        """Each token becomes the samples of its patch: [B, N, D] -> [B, 1, L]."""
        if self.runs_as_modules("waveform_loss", self._decoder_span):
            return self.decoder(decoded)
        deconv: Any = self.decoder.deconv  # with a bias: it is standard
        return ops.decode_waveform(decoded, deconv.weight, deconv.bias, impl=self.impl)

    def loss(self, decoded: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """`masked_mse` of `waveform(decoded)`: decoded [B, N, D], target, mask [B, 1, L] -> []."""
        if self.runs_as_modules("waveform_loss", self._decoder_span):
            return ops.masked_mse(self.decoder(decoded), target, mask, impl=self.impl)
        deconv: Any = self.decoder.deconv  # with a bias: it is standard
        return ops.waveform_loss(decoded, deconv.weight, deconv.bias, target, mask, impl=self.impl)

    @staticmethod
    def seqmask_from_ids_restore(ids_restore: Tensor, kept: int, patch_len: int) -> Tensor:
        """1 on the samples of masked patches (ids_restore >= kept), 0 elsewhere: [B, N] -> [B, 1, N P], float32."""
        return ops.masked_samples(whole_numbers(ids_restore), kept, patch_len)

    def _identity_ids(self, B: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """ids_keep and ids_restore that hide nothing: [B, N] each."""
        return identity_ids(B, self.n_patches, device)

    @staticmethod
    def _ensure_B1L(x: Tensor) -> Tensor:
        """[B, L] or [B, 1, L] -> [B, 1, L]."""
        return x[:, None] if x.dim() == 2 else x

    def faults(self) -> Iterator[tuple[str, str]]:
        """(operator, '<name>: <reason>') for each module that keeps a kernel from a span of this part."""
        yield from standard.pairs("patch_embed", self._patcher_span.faults(self))
        yield from standard.pairs("waveform_loss", self._decoder_span.faults(self))

    def head_fault(self) -> str:
        """Why the embedding's head is not the standard LayerNorm and Linear, or ''."""
        return self._head_span.fault(self)

    def foreign_parts(self, *, decodes: bool) -> Iterator[tuple[tuple[str, ...], str]]:
        """(operators, '<name>: <reason>') for each part of another class where the operators would be called.

        decodes: whether the decoder block runs.
        """
        places = [("stem", self.stem, UNetHalfInceptionStem1D, ("conv_stem",)),
                  ("encoder", self.encoder, TransformerEncoder, BLOCK_OPS)]  # fmt: skip
        for number, block in enumerate(getattr(self.encoder, "blocks", ())):
            places.append((f"encoder.blocks.{number}", block, TransformerEncoderBlock, BLOCK_OPS))
        if decodes:
            places.append(("dec_blk", self.dec_blk, TransformerDecoderLite, BLOCK_OPS))
        for name, part, kind, operators in places:
            if why := own_forward(part, kind):
                yield operators, self.named(f"{name}: {why}")


Encoding = tuple[SinglePath, Tensor, Tensor | None]  # a path, its signal [B, 1, L], its ids_keep [B, Nk] or None: all


def encode_paths(*parts: Encoding) -> tuple[Tensor, ...]:
    """Tokens of the visible patches of one path's signal or of both paths' signals: [B, Nk, D] each.

    Stems that kernels on a GPU compute go to one operator, which trains both in one set of launches.
    """
    if len(parts) < 2 or not _stems_go_together(parts):
        return tuple(path.visible_tokens_from_wave(signal, keep) for path, signal, keep in parts)
    visible = [path.visible(signal, keep) for path, signal, keep in parts]
    stems = [path.stem for path, _, _ in parts]
    params, training = tuple(stem.params() for stem in stems), stems[0].uses_batch_statistics()
    features = ops.conv_stems(visible, params, training=training, impl=stems[0].impl)
    return tuple(path.tokens(x) for (path, _, _), x in zip(parts, features, strict=True))


def _stems_go_together(parts: tuple[Encoding, ...]) -> bool:
    """Whether one call of an operator computes what the calls of all these stems would, and is faster."""
    paths = [path for path, _, _ in parts]
    if not all(isinstance(path, SinglePath) for path in paths):
        return False
    signal = parts[0][1]
    if backend.resolve("conv_stem", paths[0].impl, signal.device, signal.dtype) in ("reference", "cpu"):
        return False
    if any(keep is not None and keep.shape[1] == 0 for _, _, keep in parts):
        return False
    if any(path.overrides("visible_tokens_from_wave") or not is_one_operator(path.stem) for path in paths):
        return False
    return len({(path.stem.impl, path.stem.uses_batch_statistics()) for path in paths}) == 1


@overload
def whole_numbers(ids: Tensor) -> Tensor: ...
@overload
def whole_numbers(ids: Tensor | None) -> Tensor | None: ...
def whole_numbers(ids: Tensor | None) -> Tensor | None:
    """Patch indices of any integer type as int64."""
    if ids is None or ids.dtype == torch.int64 or ids.dtype == torch.bool or ids.is_floating_point():
        return ids  # ids that are no integers are refused where they are checked
    return ids.long()


def identity_ids(B: int, N: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """ids_keep and ids_restore that hide nothing: [B, N] each."""
    ids = torch.arange(N, device=device).expand(B, -1)
    return ids, ids


def truncated_normal(*shape: int) -> nn.Parameter:
    """A parameter drawn from the normal distribution with standard deviation 0.02, cut at -2 and 2, as published."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))
