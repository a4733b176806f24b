"""One modality's half of the model: from a signal to tokens, and what decodes them."""

from __future__ import annotations

from torch import Tensor, nn

from xmae_fast import ops
from xmae_fast.config import ModelCfg
from xmae_fast.model.layers import Block, Stem, truncated_normal


class PatchProjection(nn.Module):
    """Patch embedding's parameters: Conv1d(S -> D, kernel P, stride P)."""

    def __init__(self, cfg: ModelCfg) -> None:
        super().__init__()
        self.proj = nn.Conv1d(cfg.stem_ch, cfg.d_model, cfg.patch_len, stride=cfg.patch_len)


class Encoder(nn.Module):
    """A stack of encoder blocks."""

    def __init__(self, cfg: ModelCfg, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(cfg, 4 * cfg.d_model, ("norm1", "norm2")) for _ in range(depth))


class WaveformDecoder(nn.Module):
    """Deconvolution's parameters: ConvTranspose1d(D -> 1, kernel P, stride P)."""

    def __init__(self, cfg: ModelCfg) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose1d(cfg.d_model, 1, cfg.patch_len, stride=cfg.patch_len)


class ModalityPath(nn.Module):
    """All of one modality: stem, patch embedding, encoder, embedding head, decoder."""

    stem_may_share = True  # launches with the other modality's: `features` may be bypassed

    def __init__(self, cfg: ModelCfg, depth: int) -> None:
        super().__init__()
        self.patch_len = cfg.patch_len
        self.pos = truncated_normal(1, cfg.num_patches, cfg.d_model)
        self.stem = Stem(cfg.stem_ch)
        self.patcher = PatchProjection(cfg)
        self.encoder = Encoder(cfg, depth)
        self.proj = nn.Sequential(nn.LayerNorm(cfg.d_model), nn.Linear(cfg.d_model, cfg.proj_dim))
        self.dec_blk = Block(cfg, 2 * cfg.d_model, ("ln1", "ln2"))
        self.decoder = WaveformDecoder(cfg)
        self.mask_loc_table = nn.Embedding(cfg.num_patches, cfg.d_model)
        nn.init.xavier_uniform_(self.mask_loc_table.weight)

    def encode(self, signal: Tensor, ids_keep: Tensor | None, *, inference: bool = False, impl: str = "auto") -> Tensor:
        """Tokens of the visible patches: signal [B, 1, L], ids_keep [B, Nk] or None (all) -> [B, Nk, D].

        The stem runs over the visible patches side by side, and the first Nk positions are added, not those of the
        kept patches: both as published. `inference`: running statistics and no dropout, whatever the mode.
        """
        signal = self.visible(signal, ids_keep, impl)
        return self.tokens(self.features(signal, inference, impl), inference=inference, impl=impl)

    def visible(self, signal: Tensor, ids_keep: Tensor | None, impl: str) -> Tensor:
        """The visible patches side by side: [B, 1, Nk P]."""
        if ids_keep is None:
            return signal
        return ops.gather_patches(signal, ids_keep, self.patch_len, impl=impl)

    def features(self, signal: Tensor, inference: bool, impl: str) -> Tensor:
        """The stem's, [B, S, Nk P], of visible patches side by side."""
        if signal.shape[-1] == 0:
            return self.pos.new_empty(signal.shape[0], 0, 0)
        training = not inference and self.stem.uses_batch_statistics()
        return ops.conv_stem(signal, self.stem.params(), training=training, impl=impl)

    def tokens(self, features: Tensor, *, inference: bool, impl: str) -> Tensor:
        """From the stem's features [B, S, Nk P] to tokens [B, Nk, D]."""
        kept = features.shape[-1] // self.patch_len
        if kept == 0:
            return self.pos.new_empty(features.shape[0], 0, self.pos.shape[-1])
        x = ops.patch_embed(features, self.patcher.proj.weight, self.patcher.proj.bias, self.pos[:, :kept], impl=impl)
        for block in self.encoder.blocks:
            x = block(x, inference=inference, impl=impl)
        return x

    def embedding(self, tokens: Tensor) -> Tensor:
        """Mean over tokens, LayerNorm, Linear: [B, Nk, D] -> [B, proj_dim]."""
        return self.proj(tokens.mean(dim=1))
