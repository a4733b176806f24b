"""The check of an exported file: how far its outputs are from the model's, and whether that is within a bound."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor

from xmae_fast.config import ModelCfg
from xmae_fast.export.graphs import Graph
from xmae_fast.export.runtimes import Arrays, Run
from xmae_fast.export.signals import Signals, feed, visible_counts
from xmae_fast.model.path import SinglePath
from xmae_fast.model.xmae import xMAE

TINY = np.finfo(np.float64).tiny
Outputs = dict[str, np.ndarray]
BATCHES = (1, 3)  # batch sizes that are checked; all further segments make one more batch
MAX_COSINE_DISTANCE = {"float16": 1e-4, "int8": 5e-3}  # the largest that is allowed for a segment


class CheckError(ValueError):
    """An exported file does not compute what the model computes."""


@dataclass(frozen=True)
class Difference:
    """How one output differs from that of the model in float64, over all segments.

    Attributes:
        output: its name.
        max_abs: the largest difference of two numbers.
        relative_norm: ||got - want|| / ||want||.
        of_spread: ||got - want|| / ||want - mean over segments||, the error as a share of how segments differ.
        cosine, worst_cosine: mean and minimum over segments of the cosine between got and want.
        measure: which of the two is bounded, "relative_norm" or "worst_cosine".
        bound: the largest relative norm, or the smallest cosine, that is allowed.
    """

    output: str
    max_abs: float
    relative_norm: float
    of_spread: float
    cosine: float
    worst_cosine: float
    measure: str
    bound: float

    @property
    def ok(self) -> bool:
        """Whether it is within the bound."""
        if self.measure == "relative_norm":
            return self.relative_norm <= self.bound
        return self.worst_cosine >= self.bound


def check(run: Run, model: xMAE, graph: Graph, signals: Signals, weights: str) -> list[Difference]:
    """Compare the outputs of a runtime with those of the model, for several batch sizes and numbers of visible patches.

    With float32 weights the bound is a relative norm of twice the error of plain PyTorch in float32 plus four units of
    rounding, as everywhere in xmae_fast. With other weights it is `MAX_COSINE_DISTANCE` for the worst segment.

    Args:
        run: the runtime with the exported file.
        model: the model.
        graph: the graph that was exported.
        signals: the segments.
        weights: how weights are stored, "float32", "float16" or "int8".

    Returns:
        The difference of each output.

    Raises:
        CheckError: an output has another shape or is not finite.
    """
    cases = list(_cases(graph, model.cfg, signals))
    got = _collect(graph, [_of_run(run, graph, inputs) for inputs in cases])
    want, plain = (
        _collect(graph, [_of_model(model, graph, inputs, dtype) for inputs in cases])
        for dtype in (torch.float64, torch.float32)
    )
    return [_difference(name, got[name], want[name], plain[name], weights) for name in graph.outputs]


def raise_if_out_of_bounds(differences: Sequence[Difference]) -> None:
    """Raise a CheckError that lists the differences which exceed their bounds, if there are any."""
    if bad := [d for d in differences if not d.ok]:
        listed = "; ".join(f"{d.output}: {d.measure} {getattr(d, d.measure):.3g}, allowed {d.bound:.3g}" for d in bad)
        raise CheckError(f"the exported graph differs from the model, so nothing is written: {listed}")


def _cases(graph: Graph, cfg: ModelCfg, signals: Signals) -> Iterator[Arrays]:
    """All segments in batches of several sizes, each for several numbers of visible patches."""
    stops = np.minimum(np.cumsum([0, *BATCHES, len(signals.ppg)]), len(signals.ppg))
    for start, stop in pairwise(stops):
        for kept in visible_counts(graph, cfg) if stop > start else ():
            yield feed(graph, cfg, signals[start:stop], kept, seed=int(start))


def _collect(graph: Graph, results: list[Outputs]) -> Outputs:
    return {name: np.concatenate([result[name] for result in results]) for name in graph.outputs}


def _of_run(run: Run, graph: Graph, inputs: Arrays) -> Outputs:
    return {name: np.array(x) for name, x in zip(graph.outputs, run(inputs), strict=True)}


@torch.no_grad()
def _of_model(model: xMAE, graph: Graph, inputs: Arrays, dtype: torch.dtype) -> Outputs:
    """What the model computes in plain PyTorch, without any part of the exported graph."""
    model = copy.deepcopy(model).cpu().to(dtype).eval()
    model.impl = "reference"
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    tensors = {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}
    if "ids_keep" not in tensors:
        path = cast(SinglePath, model.ppg_path)  # make_graph has checked that there is one
        tokens = path.encode(tensors["ppg"][:, None], inference=True)
        found = {"projected": path.embedding(tokens), "pooled": tokens.mean(1), "tokens": tokens}
    else:
        found = {"ecg_reconstructed": _reconstruct(model, tensors)}
    return {name: found[name].numpy() for name in graph.outputs}


def _reconstruct(model: xMAE, tensors: dict[str, Tensor]) -> Tensor:
    """What the forward of the model reconstructs from a whole ECG whose hidden patches are zero."""
    visible, keep = tensors["ecg_visible"], tensors["ids_keep"]
    B, kept, P = visible.shape
    N = model.cfg.num_patches
    ecg = visible.new_zeros(B, N, P).scatter(1, keep[:, :, None].expand(-1, -1, P), visible)
    hidden = torch.ones(B, N).scatter(1, keep, 0.0).nonzero()[:, 1].view(B, N - kept)
    ids = {"ids_keep_ecg": keep, "ids_restore_ecg": torch.cat([keep, hidden], 1).argsort(1)}
    if kept == N:
        ids = {}  # all visible
    out = model(tensors.get("ppg"), ecg.flatten(1), **ids, return_embeddings=False, return_recon=True)
    return out["ecg_reconstructed"][:, 0]


def _difference(name: str, got: np.ndarray, want: np.ndarray, plain: np.ndarray, weights: str) -> Difference:
    if got.shape != want.shape or not np.isfinite(got).all():
        what = f"shape {list(got.shape)}" if got.shape != want.shape else "numbers that are not finite"
        raise CheckError(f"{name}: expected finite numbers of shape {list(want.shape)}, got {what}: nothing is written")
    got, want, plain = (x.reshape(len(x), -1).astype(np.float64) for x in (got, want, plain))
    error, norm = np.linalg.norm(got - want), np.linalg.norm(want)
    spread = max(np.linalg.norm(want - want.mean(0)), TINY)
    norms = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    cosine = (got * want).sum(1) / np.maximum(norms, TINY)
    if weights == "float32":
        own = np.linalg.norm(plain - want) / norm
        measure, bound = "relative_norm", 2 * own + 4 * np.finfo(np.float32).eps
    else:
        measure, bound = "worst_cosine", 1 - MAX_COSINE_DISTANCE[weights]
    return Difference(
        name, float(np.abs(got - want).max()), float(error / norm), float(error / spread),
        float(cosine.mean()), float(cosine.min()), measure, float(bound),
    )  # fmt: skip
