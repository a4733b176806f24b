"""The arguments of `xMAE.forward`: their checks, and what is left to compute from after them."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor

from xmae_fast.config import ModelCfg
from xmae_fast.model.path import whole_numbers
from xmae_fast.ops._checks import check_like
from xmae_fast.ops.token_gather import validate_ids


class Inputs(NamedTuple):
    """The checked arguments of a call.

    Attributes:
        ppg, ecg: [B, 1, L], or None where the signal is missing or nothing that is asked for needs it.
        keep_ppg, keep_ecg: [B, Nk] int64, the visible patches; None: all patches are visible.
        restore_ecg: [B, N] int64, None together with keep_ecg.
        embedding, recon, loss: which results are asked for.
    """

    ppg: Tensor | None
    ecg: Tensor | None
    keep_ppg: Tensor | None
    keep_ecg: Tensor | None
    restore_ecg: Tensor | None
    embedding: bool
    recon: bool
    loss: bool


def checked_signal(name: str, signal: Tensor | None, cfg: ModelCfg, like: Tensor) -> Tensor | None:
    """The signal `name`, [B, L] or [B, 1, L], as [B, 1, L]; None where it is missing or cfg.source leaves it out.

    Args:
        like: a tensor of the model, whose dtype and device the signal must have.

    Raises:
        ValueError: the shape is wrong.
        TypeError: it is no tensor, or its dtype or device is wrong.
    """
    if signal is None or name not in cfg.source:
        return None
    if not isinstance(signal, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(signal).__name__}")
    L = cfg.seq_len
    if signal.dim() == 2 and signal.shape[1] == L:
        signal = signal[:, None]
    if signal.dim() != 3 or signal.shape[1:] != (1, L):
        raise ValueError(f"{name}: expected shape [B, {L}] or [B, 1, {L}], got {list(signal.shape)}")
    check_like(name, signal, "the model", like)
    return signal


def check_signals(ppg: Tensor | None, ecg: Tensor | None, source: str, loss: bool) -> None:
    """Raise ValueError unless the signals, [B, 1, L] or None, are of one batch and enough for what is asked for."""
    if ppg is None and ecg is None:
        raise ValueError(f"ppg, ecg: expected at least one signal that source={source!r} uses, got none")
    if ppg is not None and ecg is not None and ppg.shape[0] != ecg.shape[0]:
        raise ValueError(f"ecg: expected the batch size of ppg, {ppg.shape[0]}, got {ecg.shape[0]}")
    if loss and ecg is None:
        raise ValueError(f"return_loss: expected an ecg that source={source!r} uses, got none")


def checked_ids(
    suffix: str, signal: Tensor | None, keep: Tensor | None, restore: Tensor | None, num_patches: int
) -> tuple[Tensor | None, Tensor | None]:
    """ids_keep [B, Nk] and ids_restore [B, N] of one signal as int64; None twice where all patches are visible.

    As published, ids_keep without ids_restore hides nothing; a warning says so.

    Args:
        suffix: "_ppg" or "_ecg", for messages.
        signal: [B, 1, L], or None where its ids are not looked at.
        num_patches: N.

    Raises:
        ValueError, TypeError: the ids do not fit the signal; see `validate_ids`.
    """
    if signal is None or (keep is None and restore is None):
        return None, None
    if keep is None:
        raise ValueError(f"ids_keep{suffix}: expected with ids_restore{suffix}, got None")
    keep, restore = whole_numbers(keep), whole_numbers(restore)
    validate_ids(suffix, keep, restore, signal.shape[0], num_patches, signal.device)
    if restore is None:
        warnings.warn(
            f"ids_keep{suffix} without ids_restore{suffix} hides nothing, as published: all patches are visible",
            stacklevel=6,  # the line that calls the model: checked_ids, _check, forward, and two methods of nn.Module
        )
        return None, None
    return keep, restore
