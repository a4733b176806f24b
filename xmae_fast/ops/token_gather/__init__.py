"""token_gather: everything that moves patches or tokens by patch index."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, dims, kernel_dtype
from xmae_fast.ops.token_gather import operators, reference

_OPERATORS = (
    "gather_patches",
    "gather_patches_backward",
    "assemble_queries",
    "assemble_queries_backward",
    "restore_tokens",
    "restore_tokens_backward",
    "masked_samples",
)
backend.declare("token_gather")
backend.register("token_gather", "cpu", _OPERATORS)
backend.register("token_gather", "triton", tuple(f"{name}_triton" for name in _OPERATORS))


def gather_patches(signal: Tensor, ids_keep: Tensor, patch_len: int, *, impl: str = "auto") -> Tensor:
    """The visible waveform: kept patches of each sample side by side, in the order of ids_keep.

    Args:
        signal: [B, 1, L], floating; any strides.
        ids_keep: [B, Nk] int64 in 0..N-1, N = L / patch_len (see `validate_ids`).
        patch_len: P, a divisor of L.

    Returns:
        [B, 1, Nk * P]. Bit for bit what was in `signal`; differentiable.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    B, _, L = dims("signal", signal, "B 1 L")
    dims("ids_keep", ids_keep, "B Nk", B=B)
    if patch_len < 1 or L % patch_len:
        raise ValueError(f"patch_len: expected a divisor of L = {L}, got {patch_len}")
    chosen = backend.resolve("token_gather", impl, signal.device, signal.dtype)
    if chosen != "reference":
        try:
            return operators.gather_patches(signal, ids_keep, patch_len, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("token_gather", chosen, impl, failure)
    return reference.gather_patches(signal, ids_keep, patch_len)


def assemble_queries(tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor, *, impl: str = "auto") -> Tensor:
    """Queries of the bridge: a learned vector for every masked patch, the encoder's token for every visible one.

    Args:
        tokens: [B, Nk, D] encoder output, which still holds pos[:, :Nk] (the published system's positions).
        ids_keep: [B, Nk] int64, distinct within a row.
        pos: [1, N, D].
        mask_loc: [N, D].

    Returns:
        [B, N, D]: (mask_loc, with rows ids_keep overwritten by tokens - pos[:, :Nk]) + pos.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    B, kept, D = dims("tokens", tokens, "B Nk D")
    dims("ids_keep", ids_keep, "B Nk", B=B, Nk=kept)
    _, N, _ = dims("pos", pos, "1 N D", D=D)
    dims("mask_loc", mask_loc, "N D", N=N, D=D)
    chosen = backend.resolve("token_gather", impl, tokens.device, kernel_dtype(tokens, pos, mask_loc))
    if chosen != "reference":
        try:
            return operators.assemble_queries(tokens, ids_keep, pos, mask_loc, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("token_gather", chosen, impl, failure)
    return reference.assemble_queries(tokens, ids_keep, pos, mask_loc)


def restore_tokens(
    tokens: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor, *, impl: str = "auto"
) -> Tensor:
    """Put tokens back where their patches were, `mask_token` where nothing was kept, and add pos.

    Args:
        tokens: [B, Nk, D]. ids_restore: [B, N] int64, N >= Nk. mask_token: [1, 1, D]. pos: [1, N, D].

    Returns:
        [B, N, D].

    Raises:
        ValueError, TypeError: naming the argument.
    """
    B, kept, D = dims("tokens", tokens, "B Nk D")
    _, N = dims("ids_restore", ids_restore, "B N", B=B)
    if kept > N:
        raise ValueError(f"ids_restore: expected at least Nk = {kept} columns, got {N}")
    dims("mask_token", mask_token, "1 1 D", D=D)
    dims("pos", pos, "1 N D", N=N, D=D)
    check_like("mask_token", mask_token, "pos", pos)
    chosen = backend.resolve("token_gather", impl, tokens.device, kernel_dtype(tokens, mask_token, pos))
    if chosen != "reference":
        try:
            return operators.restore_tokens(tokens, ids_restore, mask_token, pos, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("token_gather", chosen, impl, failure)
    return reference.restore_tokens(tokens, ids_restore, mask_token, pos)


def masked_samples(
    ids_restore: Tensor, kept: int, patch_len: int, dtype: torch.dtype = torch.float32, *, impl: str = "auto"
) -> Tensor:
    """1 on the samples of masked patches (ids_restore >= kept), 0 elsewhere.

    Args:
        ids_restore: [B, N] int64. kept: Nk. patch_len: P.

    Returns:
        [B, 1, N * P] of `dtype`.
    """
    dims("ids_restore", ids_restore, "B N")
    chosen = backend.resolve("token_gather", impl, ids_restore.device, dtype)
    if chosen != "reference":
        try:
            return operators.masked_samples(ids_restore, kept, patch_len, dtype, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("token_gather", chosen, impl, failure)
    return reference.masked_samples(ids_restore, kept, patch_len, dtype)


def validate_ids(
    suffix: str, ids_keep: Tensor, ids_restore: Tensor | None, B: int, N: int, device: torch.device
) -> None:
    """Raise unless ids_keep [B, Nk] holds distinct patch indices and ids_restore [B, N] inverts a permutation of them.

    Shapes, dtypes and devices are checked always. Values are checked for eager CPU tensors only: on a GPU that would
    synchronise, and under torch.compile it would break the graph.

    Args:
        suffix: of the argument names in errors, e.g. "_ecg".
        ids_restore: may be None; then it is not checked.

    Raises:
        TypeError: not int64, or on another device. ValueError: wrong shape, out of range, repeated, inconsistent.
    """
    keep_name, restore_name = f"ids_keep{suffix}", f"ids_restore{suffix}"
    _, kept = dims(keep_name, ids_keep, "B Nk", B=B)
    if ids_restore is not None:
        dims(restore_name, ids_restore, "B N", B=B, N=N)
    for name, ids in ((keep_name, ids_keep), (restore_name, ids_restore)):
        if ids is not None and ids.dtype != torch.int64:
            raise TypeError(f"{name}: expected integers, got {ids.dtype}")
        if ids is not None and ids.device != device:
            raise TypeError(f"{name}: expected a tensor on {device}, where the signal is, got one on {ids.device}")
    if kept > N:
        raise ValueError(f"{keep_name}: expected at most N = {N} patches a row, got {kept}")
    if B == 0 or not backend.may_read_values(device):
        return
    _check_distinct(keep_name, ids_keep, N)
    if ids_restore is None:
        return
    _check_distinct(restore_name, ids_restore, N)
    where = ids_restore.gather(1, ids_keep)
    wrong = (where != torch.arange(kept)).any(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{restore_name}: expected the inverse of [kept..., masked...], so that "
            f"{restore_name}[b, {keep_name}[b, j]] == j; row {row} has {where[row].tolist()}"
        )


def _check_distinct(name: str, ids: Tensor, N: int) -> None:
    if ids.numel() == 0:
        return
    low, high = (int(bound) for bound in ids.aminmax())
    if low < 0 or high >= N:
        raise ValueError(f"{name}: expected patch indices in 0..{N - 1}, got {low if low < 0 else high}")
    ordered = ids.sort(1).values
    repeated = ordered[:, 1:] == ordered[:, :-1]
    if repeated.any():
        row, column = repeated.nonzero()[0].tolist()
        raise ValueError(
            f"{name}: expected distinct indices in a row, got {int(ordered[row, column])} twice in row {row}"
        )
