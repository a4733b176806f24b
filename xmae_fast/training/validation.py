"""The validation loss."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import Tensor, distributed

from xmae_fast.model.xmae import xMAE
from xmae_fast.training.masks import mask_ids


@torch.no_grad()
def validation_loss(
    model: xMAE,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    mask_ratio: float = 0.8,
    mask_ratio_ppg: float = 0.0,
    mode: str = "anchor",
    autocast: torch.dtype | None = None,
    seed: int = 77,
    rank: int = 0,
    world_size: int = 1,
) -> float:
    """The masked error, as a mean over segments, without dropout and with running statistics.

    Masks depend on the seed, the number of the batch and the row alone. They are therefore the same in every call, and,
    where processes share whole batches row by row, for any number of processes.

    Args:
        model: its mode stays as it is.
        batches: pairs (ppg, ecg), [B, L] each.
        mask_ratio, mask_ratio_ppg: shares of the patches of ECG and of PPG that are hidden.
        mode: of the masks, see `random_masking`.
        autocast: torch.bfloat16, or None for the precision of the weights.
        seed: of the masks.
        rank, world_size: the number of this process and how many share the batches; all of them must call it.

    Returns:
        The error; NaN without a segment.
    """
    N, device, training = model.cfg.num_patches, model.mask_token.device, model.training
    hidden = {"ecg": round(mask_ratio * N), "ppg": round(mask_ratio_ppg * N) if model.has_bridge else 0}
    total = torch.zeros(2, dtype=torch.float64, device=device)
    model.eval()
    try:
        for number, (ppg, ecg) in enumerate(batches):
            ids: dict[str, Tensor] = {}
            for site, (name, k) in enumerate(hidden.items()):
                if name == "ecg" or k:
                    key = torch.tensor([seed, 2 * number + site], dtype=torch.int64, device=device)
                    ids |= mask_ids(model, name, key, len(ecg), k, mode, rank, world_size)
            with torch.autocast(device.type, autocast) if autocast is not None else nullcontext():
                loss = model(ppg, ecg, **ids, return_loss=True)["loss"]
            total += torch.stack([loss.double() * len(ecg), torch.full_like(loss, len(ecg), dtype=torch.float64)])
    finally:
        model.train(training)
    if world_size > 1:
        distributed.all_reduce(total)
    error, count = total.tolist()
    return error / count if count else float("nan")
