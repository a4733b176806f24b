"""Checkpoints of a run: the weights, in the form of Lightning, and everything that the run needs to go on."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from xmae_fast._files import atomic_path
from xmae_fast._full_disk import save_with_torch
from xmae_fast.model.checkpoint import CFG_KEY, PREFIX, CheckpointError
from xmae_fast.model.xmae import xMAE

_log = logging.getLogger("xmae_fast.training")
STATE_KEY = "xmae_fast_run"
_FORMAT = 1


def write_checkpoint(path: Path, model: xMAE, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write a file that `xmae_fast.load_checkpoint` and `read_checkpoint` read, whole or not at all.

    Args:
        path: the file, which is replaced if it is there.
        model: whose weights and statistics are written.
        optimizer: whose state is written.
        state: further tensors and plain values; "step" and "epoch" also go where Lightning looks for them.
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
        save_with_torch(content, temporary)


def copy_checkpoint(path: Path, to: Path) -> None:
    """Copy a checkpoint to another name, whole or not at all."""
    with atomic_path(to) as temporary:
        shutil.copyfile(path, temporary)


def read_checkpoint(path: str | os.PathLike[str], model: xMAE, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Read a checkpoint into a model and an optimiser, and set torch's random state.

    Args:
        path: a file that `write_checkpoint` wrote.
        model: gets the weights and statistics.
        optimizer: gets the state of the optimiser.

    Returns:
        The `state` that was written.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: `write_checkpoint` did not write it, or it belongs to another model.
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
    _log.debug("the run goes on from %s", path)
    return state


def _random_states() -> dict[str, torch.Tensor]:
    """The states of torch's default generators, from which the dropout of impl="reference" draws."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
