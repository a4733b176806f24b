"""The processes of a run, and what they agree on before it begins."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from xmae_fast.training.config import TrainCfg


def launch(cfg: TrainCfg) -> Any:
    """A launched lightning.Fabric: this process's device, rank, and the group of all.

    Under torchrun the processes are those that it started, otherwise `cfg.devices` and `cfg.num_nodes` say how many.

    Raises:
        ImportError: lightning is not installed.
    """
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        raise ImportError('Pretraining needs Lightning: pip install "xmae_fast[train]"') from error
    devices, nodes = cfg.devices, cfg.num_nodes
    by_torchrun = distributed.is_available() and distributed.is_torchelastic_launched()
    if by_torchrun:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    several = by_torchrun or nodes > 1 or (devices != "auto" and devices > 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice to use srun, and the like
        fabric = Fabric(
            accelerator=cfg.accelerator, strategy="ddp" if several else "auto", devices=devices, num_nodes=nodes
        )
        if by_torchrun and nodes == 1 and not distributed.is_initialized():
            _join(fabric.device)
        fabric.launch()
    return fabric


def _join(device: torch.device) -> None:
    """Make the group of torchrun's processes under names of this attempt.

    torchrun (2.13) keeps its store when it restarts processes, with the addresses of those that died, and a process
    that reads one of them waits for it without end. Several nodes count their restarts apart: see docs/pretraining.md.
    """
    from torch.distributed.rendezvous import rendezvous

    store, rank, world_size = next(rendezvous("env://"))
    store = distributed.PrefixStore(f"xmae_fast/{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def agreed(fabric: Any, action: Callable[[], Any]) -> Any:
    """What `action` returns to rank 0, which alone runs it; its error is raised by all."""
    outcome = None
    if fabric.global_rank == 0:
        try:
            outcome = action()
        except (OSError, ValueError) as error:
            outcome = error
    outcome = fabric.broadcast(outcome, src=0)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
