"""Checkpoints of a run: weights in the form of Lightning, and all that the run needs to go on where it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from xmae_fast._files import atomic_path
from xmae_fast.model.checkpoint import CFG_KEY, PREFIX, CheckpointError
from xmae_fast.model.xmae import xMAE

STATE_KEY = "xmae_fast_run"
_FORMAT = 1


def write_checkpoint(path: Path, model: xMAE, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """One file, whole or not at all, that `xmae_fast.load_checkpoint` and `read_checkpoint` read.

    state: tensors and plain values; "step" and "epoch" also go where Lightning has them.
    """
    weights = {PREFIX + key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    content = {
        "state_dict": weights,
        CFG_KEY: json.dumps(model.cfg.to_dict()),
        "global_step": state["step"],
        "epoch": state["epoch"],
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        STATE_KEY: state | {"format": _FORMAT, "rng": _random_states()},
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def copy_checkpoint(path: Path, to: Path) -> None:
    """The same file under another name, whole or not at all."""
    with atomic_path(to) as temporary:
        shutil.copyfile(path, temporary)


def read_checkpoint(path: str | os.PathLike[str], model: xMAE, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load weights and optimiser in place, and torch's random state; the `state` that was written.

    Raises:
        FileNotFoundError: no such file. CheckpointError: not written by `write_checkpoint`, or of another model.
    """
    path = Path(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get(STATE_KEY)
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: expected a checkpoint of xmae-fast pretrain, it holds no state of a run")
    stored, wanted = json.loads(content[CFG_KEY]), json.loads(json.dumps(model.cfg.to_dict()))
    if changed := [key for key in wanted if stored.get(key) != wanted[key]]:
        was, now = stored.get(changed[0]), wanted[changed[0]]
        raise CheckpointError(f"{changed[0]}: the run was begun with {was!r}, the configuration has {now!r}")
    model.load_state_dict({key.removeprefix(PREFIX): value for key, value in content["state_dict"].items()})
    optimizer.load_state_dict(content["optimizer_states"][0])
    _set_random_states(state["rng"])
    return state


def _random_states() -> dict[str, torch.Tensor]:
    """Of torch's default generators: dropout of impl="reference" draws from them."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
