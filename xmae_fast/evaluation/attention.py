"""Attention of the bridge by lag."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast.model.blocks import CrossAttentionBlock
from xmae_fast.model.modes import evaluating
from xmae_fast.model.xmae import xMAE
from xmae_fast.ops.lag_attention import lag_seconds


class LagProfile(NamedTuple):
    """Attention by lag, which is the time of the PPG token minus the time of the ECG token.

    Attributes:
        lags: [2N - 1] seconds, ascending.
        mass: [depth_bridge, H, 2N - 1] float64; the mean over segments and queries of the probability that a head gives
            to keys at that lag. It sums to 1 over lags, or to less where some queries may attend to no key.
        uniform: [2N - 1], the mass if attention were even over the keys. Lags near 0 occur in more pairs than others,
            so that `mass / uniform` tells whether a head prefers a lag.
    """

    lags: Tensor
    mass: Tensor
    uniform: Tensor


@torch.no_grad()
def lag_profile(
    model: xMAE,
    ppg: Tensor,
    ecg: Tensor,
    *,
    ids_keep_ppg: Tensor | None = None,
    ids_keep_ecg: Tensor | None = None,
    queries: str = "all",
) -> LagProfile:
    """Where in time each head of the bridge looks, with the statistics of evaluation and without dropout.

    Args:
        model: with a bridge.
        ppg, ecg: [B, L] or [B, 1, L], as for the model.
        ids_keep_ppg, ids_keep_ecg: [B, Nk], the visible patches; None for all.
        queries: which ECG patches count: "all", or "masked" for those that are not in ids_keep_ecg.

    Raises:
        ValueError: the model has no bridge, there is no query to count, or an argument is wrong.
    """
    if model.bridger is None or model.ppg_path is None or model.ecg_path is None:
        raise ValueError("model: expected one with a bridge (source='ppg+ecg', use_cross_bridge=True), got one without")
    if queries not in ("all", "masked"):
        raise ValueError(f"queries: expected 'all' or 'masked', got {queries!r}")
    if queries == "masked" and ids_keep_ecg is None:
        raise ValueError("queries: expected ids_keep_ecg with 'masked', got None")
    as_ppg, as_ecg = model.as_signal("ppg", ppg), model.as_signal("ecg", ecg)
    if as_ppg is None or as_ecg is None or as_ppg.shape[0] != as_ecg.shape[0]:
        got = [None if x is None else list(x.shape) for x in (as_ppg, as_ecg)]
        raise ValueError(f"ppg, ecg: expected both signals with one batch size, got {got[0]} and {got[1]}")
    ppg, ecg = as_ppg, as_ecg
    ids_keep_ppg, ids_keep_ecg = model.kept_ids("_ppg", ppg, ids_keep_ppg), model.kept_ids("_ecg", ecg, ids_keep_ecg)
    B, N = ecg.shape[0], model.cfg.num_patches
    ppg_tokens = model.ppg_path.encode(ppg, ids_keep_ppg, inference=True)
    x = model.bridge_queries(model.ecg_path.encode(ecg, ids_keep_ecg, inference=True), ids_keep_ecg)

    counted = torch.ones(B, N, dtype=torch.float64, device=ecg.device)
    if queries == "masked" and ids_keep_ecg is not None:
        counted.scatter_(1, ids_keep_ecg, 0)
    total = counted.sum()
    if total == 0:
        raise ValueError(f"queries: expected at least one {queries} query, got none")
    position = torch.arange(N, device=ecg.device)
    key_pos = position.expand(B, N) if ids_keep_ppg is None else ids_keep_ppg
    column = (key_pos[:, None, :] - position[None, :, None] + N - 1).flatten()

    def by_lag(weights: Tensor) -> Tensor:
        """Sums of weights [B, Nq, Nk] over all pairs of one lag, divided by the number of counted queries: [2N - 1]."""
        sums = torch.zeros(2 * N - 1, dtype=torch.float64, device=weights.device)
        return sums.index_add_(0, column, (weights.double() * counted[:, :, None]).flatten()) / total

    mass = []
    with evaluating(model.bridger):
        for number, block in enumerate(model.bridger.ecg2ppg):
            if not isinstance(block, CrossAttentionBlock):
                raise ValueError(
                    f"model: expected bridge blocks with attention, got a {type(block).__name__} as ecg2ppg.{number}"
                )
            weights = block.attention_weights(x, ppg_tokens, ids_keep_ppg)
            mass.append(torch.stack([by_lag(weights[:, head]) for head in range(weights.shape[1])]))
            x = block(x, ppg_tokens, ids_keep_ppg)
    lags = lag_seconds(N, model.cfg.patch_seconds, device=ecg.device, dtype=torch.float64)
    keys = key_pos.shape[1]
    uniform = by_lag(torch.full((B, N, keys), 1 / max(keys, 1), dtype=torch.float64, device=ecg.device))
    empty = torch.zeros(0, model.cfg.nhead, 2 * N - 1, dtype=torch.float64, device=ecg.device)
    return LagProfile(lags, torch.stack(mass) if mass else empty, uniform)
