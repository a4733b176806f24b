"""What a GPU run is measured by: the targets, and for each kernel the time that its bytes alone take."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

# Predicted for an H200 by predict.py and predict_train.py in tests/ops/cuda: PPG and visible ECG, B = 512, bfloat16,
# in microseconds. The CUDA C++ kernels have no prediction each.
CUDA_STEMS = {"both stems in training, impl=cuda": 503 + 1246, "stem of an embedding": 310}
DEAD_US = 1.5  # of a launch within a graph, however little it does
STEP, EMBEDDING = "train: B=512", "embed: B=512"
MASKS = "masks anchor: B=512 N=25 ratio=0.8"


class Target(NamedTuple):
    """What is wanted of a number, and what was found, None where it was not measured."""

    name: str
    wanted: str
    found: float | None
    met: bool

    def __str__(self) -> str:
        if self.found is None:
            return f"not measured: {self.name} {self.wanted}"
        return f"{'met' if self.met else 'MISSED'}: {self.name} {self.found:.3g}, wanted {self.wanted}"


def predicted_us(launches: Iterable[Any], copy_rate: float) -> dict[str, float]:
    """Microseconds of all launches of each Triton kernel, if every tensor of its arguments is moved once.

    Args:
        launches: as `testing.launches` lists them; PyTorch's own, which have no arguments there, are left out.
        copy_rate: bytes/s read and written.
    """
    found: dict[str, float] = defaultdict(float)
    for launch in launches:
        if hasattr(launch, "kernel"):
            tensors = [x for x in launch.args.values() if isinstance(x, torch.Tensor)]
            moved = sum(x.numel() * x.element_size() for x in tensors)
            found[launch.kernel.__name__] += max(1e6 * moved / copy_rate, DEAD_US)
    return dict(found)


def add_predictions(rows: list[dict[str, Any]], predicted: dict[str, float]) -> None:
    """Write `predicted_us` into the rows of a profile whose kernel has a prediction."""
    for row in rows:
        if row["kernel"] in predicted:
            row["predicted_us"] = predicted[row["kernel"]]


def milliseconds(results: dict[str, Any], title: str, name: str) -> float | None:
    """Median of a row of what run.py has written, None where it was not timed."""
    for groups in results.get("suites", {}).values():
        for group in groups:
            for row in group["rows"] if group["title"] == title else []:
                if row["name"] == name and row["seconds"]:
                    return 1e3 * statistics.median(row["seconds"])
    return None


def targets(results: dict[str, Any], look: dict[str, Any]) -> list[Target]:
    """Every target of a GPU, from results of run.py and the numbers of a look (which gives what run.py has not)."""
    jobs = {job["name"]: job.get("numbers", {}) for job in look.get("jobs", ())}
    gpu = results.get("machine", {}).get("gpu") or jobs.get("machine", {}).get("gpu", "")
    most = 3.6 if "H100" in gpu else 3.0
    step = _fastest(results, STEP, "xmae_fast GraphedStep") or jobs.get("step", {}).get("ms")
    embedding = milliseconds(results, EMBEDDING, "xmae_fast impl=auto") or jobs.get("embedding", {}).get("ms")
    masks = milliseconds(results, MASKS, "xmae_fast rng=fast")
    launched = jobs.get("random_masking triton float32", {}).get("launches")
    conv1d = milliseconds(results, STEP, "stock: fused AdamW + torch.compile")
    conv2d = milliseconds(results, STEP, "stock: the same, max-autotune, CUDA graphs")
    plain = milliseconds(results, EMBEDDING, "torch.compile of reference")
    vectorised = milliseconds(results, MASKS, "vectorised, sorts (as MAE)")
    return [
        _at_most("training step, ms", most, step),
        _at_least("training step, times as fast as Conv1d + compile", 2.0, conv1d, step),
        _at_least("training step, times as fast as Conv2d channels-last + max-autotune + graph", 1.2, conv2d, step),
        _at_most("embedding, ms", 0.55, embedding),
        _at_least("embedding, times as fast as Conv1d + compile", 4.0, plain, embedding),
        _at_most("masks, launches", 1, launched),
        _at_least("masks, times as fast as vectorised", 15.0, vectorised, masks),
    ]


def _fastest(results: dict[str, Any], title: str, beginning: str) -> float | None:
    """The captured step with whichever kernels are fastest."""
    names = {
        row["name"]
        for groups in results.get("suites", {}).values()
        for group in groups
        for row in group["rows"]
        if group["title"] == title and row["name"].startswith(beginning)
    }
    return min((ms for name in names if (ms := milliseconds(results, title, name)) is not None), default=None)


def _at_most(name: str, wanted: float, found: float | None) -> Target:
    return Target(name, f"<= {wanted:g}", found, found is not None and found <= wanted)


def _at_least(name: str, wanted: float, theirs: float | None, ours: float | None) -> Target:
    found = theirs / ours if theirs and ours else None
    return Target(name, f">= {wanted:g}", found, found is not None and found >= wanted)
