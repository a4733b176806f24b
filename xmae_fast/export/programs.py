"""Programs of torch.export for any batch size, their .pt2 files, and the .pte files of ExecuTorch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils import parametrize

from xmae_fast._full_disk import remembering
from xmae_fast.config import ModelCfg
from xmae_fast.export.graphs import Graph
from xmae_fast.export.runtimes import Run, as_arrays

MAX_BATCH = 32  # for ExecuTorch, which plans its memory before it runs
HALVED_ABOVE = 8192  # numbers; smaller weights, which together are 3 % of the file, stay in float32


class _Widened(nn.Module):
    """A weight that is stored in float16 and used in float32."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


def store_in_float16(graph: Graph) -> Graph:
    """Store the graph's large weights in float16, in place; each is cast to float32 where it is used."""
    for module in list(graph.modules()):
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.numel() > HALVED_ABOVE:
                parametrize.register_parametrization(module, name, _Widened(), unsafe=True)
                parametrizations: Any = module.parametrizations  # a ModuleDict, which register_parametrization has made
                stored = parametrizations[name].original
                stored.data = stored.data.half()
    return graph.requires_grad_(False)


def trace(graph: Graph, cfg: ModelCfg, max_batch: int | None = None) -> ExportedProgram:
    """Export a graph by torch.export, for any batch size and 1 to N visible patches.

    Args:
        graph: as `make_graph` returns it.
        cfg: of the model.
        max_batch: the largest batch size; None for any.
    """
    rows, N = 3, cfg.num_patches
    batch, visible = Dim("batch", min=1, max=max_batch), Dim("visible", min=1, max=N) if N > 1 else None
    patches = N - 1 if N > 2 else N  # because torch.export would take a size of 1 for a constant
    known = {
        "ppg": (torch.zeros(rows, cfg.seq_len), {0: batch}),
        "ecg_visible": (torch.zeros(rows, patches, cfg.patch_len), {0: batch, 1: visible}),
        "ids_keep": (torch.arange(patches).repeat(rows, 1), {0: batch, 1: visible}),
    }
    chosen = {name: known[name] for name in graph.inputs}
    arguments = tuple(example for example, _ in chosen.values())
    with torch.no_grad():
        return torch.export.export(graph, arguments, dynamic_shapes={name: dims for name, (_, dims) in chosen.items()})


def write_torch_export(program: ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    """Write a .pt2 file, with `metadata` as extra files in it."""
    with remembering(path) as file:
        torch.export.save(program, cast("IO[bytes]", file), extra_files=metadata)


def run_torch_export(path: Path) -> Run:
    """Read a .pt2 file; what runs it."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return as_arrays(lambda *inputs: module(*inputs))


def write_executorch(program: ExportedProgram, path: Path) -> None:
    """Write a .pte file of portable operators.

    Raises:
        ImportError: executorch is not installed.
    """
    to_edge = need_executorch("exir").to_edge
    path.write_bytes(to_edge(program).to_executorch().buffer)


def run_executorch(path: Path) -> Run:
    """Read a .pte file; what runs it in ExecuTorch's runtime for Python."""
    method = need_executorch("runtime").Runtime.get().load_program(path).load_method("forward")
    return as_arrays(lambda *inputs: method.execute(inputs))


def need_executorch(part: str = "exir"):
    """A module of executorch, "exir" or "runtime"; ImportError, which names the package, if it is missing."""
    try:
        return import_module(f"executorch.{part}")
    except ImportError as error:
        raise ImportError(f"to='executorch' needs the package executorch: pip install executorch ({error})") from error
