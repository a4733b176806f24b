"""Checks of whole models against float64, with the budget that the operators have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmae_fast.testing import Error, largest_errors, relative_error


class Yardstick:
    """float64 results and the errors allowed: twice the plain path's in the run's dtype plus some units of rounding.

    `plain`: its results, or those of several runs that round differently (`several_roundings`), of which the largest
    error counts. The error of a single number can be small by luck all the same: scalars are allowed the largest of
    the plain path's errors. `units`: of rounding; 0 for bfloat16 on a CPU, where four would be six times the plain
    path's error.
    """

    def __init__(
        self,
        want: dict[str, Tensor],
        plain: dict[str, Tensor] | list[dict[str, Tensor]],
        dtype: torch.dtype,
        units: int = 4,
    ) -> None:
        self.want = want
        rounding = units * torch.finfo(dtype).eps
        errors = largest_errors(want, [plain] if isinstance(plain, dict) else plain)
        worst = max(errors.values())
        self.bounds = {name: 2 * (errors[name] if x.dim() else worst) + rounding for name, x in want.items()}

    def check(self, got: dict[str, Tensor], summed: int = 0) -> list[Error]:
        """Errors of `got`; AssertionError listing those out of bounds.

        `summed`: a baseline may also lose what a float32 running sum over that many numbers loses, sqrt(summed) / 2
        roundings: PyTorch's channels-last BatchNorm adds a batch up like that, and is not barred for it.
        """
        floor = summed**0.5 / 2 * torch.finfo(torch.float32).eps
        return raise_if_out_of_bounds(
            [Error(name, relative_error(got[name], x), max(self.bounds[name], floor)) for name, x in self.want.items()]
        )


def raise_if_out_of_bounds(errors: list[Error]) -> list[Error]:
    bad = [f"{e.name} is off by {e.error:.1e}, allowed {e.bound:.1e}" for e in errors if not e.error <= e.bound]
    if bad:
        raise AssertionError("; ".join(bad))
    return errors


def check_same_maths(
    plain64: dict[str, Tensor], want: dict[str, Tensor], plain: dict[str, Tensor] | list[dict[str, Tensor]]
) -> list[Error]:
    """That the plain model agrees with ours, both in float64, as closely as its float32 error, scaled, lets expect."""
    shrink = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    bounds = Yardstick(want, plain, torch.float32).bounds
    errors = {name: relative_error(plain64[name], x) for name, x in want.items()}
    return raise_if_out_of_bounds([Error(f"{n} (float64)", error, shrink * bounds[n]) for n, error in errors.items()])


def check_cosine(got: Tensor, want: Tensor, allowed: float) -> list[Error]:
    """1 - cosine of the worst row of [B, D] against float64; NaN is out of bounds."""
    distance = 1 - torch.nn.functional.cosine_similarity(got.double(), want, dim=1).min()
    return raise_if_out_of_bounds([Error("1 - cosine", float(distance), allowed)])


def check_equal(got: tuple[Tensor, ...], want: tuple[Tensor, ...], names: tuple[str, ...]) -> list[Error]:
    """Bit for bit."""
    errors = []
    for name, a, b in zip(names, got, want, strict=True):
        same = a.dtype == b.dtype and torch.equal(a, b)
        errors.append(Error(name, 0.0 if same else float("inf"), 0.0))
    return raise_if_out_of_bounds(errors)


@torch.no_grad()
def season(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give statistics, scales and offsets values like a trained model's, so that one that is dropped shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in model.state_dict().items():
        if name.endswith("running_var"):
            x.copy_(0.5 + torch.rand(x.shape, generator=generator))
        elif x.is_floating_point() and (x.dim() == 1 or name.endswith(("pos", "mask_token"))):
            centre = 1.0 if name.endswith("weight") else 0.0
            x.copy_(centre + 0.1 * torch.randn(x.shape, generator=generator))
    return model
