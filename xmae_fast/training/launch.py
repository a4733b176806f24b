"""The processes of a run: how they start, and how they agree on what only one of them may do."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from xmae_fast._processes import started_by_srun
from xmae_fast.training.config import TrainCfg


def launch(cfg: TrainCfg) -> Any:
    """Start the processes of a run, or join those that torchrun or srun has started.

    Slurm's variables do not count in a process that srun did not start, such as the script of sbatch, nor where `cfg`
    asks for one process.

    Args:
        cfg: its `devices` and `num_nodes` say how many processes there are, unless torchrun has started them.

    Returns:
        A launched lightning.Fabric, which knows the device and rank of this process and the group of all.

    Raises:
        ImportError: lightning is not installed.
        ValueError: there is no such device, or Slurm has started other processes than `cfg` asks for.
    """
    try:
        from lightning.fabric import Fabric
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    except ImportError as error:
        raise ImportError('Pretraining needs Lightning: pip install "xmae_fast[train]"') from error
    devices, nodes = cfg.devices, cfg.num_nodes
    by_torchrun = distributed.is_available() and distributed.is_torchelastic_launched()
    if by_torchrun:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    several = by_torchrun or nodes > 1 or (isinstance(devices, int) and devices > 1)
    foreign = "SLURM_NTASKS" in os.environ and not by_torchrun and not (several and started_by_srun())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # advice to use srun, and the like
        try:
            fabric = Fabric(
                accelerator=cfg.accelerator, strategy="ddp" if several else "auto", devices=devices, num_nodes=nodes,
                plugins=LightningEnvironment() if foreign else None,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:  # lightning's checks of its arguments and of Slurm's variables
            raise ValueError(f"accelerator, devices, num_nodes: {error}") from error
        if by_torchrun and nodes == 1 and not distributed.is_initialized():
            _join(fabric.device)
        fabric.launch()
    return fabric


def _join(device: torch.device) -> None:
    """Make the group of torchrun's processes, under names that this attempt alone uses.

    torchrun (seen in 2.13) keeps its store when it restarts processes. The store then still has the addresses of those
    that died, and a process that reads one of them waits for ever. Each of several nodes counts its own restarts: see
    docs/pretraining.md.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, world_size = next(rendezvous("env://"))
    store = PrefixStore(f"xmae_fast/{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size)


def agreed(fabric: Any, action: Callable[[], Any]) -> Any:
    """Run an action on rank 0 alone.

    Args:
        fabric: as `launch` returns it.
        action: called without arguments, by rank 0.

    Returns:
        What `action` returned, on every rank.

    Raises:
        OSError, ValueError: what `action` raised, on every rank.
    """
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
