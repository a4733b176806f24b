"""Checkpoints of xMAE as people save them: read strictly, written whole or not at all, and no code in them is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmae_fast.config import ModelCfg
from xmae_fast.model.storage import checkpoints
from xmae_fast.model.storage.errors import CheckpointError
from xmae_fast.model.storage.files import CFG_KEY
from xmae_fast.model.storage.weights import PREFIX
from xmae_fast.model.xmae import xMAE

__all__ = ["CFG_KEY", "PREFIX", "CheckpointError", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(model: xMAE, path: str | os.PathLike[str]) -> None:
    """Write weights, statistics and configuration to one file; `load_checkpoint(path)` gives the model back.

    The file appears under its name when it is complete, or not at all. A checkpoint that is there is replaced.

    Args:
        model: what to save.
        path: ".safetensors" at its end gives a safetensors file with the keys of the state dict; any other ending
            gives the published Lightning form, torch.save of {"state_dict": {"model.<key>": ...}}.

    Raises:
        TypeError: `model` is not an xMAE.
        FileExistsError: a file that is no checkpoint has this name.
    """
    if not isinstance(model, xMAE):
        inner = next((name for name in ("module", "_orig_mod") if isinstance(getattr(model, name, None), xMAE)), None)
        hint = f"; save its .{inner}" if inner else ""
        raise TypeError(f"model: expected an xMAE, got {type(model).__name__}{hint}")
    checkpoints.save_checkpoint(model, Path(path))


def load_checkpoint(
    path: str | os.PathLike[str],
    cfg: ModelCfg | Mapping[str, Any] | None = None,
    impl: str = "auto",
    *,
    weights: str | None = None,
    strict: bool = True,
    resize_positions: bool = False,
    nhead: int | None = None,
    dropout: float | None = None,
    sampling_freq: float | None = None,
) -> xMAE:
    """A model from a file of weights, in evaluation mode, on the CPU, in the widest dtype that the file holds.

    The file may hold a state dict under any keys ("state_dict", "model", "model_state_dict", "module", ...), and its
    keys may have any prefixes ("model.", "module.", "_orig_mod.", also nested). It is read with `weights_only=True`:
    no code in it is run, and objects of foreign classes beside the weights are not made. A warning names what is left
    out or chosen: tensors that belong to no model, and other sets of weights.

    Args:
        path: a file of torch.save or of safetensors, or the index of several safetensors files.
        cfg: a ModelCfg or its dictionary form. It may be None where the file holds its configuration, as Lightning
            files do under `hyper_parameters`.
        impl: as for xMAE.
        weights: the name of one set of weights in a file of several; the errors and warnings give the names.
        strict: False leaves out unexpected keys and keeps the initial values of missing ones, with a warning.
        resize_positions: stretch the positions of another segment length to cfg's, by linear interpolation.
        nhead, dropout, sampling_freq: for files without a configuration. The weights tell the rest, except a lag
            window. sampling_freq is 100 Hz unless given.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: the file is truncated or foreign, has no configuration or one that its weights contradict, or
            its keys or shapes do not match (they are listed). Where another call would do, the message gives it.
        ValueError, TypeError: `cfg` or another argument is wrong.
    """
    return checkpoints.load_checkpoint(
        xMAE, Path(path), cfg, impl, weights=weights, strict=strict, resize_positions=resize_positions, nhead=nhead,
        dropout=dropout, sampling_freq=sampling_freq,
    )  # fmt: skip
