"""Run as a program: what torchrun does with two processes, but forked from one that has imported torch and lightning.

python -m tests.training.forked RESTARTS exchange | the arguments of xmae-fast
"""

from __future__ import annotations

import sys
from uuid import uuid4

import torch
import torch.nn.functional as F
from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def exchange() -> None:
    """What one of two processes does: batch norm over a batch of which each has a part, against that over the whole."""
    from xmae_fast.training import sync_batchnorm

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 3, 7, dtype=torch.float64), torch.rand(3).double(), torch.rand(3).double()
    pull = torch.randn(5, 3, 7, dtype=torch.float64)
    wanted_x, own = x.clone().requires_grad_(), x[2:] if rank else x[:2]  # of different sizes
    own = own.clone().requires_grad_()
    statistics = [torch.zeros(3).double(), torch.ones(3).double()]
    wanted_statistics = [s.clone() for s in statistics]
    wanted = F.batch_norm(wanted_x, *wanted_statistics, weight, bias, True, 0.1, 1e-5)
    with sync_batchnorm._Synchronised():
        got = F.batch_norm(own, *statistics, weight, bias, True, momentum=0.1, eps=1e-5)
    (wanted * pull).sum().backward()
    (got * (pull[2:] if rank else pull[:2])).sum().backward()
    mine = slice(2, None) if rank else slice(2)
    torch.testing.assert_close(got, wanted[mine])
    torch.testing.assert_close(own.grad, wanted_x.grad[mine])
    torch.testing.assert_close(statistics, wanted_statistics)
    torch.distributed.destroy_process_group()


def command(*arguments: str) -> None:
    """What one of two processes does: the command line."""
    from xmae_fast.cli import main

    if code := main([*arguments]):
        sys.exit(code)


def run(restarts: str, what: str, *arguments: str) -> None:
    """As `torchrun --standalone --nproc_per_node=2 --max-restarts=...` does, forking instead of starting anew."""
    if what != "exchange":
        import lightning  # noqa: F401  not in each process
    config = LaunchConfig(
        1, 1, 2, run_id=str(uuid4()), rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=int(restarts),
        monitor_interval=0.1, start_method="fork",
    )  # fmt: skip
    if what == "exchange":
        elastic_launch(config, exchange)()
    else:
        elastic_launch(config, command)(what, *arguments)


if __name__ == "__main__":
    run(*sys.argv[1:])
