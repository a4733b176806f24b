"""The C++ kernels of random_masking as operators: their schemas and the shapes of their results."""

import torch

PHILOX = "masks_philox(Tensor seed, SymInt B, SymInt N, SymInt k, int mode) -> (Tensor, Tensor, Tensor)"
DRAWS = "masks_from_draws(Tensor scores, Tensor start, Tensor coin, SymInt k, int mode) -> (Tensor, Tensor, Tensor)"


def empty_masks(like: torch.Tensor, B: int, N: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Uninitialised patch_mask [B, N], ids_keep [B, N - k] and ids_restore [B, N] on the device of `like`."""
    return (
        like.new_empty((B, N), dtype=torch.bool),
        like.new_empty((B, N - k), dtype=torch.int64),
        like.new_empty((B, N), dtype=torch.int64),
    )


def fake_from_seed(seed, B, N, k, mode):
    return empty_masks(seed, B, N, k)


def fake_from_draws(scores, start, coin, k, mode):
    return empty_masks(scores, scores.shape[0], scores.shape[1], k)


_library = torch.library.Library("xmae_fast", "FRAGMENT")
for _schema, _fake in ((PHILOX, fake_from_seed), (DRAWS, fake_from_draws)):
    _library.define(_schema)
    torch.library.register_fake(f"xmae_fast::{_schema.partition('(')[0]}", _fake)

masks_philox = torch.ops.xmae_fast.masks_philox.default
masks_from_draws = torch.ops.xmae_fast.masks_from_draws.default
