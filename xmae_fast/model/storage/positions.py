"""Positions of a model for one segment length, stretched to another length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate

from xmae_fast.model.storage.errors import CheckpointError


def resized_positions(path: Path, state: Mapping[str, Any], patches: int) -> dict[str, Any]:
    """`state` with positions (`pos` [1, N, D]) and location tables (`mask_loc_table.weight` [N, D]) at `patches` = N.

    Both are stretched over the new segment: linear interpolation along N between the centres of the patches, constant
    outside of the first and the last centre. Gaussian lags and lag windows are in seconds and stay as they are.

    Raises:
        CheckpointError: a lag table, whose biases belong to the lags of the length it was trained at.
    """
    changed = dict(state)
    for key, value in state.items():
        if not isinstance(value, Tensor):
            continue
        if key.endswith("_path.pos") and value.dim() == 3:
            changed[key] = _stretched(value, patches)
        elif key.endswith("_path.mask_loc_table.weight") and value.dim() == 2:
            changed[key] = _stretched(value[None], patches)[0]
        elif key.endswith(".lag.table") and value.shape[-1] != 2 * patches - 1:
            got = f"{key} of shape {list(value.shape)}"
            raise CheckpointError(
                f"resize_positions: {path} has a lag table, one bias for each lag of {(value.shape[-1] + 1) // 2} "
                f"patches ({got}), which has no meaning for {patches}; expected lag None, 'window' or 'gaussian'"
            )
    return changed


def _stretched(rows: Tensor, patches: int) -> Tensor:
    """[1, N, D] -> [1, patches, D]."""
    if rows.shape[1] == patches:
        return rows
    exact = interpolate(rows.double().transpose(1, 2), size=patches, mode="linear", align_corners=False)
    return exact.transpose(1, 2).to(rows.dtype).contiguous()
