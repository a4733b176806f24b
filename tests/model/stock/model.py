"""The published model in plain PyTorch modules: the control that the library's model is compared with.

It is written from the description of the published system alone and computes nothing with code of xmae_fast. Every part
calls its children in the order of the description, so that hooks, replaced parts and settings act as they do there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple  # noqa: UP035 - the published module imports these names, its users rely on it

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.model.stock.stem import ConvBNAct, InceptionBlock1D, PatchEmbed1D, UNetHalfInceptionStem1D

__all__ = [
    "Bridger",
    "ConvBNAct",
    "CrossAttentionBlock",
    "Dict",
    "F",
    "InceptionBlock1D",
    "ModelCfg",
    "Optional",
    "PatchEmbed1D",
    "SinglePath",
    "TransformerDecoderLite",
    "TransformerEncoder",
    "TransformerEncoderBlock",
    "Tuple",
    "UNetHalfInceptionStem1D",
    "WaveformDecoder",
    "build_model_from_cfg",
    "dataclass",
    "nn",
    "torch",
    "xMAE",
]


@dataclass
class ModelCfg:
    seq_len: int = 1000
    patch_len: int = 40
    d_model: int = 512
    nhead: int = 8
    depth_ecg: int = 1
    depth_ppg: int = 2
    depth_bridge: int = 1
    stem_ch: int = 32
    dropout: float = 0.1
    proj_dim: int = 384
    use_cross_bridge: bool = True
    source: str = "ppg+ecg"
    stem_type: str = "unet"
    return_embeddings: bool = True
    return_recon: bool = True


def _feed_forward(d_model: int, hidden: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(d_model, hidden), nn.GELU(), nn.Linear(hidden, d_model), nn.Dropout(dropout)]


class TransformerEncoderBlock(nn.Module):
    """[B, N, D] -> [B, N, D]."""

    def __init__(self, d_model: int, nhead: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(*_feed_forward(d_model, 4 * d_model, dropout))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TransformerDecoderLite(nn.Module):
    """[B, N, D] -> [B, N, D]."""

    def __init__(self, d_model: int, nhead: int, dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=True)
        self.ln2 = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(*_feed_forward(d_model, 2 * d_model, dropout))

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class TransformerEncoder(nn.Module):
    """[B, N, D] -> [B, N, D]."""

    def __init__(self, d_model: int, nhead: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerEncoderBlock(d_model, nhead, dropout) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class CrossAttentionBlock(nn.Module):
    """Queries [B, Nq, D], keys and values [B, Nk, D] -> [B, Nq, D]."""

    def __init__(self, d_model: int, nhead: int, dropout: float) -> None:
        super().__init__()
        self.nq = nn.LayerNorm(d_model)
        self.nkv = nn.LayerNorm(d_model)
        self.attn = nn.MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=True)
        self.ffn = nn.Sequential(nn.LayerNorm(d_model), *_feed_forward(d_model, 4 * d_model, dropout))

    def forward(self, q: Tensor, kv: Tensor) -> Tensor:
        queries, keys = self.nq(q), self.nkv(kv)
        x = q + self.attn(queries, keys, keys, need_weights=False)[0]
        return x + self.ffn(x)


class WaveformDecoder(nn.Module):
    """[B, N, D] -> [B, 1, L]."""

    def __init__(self, d_model: int, patch_len: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose1d(d_model, 1, patch_len, stride=patch_len)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.deconv(tokens.transpose(1, 2))


class SinglePath(nn.Module):
    """Everything that belongs to one signal."""

    def __init__(self, cfg: ModelCfg, depth: int) -> None:
        super().__init__()
        self.seq_len, self.patch_len, self.d_model = cfg.seq_len, cfg.patch_len, cfg.d_model
        self.n_patches = cfg.seq_len // cfg.patch_len
        self.stem = UNetHalfInceptionStem1D(1, cfg.stem_ch)
        self.patcher = PatchEmbed1D(cfg.stem_ch, cfg.d_model, cfg.patch_len)
        self.pos = nn.Parameter(torch.zeros(1, self.n_patches, cfg.d_model))
        nn.init.trunc_normal_(self.pos, std=0.02)
        self.encoder = TransformerEncoder(cfg.d_model, cfg.nhead, depth, cfg.dropout)
        self.proj = nn.Sequential(nn.LayerNorm(cfg.d_model), nn.Linear(cfg.d_model, cfg.proj_dim))
        self.dec_blk = TransformerDecoderLite(cfg.d_model, cfg.nhead, cfg.dropout)
        self.decoder = WaveformDecoder(cfg.d_model, cfg.patch_len)
        self.mask_loc_table = nn.Embedding(self.n_patches, cfg.d_model)
        nn.init.xavier_uniform_(self.mask_loc_table.weight)

    def _ensure_B1L(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) if x.dim() == 2 else x

    def _identity_ids(self, B: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        ids = torch.arange(self.n_patches, device=device).expand(B, -1)
        return ids, ids

    def visible_tokens_from_wave(self, x: Tensor, ids_keep: Tensor) -> Tensor:
        """[B, 1, L], [B, Nk] -> [B, Nk, D]."""
        B, Nk = ids_keep.shape
        if Nk == 0:
            return x.new_zeros(B, 0, self.d_model)
        patches = x.reshape(B, self.n_patches, self.patch_len)
        rows = torch.arange(B, device=x.device)[:, None]
        tokens = self.patcher(self.stem(patches[rows, ids_keep.long()].reshape(B, 1, Nk * self.patch_len)))
        return self.encoder(tokens + self.pos[:, :Nk])

    def make_query_tokens_from_pre_encoded(self, tokens: Tensor, ids_keep: Tensor, other: Tensor) -> Tensor:
        """[B, Nk, D], [B, Nk], [B, *, D] -> [B, N, D]."""
        B, Nk = ids_keep.shape
        rows = torch.arange(B, device=tokens.device)[:, None]
        every = self.mask_loc_table.weight.expand(B, -1, -1)
        content = every.index_put((rows, ids_keep.long()), (tokens - self.pos[:, :Nk]).to(every.dtype))
        return content + self.pos

    def decode_full_wave(self, tokens: Tensor, ids_restore: Tensor, mask_token: Tensor) -> Tensor:
        """[B, Nk, D], [B, N], [1, 1, D] -> [B, 1, L]."""
        B, Nk, _ = tokens.shape
        if Nk < self.n_patches:
            rows = torch.arange(B, device=tokens.device)[:, None]
            every = torch.cat([tokens, mask_token.expand(B, self.n_patches - Nk, -1)], dim=1)
            tokens = every[rows, ids_restore.long()] + self.pos
        return self.decoder(self.dec_blk(tokens))

    @staticmethod
    def seqmask_from_ids_restore(ids_restore: Tensor, Nk: int, patch_len: int) -> Tensor:
        """[B, N] -> [B, 1, L], 1 on masked samples."""
        return (ids_restore >= Nk).float().repeat_interleave(patch_len, dim=1).unsqueeze(1)


class Bridger(nn.Module):
    def __init__(self, d_model: int, nhead: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.ecg2ppg = nn.ModuleList(CrossAttentionBlock(d_model, nhead, dropout) for _ in range(depth))
        self.ppg2ecg = nn.ModuleList(CrossAttentionBlock(d_model, nhead, dropout) for _ in range(depth))

    def forward(
        self,
        t_ppg: Tensor | None,
        t_ecg: Tensor | None,
        alpha: float = 1.0,
        *,
        q_ecg_override: Tensor | None = None,
        q_ppg_override: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        q = t_ecg if q_ecg_override is None else q_ecg_override
        if t_ppg is None or alpha <= 0:
            return t_ppg, q
        for block in self.ecg2ppg:
            q = q + alpha * (block(q, t_ppg) - q)
        return t_ppg, q


class xMAE(nn.Module):
    def __init__(self, cfg: ModelCfg) -> None:
        super().__init__()
        self.cfg, self.source, self.patch_len = cfg, cfg.source, cfg.patch_len
        self.n_patches = cfg.seq_len // cfg.patch_len
        self.ppg_path = SinglePath(cfg, cfg.depth_ppg) if "ppg" in cfg.source else None
        self.ecg_path = SinglePath(cfg, cfg.depth_ecg) if "ecg" in cfg.source else None
        self.bridger = None
        if cfg.use_cross_bridge and self.ppg_path is not None and self.ecg_path is not None:
            self.bridger = Bridger(cfg.d_model, cfg.nhead, cfg.depth_bridge, cfg.dropout)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, cfg.d_model))
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self,
        ppg: Tensor | None = None,
        ecg: Tensor | None = None,
        *,
        ids_keep_ppg: Tensor | None = None,
        ids_restore_ppg: Tensor | None = None,
        ids_keep_ecg: Tensor | None = None,
        ids_restore_ecg: Tensor | None = None,
        return_embeddings: bool | None = None,
        return_recon: bool | None = None,
    ) -> dict[str, Tensor]:
        cfg = self.cfg
        wants_embedding = cfg.return_embeddings if return_embeddings is None else return_embeddings
        wants_recon = cfg.return_recon if return_recon is None else return_recon
        ppg = None if self.ppg_path is None else ppg
        ecg = None if self.ecg_path is None else ecg
        if ppg is None and ecg is None:
            raise ValueError("neither signal is there")

        results: dict[str, Tensor] = {}
        t_ppg = t_ecg = None
        if ppg is not None:
            t_ppg, _, _ = self._encode(self.ppg_path, ppg, ids_keep_ppg, ids_restore_ppg)
        if ecg is not None:
            t_ecg, keep, restore = self._encode(self.ecg_path, ecg, ids_keep_ecg, ids_restore_ecg)
        if t_ppg is not None and wants_embedding and t_ppg.shape[1] > 0:
            results["ppg_embedding"] = self.ppg_path.proj(t_ppg.mean(dim=1))
        if t_ecg is not None and wants_recon:
            visible = t_ecg.shape[1]
            if self.bridger is not None and t_ppg is not None:
                queries = self.ecg_path.make_query_tokens_from_pre_encoded(t_ecg, keep, t_ppg)
                _, t_ecg = self.bridger(t_ppg, t_ecg, q_ecg_override=queries)
            results["ecg_reconstructed"] = self.ecg_path.decode_full_wave(t_ecg, restore, self.mask_token)
            results["seq_mask_used_ecg"] = self.ecg_path.seqmask_from_ids_restore(restore, visible, self.patch_len)
        return results

    @staticmethod
    def _encode(
        path: SinglePath, signal: Tensor, ids_keep: Tensor | None, ids_restore: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        signal = path._ensure_B1L(signal)
        if ids_keep is None or ids_restore is None:
            ids_keep, ids_restore = path._identity_ids(signal.shape[0], signal.device)
        return path.visible_tokens_from_wave(signal, ids_keep), ids_keep, ids_restore


def build_model_from_cfg(cfg: dict) -> xMAE:
    params = cfg.get("model_params") or {}
    return xMAE(
        ModelCfg(
            seq_len=int(cfg.get("sampling_freq", 100)) * int(cfg.get("seg_len", 10)),
            patch_len=int(params.get("patch_len", 40)),
            d_model=int(params.get("d_model", 512)),
            nhead=int(params.get("nhead", 8)),
            depth_ecg=int(params.get("depth_ecg", 6)),
            depth_ppg=int(params.get("depth_ppg", 6)),
            depth_bridge=int(params.get("depth_bridge", 2)),
            stem_ch=int(params.get("stem_ch", 32)),
            dropout=float(params.get("dropout", 0.1)),
            proj_dim=int(params.get("latent_dim", 384)),
            use_cross_bridge=bool(params.get("use_cross_bridge", True)),
            source=str(cfg.get("source") or "ppg+ecg").lower(),
            stem_type=str(params.get("stem_type", "unet")),
        )
    )
