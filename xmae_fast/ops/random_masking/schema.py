"""torch.library schemas of the mask kernels and their fake (shape-only) implementations."""

import torch

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("masks_philox(Tensor seed, SymInt B, SymInt N, SymInt k, int mode) -> (Tensor, Tensor, Tensor)")
_library.define(
    "masks_from_draws(Tensor scores, Tensor start, Tensor coin, SymInt k, int mode) -> (Tensor, Tensor, Tensor)"
)


def _empty_masks(like: torch.Tensor, B: int, N: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        like.new_empty((B, N), dtype=torch.bool),
        like.new_empty((B, N - k), dtype=torch.int64),
        like.new_empty((B, N), dtype=torch.int64),
    )


@torch.library.register_fake("xmae_fast::masks_philox")
def _(seed, B, N, k, mode):
    return _empty_masks(seed, B, N, k)


@torch.library.register_fake("xmae_fast::masks_from_draws")
def _(scores, start, coin, k, mode):
    return _empty_masks(scores, scores.shape[0], scores.shape[1], k)
