"""The masks of a training step, from its seed and for the rows of one process."""

from __future__ import annotations

from torch import Tensor

from xmae_fast.model.xmae import xMAE
from xmae_fast.ops import masks_from_seed


def mask_ids(
    model: xMAE, name: str, seed: Tensor, B: int, hidden: int, mode: str, rank: int = 0, world_size: int = 1
) -> dict[str, Tensor]:
    """The arguments that mask one signal in a call of the model.

    They are what `masks_from_seed` draws for the rows rank, rank + world_size, ... of the whole batch.

    Args:
        model: the model.
        name: of the signal, "ecg" or "ppg".
        seed: [2] int64, see `masks_from_seed`.
        B: rows of this process.
        hidden: how many patches of each row are hidden.
        mode: of the mask, see `random_masking`.
        rank, world_size: the number of this process and how many share the batch.

    Returns:
        "ids_keep_<name>" [B, Nk] and "ids_restore_<name>" [B, N].
    """
    mask = masks_from_seed(seed, B * world_size, model.cfg.num_patches, hidden, mode, impl=model.impl)
    keep, restore = mask.ids_keep, mask.ids_restore
    if world_size > 1:
        keep, restore = keep[rank::world_size].contiguous(), restore[rank::world_size].contiguous()
    return {f"ids_keep_{name}": keep, f"ids_restore_{name}": restore}
