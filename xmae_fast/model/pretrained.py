"""Pretrained models, from a folder, a checkpoint file or the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from xmae_fast.config import ModelCfg
from xmae_fast.model.storage.folders import load_pretrained, recipe_of
from xmae_fast.model.xmae import xMAE

__all__ = ["from_pretrained", "recipe_of"]


def from_pretrained(
    path_or_hub_id: str | os.PathLike[str],
    *,
    cfg: ModelCfg | Mapping[str, Any] | None = None,
    impl: str = "auto",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    **loading: Any,
) -> xMAE:
    """A pretrained model, in evaluation mode, on the CPU, with its preprocessing recipe as `model.preprocessing`.

    A model without a stored recipe gets the published one, at its own rate and segment length.

    Args:
        path_or_hub_id: a folder of `save_pretrained`; the folder of a run of `xmae-fast pretrain` (its best.ckpt); a
            checkpoint file that `load_checkpoint` reads; or else the name of a model that comes with the package (see
            `pretrained_models`), or "owner/name" on the Hugging Face Hub. What is on disk comes first, and needs
            neither network nor huggingface_hub.
        cfg: for checkpoints that do not hold their configuration.
        impl: as for xMAE.
        revision, token, cache_dir, local_files_only: for the Hub; see `huggingface_hub.snapshot_download`.
        loading: further arguments of `load_checkpoint`, such as `weights` or `resize_positions` (the recipe then takes
            the new segment length).

    Raises:
        FileNotFoundError: nothing has that name on disk or on the Hub.
        CheckpointError, DamagedModelError, ValueError: what is there is damaged or does not fit.
        ImportError: a Hub id without huggingface_hub.
    """
    return load_pretrained(
        xMAE, path_or_hub_id, cfg=cfg, impl=impl, revision=revision, token=token, cache_dir=cache_dir,
        local_files_only=local_files_only, **loading,
    )  # fmt: skip
