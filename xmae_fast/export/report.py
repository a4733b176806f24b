"""The report on an exported file, as text and as plain values for the JSON file beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from xmae_fast._version import __version__
from xmae_fast.export import runtimes
from xmae_fast.export.checking import Difference
from xmae_fast.export.graphs import Graph
from xmae_fast.export.signals import Signals
from xmae_fast.model.xmae import xMAE

SHAPES = {
    "ppg": "[B, {L}]",
    "ecg_visible": "[B, Nk, {P}], Nk from 1 to {N}",
    "ids_keep": "[B, Nk] int64, the visible patches' places",
    "projected": "[B, {E}], through the projection head, which pretraining never trains",
    "pooled": "[B, {D}], mean over the encoder's tokens, which pretraining trains",
    "tokens": "[B, {N}, {D}], one of each patch, in order of time",
    "ecg_reconstructed": "[B, {L}], the decoder's ECG, at visible patches too",
}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino", "executorch")


@dataclass
class ExportReport:
    """What was written, how far it is from the model, and how fast it is.

    Attributes:
        path, size_bytes: of the file.
        about: entry, format, weights, inputs, outputs, configuration, versions, machine and data.
        differences: by runtime. That of the format itself comes first and is within its bounds.
        milliseconds: by runtime and batch size, where "xmae_fast" is the model; empty if they were not measured.
        notes: what was left out, and why.
    """

    path: Path
    size_bytes: int
    about: dict[str, Any]
    differences: dict[str, list[Difference]]
    milliseconds: dict[str, dict[int, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """The report as text: file, differences, latencies."""
        about, size = self.about, f"{self.size_bytes / 1e6:.2f} MB"
        lines = [f"{self.path}: {about['entry']}, {about['format']}, {about['weights']} weights, {size}"]
        for runtime, differences in self.differences.items():
            lines += ["", f"{runtime} against the model in float64, {about['checked_on']}:", table(differences)]
        if self.milliseconds:
            sizes = list(next(iter(self.milliseconds.values())))
            lines += ["", f"median ms of a call ({about['machine']}):"]
            lines.append(" " * 22 + "".join(f"{f'B = {B}':>10}" for B in sizes))
            for runtime, taken in self.milliseconds.items():
                lines.append(f"{runtime:<22}" + "".join(f"{taken[B]:>10.2f}" for B in sizes))
        return "\n".join(lines + self.notes)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        differences = {
            runtime: [asdict(d) | {"ok": d.ok} for d in found] for runtime, found in self.differences.items()
        }
        return {
            "file": self.path.name, "size_bytes": self.size_bytes, **self.about, "differences": differences,
            "milliseconds": self.milliseconds, "notes": self.notes,
        }  # fmt: skip


def table(differences: Sequence[Difference]) -> str:
    """A table with a line for each output."""
    lines = [f"{'output':<18}   max abs  rel. norm  of spread  mean cosine  worst cosine  allowed"]
    for d in differences:
        allowed = f"rel. norm {d.bound:.1e}" if d.measure == "relative_norm" else f"worst cosine {d.bound:.4f}"
        lines.append(
            f"{d.output:<18} {d.max_abs:>9.1e} {d.relative_norm:>10.1e} {d.of_spread:>10.1e} {d.cosine:>12.7f}"
            f" {d.worst_cosine:>13.7f}  {allowed}{'' if d.ok else ': FAILED'}"
        )
    return "\n".join(lines)


def describe(name: str, model: xMAE, graph: Graph, to: str, weights: str, checked: Signals) -> dict[str, Any]:
    """What `ExportReport.about` says.

    Args:
        name: of the checkpoint.
        model: the model.
        graph: the graph that is exported.
        to, weights: as for `export_model`.
        checked: the segments of the check.
    """
    from xmae_fast._environment import describe_environment

    cfg = model.cfg
    sizes = {"L": cfg.seq_len, "P": cfg.patch_len, "N": cfg.num_patches, "D": cfg.d_model, "E": cfg.proj_dim}
    environment = describe_environment(torch.device("cpu"), 1)
    versions = {"xmae_fast": __version__, "torch": torch.__version__, "python": environment["python"]}
    return {
        "entry": graph.entry, "format": to, "weights": weights, "checkpoint": name,
        "inputs": {x: SHAPES[x].format(**sizes) for x in graph.inputs},
        "outputs": {x: SHAPES[x].format(**sizes) for x in graph.outputs},
        "signals": f"{cfg.sampling_freq:g} Hz, min-max normalised to [-1, 1] per segment",
        "cfg": cfg.to_dict(),
        "checked_on": f"{len(checked.ppg)} segments ({checked.source})",
        "versions": versions | {p: runtimes.version(p) for p in _PACKAGES if runtimes.installed(p)},
        "machine": f"{environment['cpu']}, {environment['torch_threads']} of {environment['cpus']} cores",
    }  # fmt: skip
