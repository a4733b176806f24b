"""Builds the control and the library's model with equal weights, and compares what they compute.

`IMPLEMENTATIONS` are what the tests of this folder run: "stock" is the control again, so that a test which the
published model itself would fail shows up as such; the others are choices of `impl=` of the library's model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import xmae_fast
from tests.model.stock import model as stock

IMPLEMENTATIONS = ("stock", "auto", "reference")
TINY = {
    "seq_len": 100, "patch_len": 10, "d_model": 32, "nhead": 4, "depth_ecg": 1, "depth_ppg": 2, "depth_bridge": 1,
    "stem_ch": 8, "dropout": 0.0, "proj_dim": 24,
}  # fmt: skip
B, L, N = 3, TINY["seq_len"], TINY["seq_len"] // TINY["patch_len"]

Alter = Callable[[nn.Module], object]


def nothing(model: nn.Module) -> None:
    """The alteration that leaves the model as it is."""


def create(which: str, **changes) -> nn.Module:
    """A model as its constructor makes it, from torch's generator as it stands."""
    cfg = TINY | changes
    if which == "stock":
        return stock.xMAE(stock.ModelCfg(**cfg))
    return xmae_fast.xMAE(xmae_fast.ModelCfg(**cfg), impl=which)


@functools.cache
def _weights(changes: tuple[tuple[str, object], ...]) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        state = create("stock", **dict(changes)).state_dict()
        for key, value in state.items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif key.endswith("num_batches_tracked"):
                value.fill_(2)
            elif key.endswith((".pos", "mask_token", "running_mean", "bias")):
                value.normal_(0, 0.2)
            elif value.dim() == 1:
                value.normal_(1, 0.2)
            elif ".stem." in key or key.endswith("patcher.proj.weight"):
                value *= 2  # what a stem finds is then as large in the tokens as positions and biases are
    return state


def weights(**changes) -> dict[str, Tensor]:
    """A state in which nothing is zero or one by construction, so that every weight and every statistic matters."""
    return _weights(tuple(sorted(changes.items())))


def build(
    which: str, alter: Alter = nothing, *, training: bool = False, dtype: torch.dtype = torch.float32, **changes
) -> nn.Module:
    """A model with the weights of `weights`, altered after it has run, so that nothing found out before may be kept."""
    model = create(which, **changes)
    model.load_state_dict(weights(**changes))
    if which == "auto":
        with torch.enable_grad():
            run(model.train(), training=True)
        model.load_state_dict(weights(**changes))
        model.zero_grad(set_to_none=True)
    if which != "stock":
        run(model.eval(), training=False)
    model.train(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        alter(model)
    return model.to(dtype)


def batch(dtype: torch.dtype = torch.float32, source: str = "ppg+ecg", seed: int = 3) -> dict[str, Tensor]:
    """Arguments of forward: waves with some structure, 7 of 10 patches of PPG and 4 of ECG visible."""
    generator = torch.Generator().manual_seed(seed)
    arguments = {}
    for name, visible in (("ppg", 7), ("ecg", 4)):
        if name not in source:
            continue
        time = torch.arange(L) / 100
        phase = torch.rand(B, 1, generator=generator)
        wave = torch.sin(8 * time + 6 * phase) + 0.3 * torch.randn(B, L, generator=generator)
        keep, restore = ids(visible, generator)
        arguments |= {name: wave.to(dtype), f"ids_keep_{name}": keep, f"ids_restore_{name}": restore}
    return arguments


def ids(visible: int, generator: torch.Generator, rows: int = B, patches: int = N) -> tuple[Tensor, Tensor]:
    """ids_keep [rows, visible], ids_restore [rows, patches] of a random choice of patches."""
    order = torch.rand(rows, patches, generator=generator).argsort(dim=1)
    order = torch.cat([order[:, :visible].sort(dim=1).values, order[:, visible:].sort(dim=1).values], dim=1)
    return order[:, :visible], order.argsort(dim=1)


def loss_of(results: dict[str, Tensor], ecg: Tensor) -> Tensor:
    """The published loss, and a term in which every number of the embedding counts."""
    loss = results["ecg_reconstructed"].new_zeros(()) if "ecg_reconstructed" in results else 0
    if "ecg_reconstructed" in results:
        mask = results["seq_mask_used_ecg"]
        error = (results["ecg_reconstructed"] - ecg.reshape(mask.shape)) ** 2
        loss = (mask * error).sum() / mask.sum().clamp_min(1)
    if "ppg_embedding" in results:
        embedding = results["ppg_embedding"]
        loss = loss + (embedding * torch.linspace(-1, 1, embedding.shape[1], dtype=embedding.dtype)).mean()
    return loss


class Outcome(NamedTuple):
    """The outcome of one call: results by name, gradients of parameters, and the buffers after it."""

    results: dict[str, Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def run(model: nn.Module, *, training: bool, steps: int = 1, call: Callable | None = None) -> Outcome:
    """One evaluation without gradients, or training steps (gradients of the last one are kept).

    The mode of the modules is left as it is: `training` says whether a loss is taken and gradients are computed.
    """
    dtype = next(p for p in model.parameters() if p.is_floating_point()).dtype
    inputs = batch(dtype, getattr(model, "source", "ppg+ecg"))
    call = model if call is None else call
    if not training:
        with torch.no_grad():
            results = call(**inputs)
        return Outcome(results, {}, _copies(model.named_buffers()))
    for step in range(steps):
        model.zero_grad(set_to_none=True)
        results = call(**inputs)
        loss_of(results, inputs.get("ecg")).backward()
        if step + 1 < steps:
            with torch.no_grad():
                for p in model.parameters():
                    if p.grad is not None:
                        p -= 0.05 * p.grad
    gradients = _copies((name, p.grad) for name, p in model.named_parameters())
    return Outcome(_copies(results.items()), gradients, _copies(model.named_buffers()))


def _copies(named: Iterable[tuple[str, Tensor | None]]) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in named if x is not None}


def distance(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """||got - want|| / ||want|| over all tensors together; where only one side has NaN, infinity."""
    assert list(got) == list(want), sorted(set(got) ^ set(want))
    for key, expected in want.items():
        assert got[key].shape == expected.shape, (key, got[key].shape, expected.shape)
    if not want:
        return 0.0
    a, b = (torch.cat([x.double().flatten() for x in side.values()]) for side in (got, want))
    if not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    difference, size = (a - b).nan_to_num(0, 0, 0).norm().item(), b.nan_to_num(0, 0, 0).norm().item()
    return difference / size if size else (float("inf") if difference else 0.0)


def distances(got: Outcome, want: Outcome) -> dict[str, float]:
    """Distances from the wanted results (each), gradients (together) and buffers (together)."""
    far = {key: distance({key: got.results[key]}, {key: x}) for key, x in want.results.items()}
    assert list(got.results) == list(want.results)
    return far | {
        "gradients": distance(got.gradients, want.gradients),
        "buffers": distance(got.buffers, want.buffers),
    }


# How far float32 may be from the control's float64: several times what rounding does here, and far less than what an
# alteration does that is ignored. A gradient passes batch normalisations, where parts that cancel lose digits.
_ALLOWED = {"gradients": 5e-4}


def allowed(kind: str) -> float:
    """The bound in float32 for a result (by its name), for "gradients" or for "buffers"."""
    return _ALLOWED.get(kind, 2e-5)


def check_equal(got: Outcome, truth: Outcome) -> None:
    """`got` is the control's `truth` (float64): to rounding where it is float64 too, within `allowed` otherwise."""
    exact = all(x.dtype == torch.float64 for key, x in got.results.items() if key != "seq_mask_used_ecg")
    for key, far in distances(got, truth).items():
        bound = 1e-10 if exact else allowed(key)
        assert far <= bound, f"{key}: {far:.2e} from the control, {bound:.0e} allowed"


def twins(which: str, **options) -> tuple[nn.Module, nn.Module]:
    """The model, and the control in float64."""
    return build(which, **options), build("stock", dtype=torch.float64, **options)


def hint(error: BaseException, *words: str) -> None:
    """An error is allowed where a tool cannot see into a kernel, if it says what to do."""
    text = f"{error} {error.__cause__ or ''}"
    assert all(word in text for word in words), text


def names(which: str):
    """The module with the public names of the control or of the library."""
    return stock if which == "stock" else xmae_fast.model
