"""What the model's forward refuses, and how it says so."""

from __future__ import annotations

import pytest
import torch

from tests.model.test_model import B, L, N, tiny


def ids_for(**changes):
    keep, restore = torch.tensor([[0, 1, 2]] * B), torch.arange(N).expand(B, N)
    return {"ids_keep_ecg": keep, "ids_restore_ecg": restore} | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ppg": torch.zeros(B, 199)}, ValueError, r"ppg: expected shape \[B, 200\] or \[B, 1, 200\], got \[3, 199\]"),
        ({"ppg": torch.zeros(B, 2, L)}, ValueError, r"ppg: expected shape .* got \[3, 2, 200\]"),
        ({"ppg": torch.zeros(L)}, ValueError, r"ppg: expected shape .* got \[200\]"),
        ({"ppg": [[0.0] * L]}, TypeError, "ppg: expected a tensor, got list"),
        ({"ppg": torch.zeros(B + 1, L)}, ValueError, "ecg: expected the batch size of ppg, 4, got 3"),
        (
            {"ecg": torch.zeros(B, L, dtype=torch.float64)},
            TypeError,
            "ecg: expected dtype torch.float32.*got torch.float64",
        ),
        (
            {"ecg": torch.zeros(B, L, dtype=torch.int64)},
            TypeError,
            "ecg: expected a floating-point tensor, got torch.int64",
        ),
        (
            {"ppg": torch.zeros(B, L, device="meta")},
            TypeError,
            "ppg: expected a tensor on cpu, where the model is, got one on meta",
        ),
        (
            {"ids_keep_ecg": torch.tensor([[0, 1, 10]] * B)},
            ValueError,
            r"ids_keep_ecg: expected patch indices in 0\.\.9, got 10",
        ),
        (
            {"ids_keep_ecg": torch.tensor([[0, 1, -1]] * B)},
            ValueError,
            r"ids_keep_ecg: expected patch indices in 0\.\.9, got -1",
        ),
        (
            {"ids_keep_ecg": torch.tensor([[0, 1, 1]] * B)},
            ValueError,
            "ids_keep_ecg: expected distinct indices in a row, got 1 twice in row 0",
        ),
        (
            {"ids_keep_ecg": torch.tensor([[0, 1, 2]])},
            ValueError,
            r"ids_keep_ecg: expected shape \[B=3, Nk\], got \[1, 3\]",
        ),
        (
            {"ids_keep_ecg": torch.tensor([[0, 1, 2]] * B).float()},
            TypeError,
            "ids_keep_ecg: expected integers, got torch.float32",
        ),
        ({"ids_restore_ecg": torch.zeros(B, N).long()}, ValueError, "ids_restore_ecg: expected distinct indices"),
        (
            {"ids_restore_ecg": torch.arange(9).expand(B, 9)},
            ValueError,
            r"ids_restore_ecg: expected shape \[B=3, N=10\]",
        ),
        (
            {"ids_restore_ecg": torch.arange(N).flip(0).expand(B, N)},
            ValueError,
            r"ids_restore_ecg: expected the inverse of",
        ),
        ({"ids_keep_ecg": None}, ValueError, "ids_keep_ecg: expected with ids_restore_ecg, got None"),
        (
            {"ids_keep_ppg": torch.arange(11).expand(B, 11)},
            ValueError,
            "ids_keep_ppg: expected at most N = 10 patches a row, got 11",
        ),
        ({"ppg": None, "ecg": None}, ValueError, "ppg, ecg: expected at least one signal"),
    ],
)
def test_forward_refuses(changes, error, message):
    arguments = {"ppg": torch.zeros(B, L), "ecg": torch.zeros(B, L)} | ids_for()
    with pytest.raises(error, match=message):
        tiny()(**(arguments | changes))


def test_the_warning_about_lone_ids_points_at_the_call():
    keep = ids_for()["ids_keep_ecg"]
    with pytest.warns(UserWarning, match="ids_keep_ecg without ids_restore_ecg hides nothing") as said:
        tiny()(torch.zeros(B, L), torch.zeros(B, L), ids_keep_ecg=keep)
    assert said[0].filename == __file__
