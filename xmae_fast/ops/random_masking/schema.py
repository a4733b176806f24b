"""torch.library schemas of the mask kernels and their fake (shape-only) implementations."""

import torch

from xmae_fast.ops._triton import define_triton

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_PHILOX = "masks_philox(Tensor seed, SymInt B, SymInt N, SymInt k, int mode) -> (Tensor, Tensor, Tensor)"
_DRAWS = "masks_from_draws(Tensor scores, Tensor start, Tensor coin, SymInt k, int mode) -> (Tensor, Tensor, Tensor)"


def empty_masks(like: torch.Tensor, B: int, N: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Room for patch_mask, ids_keep, ids_restore on the device of `like`."""
    return (
        like.new_empty((B, N), dtype=torch.bool),
        like.new_empty((B, N - k), dtype=torch.int64),
        like.new_empty((B, N), dtype=torch.int64),
    )


def _from_seed(seed, B, N, k, mode):
    return empty_masks(seed, B, N, k)


def _from_draws(scores, start, coin, k, mode):
    return empty_masks(scores, scores.shape[0], scores.shape[1], k)


for _schema, _fake in ((_PHILOX, _from_seed), (_DRAWS, _from_draws)):
    _library.define(_schema)
    torch.library.register_fake(f"xmae_fast::{_schema.partition('(')[0]}", _fake)

# By implementation: what draws masks from (seed, offset), and what makes them of given random numbers.
MASKS_PHILOX = {
    "cpu": torch.ops.xmae_fast.masks_philox.default,
    "triton": define_triton("random_masking", _PHILOX, _from_seed),
}
MASKS_FROM_DRAWS = {
    "cpu": torch.ops.xmae_fast.masks_from_draws.default,
    "triton": define_triton("random_masking", _DRAWS, _from_draws),
}
