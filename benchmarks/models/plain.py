"""xMAE as one would write it with stock modules: the plain path, independent of xmae_fast's operators.

Same state-dict keys as `xmae_fast.xMAE`, so that weights move with `load_state_dict(strict=True)`.
B batch, L samples, P patch length, N = L / P patches, Nk visible patches, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmae_fast import ModelCfg

WAYS = ("ecg2ppg", "ppg2ecg")


def conv_bn_act(c_in: int, c_out: int, k: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv1d(c_in, c_out, k, stride=stride, padding=k // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(c_out), nn.SiLU())


class PlainInception(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        third = c_out // 3
        widths = (third, third, c_out - 2 * third)
        self.branches = nn.ModuleList(conv_bn_act(c_in, width, k) for width, k in zip(widths, (3, 5, 7), strict=True))
        self.fuse = conv_bn_act(c_out, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1))


class PlainStem(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(PlainInception(1, 32), PlainInception(32, 32))
        self.down1 = conv_bn_act(32, 64, 3, stride=2)
        self.enc2 = nn.Sequential(PlainInception(64, 64), PlainInception(64, 64))
        self.down2 = conv_bn_act(64, 128, 3, stride=2)
        self.enc3 = nn.Sequential(PlainInception(128, 128), PlainInception(128, 128))
        self.lat2 = nn.Conv1d(64, 64, 1, bias=False)
        self.lat1 = nn.Conv1d(32, 32, 1, bias=False)
        self.red3to2 = nn.Conv1d(128, 64, 1, bias=False)
        self.red2to1 = nn.Conv1d(64, 32, 1, bias=False)
        self.smooth2 = conv_bn_act(64, 64, 3)
        self.smooth1 = conv_bn_act(32, 32, 3)
        self.head = conv_bn_act(32, channels, 3)
        self.skip = nn.Conv1d(1, channels, 1, bias=False)
        self.skip_bn = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(self.down1(e1))
        e3 = self.enc3(self.down2(e2))
        t2 = self.smooth2(self.lat2(e2) + upsample(self.red3to2(e3), e2))
        t1 = self.smooth1(self.lat1(e1) + upsample(self.red2to1(t2), e1))
        return self.head(t1) + self.skip_bn(self.skip(x))


def upsample(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-1], mode="linear", align_corners=False)


class PlainBlock(nn.Module):
    """Pre-norm transformer block; `norms` are the published names of its LayerNorms."""

    def __init__(self, cfg: ModelCfg, hidden: int, norms: tuple[str, str]) -> None:
        super().__init__()
        self.norms = norms
        for name in norms:
            self.add_module(name, nn.LayerNorm(cfg.d_model))
        self.attn = nn.MultiheadAttention(cfg.d_model, cfg.nhead, dropout=cfg.dropout, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(cfg.d_model, hidden), nn.GELU(), nn.Linear(hidden, cfg.d_model), nn.Dropout(cfg.dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        norm1, norm2 = (self.get_submodule(name) for name in self.norms)
        h = norm1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(norm2(x))


class PlainCrossBlock(nn.Module):
    def __init__(self, cfg: ModelCfg) -> None:
        super().__init__()
        D = cfg.d_model
        self.nq, self.nkv = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attn = nn.MultiheadAttention(D, cfg.nhead, dropout=cfg.dropout, batch_first=True)
        self.ffn = nn.Sequential(
            nn.LayerNorm(D), nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D), nn.Dropout(cfg.dropout)
        )

    def forward(self, q: Tensor, kv: Tensor) -> Tensor:
        kv = self.nkv(kv)
        x = q + self.attn(self.nq(q), kv, kv, need_weights=False)[0]
        return x + self.ffn(x)


class PlainPath(nn.Module):
    """One modality: stem, patch embedding, encoder, embedding head, decoder."""

    def __init__(self, cfg: ModelCfg, depth: int) -> None:
        super().__init__()
        D, P = cfg.d_model, cfg.patch_len
        self.pos = nn.Parameter(torch.zeros(1, cfg.num_patches, D))
        self.stem = PlainStem(cfg.stem_ch)
        self.patcher = nn.ModuleDict({"proj": nn.Conv1d(cfg.stem_ch, D, P, stride=P)})
        self.encoder = nn.ModuleDict(
            {"blocks": nn.ModuleList(PlainBlock(cfg, 4 * D, ("norm1", "norm2")) for _ in range(depth))}
        )
        self.proj = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, cfg.proj_dim))
        self.dec_blk = PlainBlock(cfg, 2 * D, ("ln1", "ln2"))
        self.decoder = nn.ModuleDict({"deconv": nn.ConvTranspose1d(D, 1, P, stride=P)})
        self.mask_loc_table = nn.Embedding(cfg.num_patches, D)

    def encode(self, signal: Tensor) -> Tensor:
        """[B, 1, Nk * P] -> [B, Nk, D]."""
        x = self.patcher["proj"](self.stem(signal)).transpose(1, 2)
        x = x + self.pos[:, : x.shape[1]]
        for block in self.encoder["blocks"]:
            x = block(x)
        return x

    def decode(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, 1, L]."""
        return self.decoder["deconv"](self.dec_blk(tokens).transpose(1, 2))


class PlainXMAE(nn.Module):
    """The default configuration's work (both sources, bridge): embeddings, and reconstruction with masked ECG."""

    def __init__(self, cfg: ModelCfg) -> None:
        super().__init__()
        self.patch_len = cfg.patch_len
        self.mask_token = nn.Parameter(torch.zeros(1, 1, cfg.d_model))
        self.ppg_path = PlainPath(cfg, cfg.depth_ppg)
        self.ecg_path = PlainPath(cfg, cfg.depth_ecg)
        self.bridger = nn.ModuleDict(
            {way: nn.ModuleList(PlainCrossBlock(cfg) for _ in range(cfg.depth_bridge)) for way in WAYS}
        )

    def embed(self, ppg: Tensor) -> Tensor:
        """[B, L] -> [B, proj_dim]."""
        return self.ppg_path.proj(self.ppg_path.encode(ppg[:, None]).mean(dim=1))

    def forward(self, ppg: Tensor, ecg: Tensor, ids_keep: Tensor, ids_restore: Tensor) -> tuple[Tensor, Tensor]:
        """ppg, ecg [B, L], ids_keep [B, Nk], ids_restore [B, N] of the ECG -> reconstruction, sample mask [B, 1, L]."""
        B, kept = ids_keep.shape
        path = self.ecg_path
        patches = ecg.view(B, -1, self.patch_len)
        visible = patches.gather(1, ids_keep[:, :, None].expand(-1, -1, self.patch_len))
        tokens = path.encode(visible.reshape(B, 1, -1))
        D = tokens.shape[-1]
        visible_tokens = tokens - path.pos[:, :kept]
        queries = path.mask_loc_table.weight.to(visible_tokens.dtype).expand(B, -1, -1)
        queries = queries.scatter(1, ids_keep[:, :, None].expand(-1, -1, D), visible_tokens) + path.pos
        ppg_tokens = self.ppg_path.encode(ppg[:, None])
        for block in self.bridger["ecg2ppg"]:
            queries = block(queries, ppg_tokens)
        mask = (ids_restore >= kept).to(ecg.dtype).repeat_interleave(self.patch_len, dim=1)
        return path.decode(queries), mask[:, None]
