"""What the environment says of the processes that share some work, and the device that a name means.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK. Slurm sets SLURM_NTASKS and SLURM_PROCID too where it has started one
process alone: in the script of sbatch they tell of the whole allocation, so that they share no work. srun alone sets
SLURM_STEP_ID.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def place_in_environment(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """The number of this process and how many share the work, from RANK and WORLD_SIZE; 0 and 1 without them.

    Raises:
        ValueError: they are no such numbers, or one of them is missing.
    """
    given = environment.get("RANK"), environment.get("WORLD_SIZE")
    if given == (None, None):
        return 0, 1
    told = f"RANK={given[0]}, WORLD_SIZE={given[1]}".replace("=None", " is not set")
    try:
        rank, world_size = int(given[0] or ""), int(given[1] or "")
    except ValueError:
        raise ValueError(
            f"RANK, WORLD_SIZE: expected two whole numbers in the environment, or neither, got {told}"
        ) from None
    if not 0 <= rank < world_size:
        raise ValueError(f"RANK, WORLD_SIZE: expected RANK from 0 to WORLD_SIZE - 1 in the environment, got {told}")
    return rank, world_size


def started_by_srun(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes srun has started together with this one; 0 if srun did not start it."""
    if "SLURM_STEP_ID" not in environment:
        return 0
    number = environment.get("SLURM_STEP_NUM_TASKS", "1")
    return int(number) if number.isdigit() else 1


def device_of(name: str | torch.device | None) -> torch.device:
    """A device that is there.

    Args:
        name: such as "cpu" or "cuda:1"; None for the GPU of torchrun's LOCAL_RANK, or a GPU if there is one, or the
            CPU.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        local = os.environ.get("LOCAL_RANK", "0")
        if not local.isdigit():
            raise ValueError(f"LOCAL_RANK: expected a whole number in the environment, got {local!r}")
        return torch.device("cuda", int(local) % count) if count else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = "no GPU" if not count else "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ValueError(f"device: expected cpu or a GPU of this machine, which has {there}, got {name}") from error
    if device.type == "meta":
        raise ValueError(f"device: expected cpu or a GPU of this machine, got {name}, which holds no values")
    return device
