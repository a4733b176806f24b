"""Reads tests/golden: what the published code computed in float64, with weights regenerated from a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmae_fast import build_model_from_cfg, xMAE

FOLDER = Path(__file__).parent / "golden"
INDEX = json.loads((FOLDER / "index.json").read_text())


class Golden(NamedTuple):
    inputs: dict[str, Tensor]  # the arguments of forward
    results: dict[str, np.ndarray]  # "eval/<key>", "train/...", "grad/<parameter>", "buf/<buffer>"

    def named(self, kind: str) -> dict[str, np.ndarray]:
        """Results whose name begins with `kind/`, without it."""
        return {
            key.removeprefix(f"{kind}/"): value for key, value in self.results.items() if key.startswith(f"{kind}/")
        }


def read(case: str) -> Golden:
    with np.load(FOLDER / f"{case}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    inputs = {key: torch.from_numpy(value) for key, value in arrays.items() if "/" not in key}
    return Golden(inputs, {key: value for key, value in arrays.items() if "/" in key})


def seeded_state(model: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    """The weights that the golden numbers were made with, drawn in the order of the sorted keys."""
    rs = np.random.RandomState(seed)
    wanted = model.state_dict()
    state = {}
    for key in sorted(wanted):
        shape = tuple(wanted[key].shape)
        if key.endswith("num_batches_tracked"):
            value = np.zeros(shape)
        elif key.endswith("running_var"):
            value = 0.5 + rs.rand(*shape)
        elif key.endswith("running_mean"):
            value = 0.1 * rs.randn(*shape)
        elif key.endswith((".pos", "mask_loc_table.weight")) or key == "mask_token":
            value = 0.2 * rs.randn(*shape)
        elif len(shape) == 1 and key.endswith("weight"):
            value = 1 + 0.1 * rs.randn(*shape)
        elif len(shape) == 1:
            value = 0.05 * rs.randn(*shape)
        elif key.endswith("deconv.weight"):
            value = rs.randn(*shape) / np.sqrt(shape[0])
        else:
            value = rs.randn(*shape) / np.sqrt(np.prod(shape[1:]))
        state[key] = torch.from_numpy(np.asarray(value, dtype=np.float32)).to(wanted[key].dtype)
    return state


def build(case: str, impl: str, dtype: torch.dtype = torch.float32) -> xMAE:
    model = build_model_from_cfg(INDEX[case]["cfg"], impl=impl)
    model.load_state_dict(seeded_state(model, INDEX[case]["seed"]))
    return model.to(dtype).eval()
