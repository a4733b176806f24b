"""Floating-point operations of the model, from the operators' own counts."""

from __future__ import annotations

from xmae_fast import ModelCfg
from xmae_fast.ops.cases import all_cases


def embed_flops(cfg: ModelCfg, B: int) -> int:
    """One call of `embed`."""
    return _encoder(cfg, B, cfg.num_patches, cfg.depth_ppg) + 2 * B * cfg.d_model * cfg.proj_dim


def forward_flops(cfg: ModelCfg, B: int, kept: int) -> int:
    """One reconstruction from PPG and `kept` visible ECG patches; three times as much with its backward."""
    N, D = cfg.num_patches, cfg.d_model
    paths = _encoder(cfg, B, N, cfg.depth_ppg) + _encoder(cfg, B, kept, cfg.depth_ecg)
    bridge = cfg.depth_bridge * _block(cfg, B, N, N, 4 * D)
    decoder = _block(cfg, B, N, "self", 2 * D) + 2 * B * N * D * cfg.patch_len
    return paths + bridge + decoder


def _encoder(cfg: ModelCfg, B: int, tokens: int, depth: int) -> int:
    ops = all_cases()
    stem = ops["conv_stem"].flops({"B": B, "L": tokens * cfg.patch_len, "S": cfg.stem_ch})
    patches = ops["patch_embed"].flops({"B": B, "S": cfg.stem_ch, "N": tokens, "P": cfg.patch_len, "D": cfg.d_model})
    return stem + patches + depth * _block(cfg, B, tokens, "self", 4 * cfg.d_model)


def _block(cfg: ModelCfg, B: int, queries: int, keys: int | str, hidden: int) -> int:
    ops, D = all_cases(), cfg.d_model
    attention = ops["lag_attention"].flops({"B": B, "Nq": queries, "Nk": keys, "D": D})
    return attention + ops["feed_forward"].flops({"B": B, "N": queries, "D": D, "F": hidden})
