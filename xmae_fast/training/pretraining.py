"""`pretrain`: from a configuration to a run folder with checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from xmae_fast._environment import describe_environment
from xmae_fast._files import atomic_path
from xmae_fast._full_disk import save_with_torch
from xmae_fast._yaml import import_yaml
from xmae_fast.backend import explain
from xmae_fast.backend.explaining import note_implementations
from xmae_fast.data.agreement import attempt, settled
from xmae_fast.model.xmae import xMAE
from xmae_fast.training.config import TrainCfg, train_cfg_from_dict
from xmae_fast.training.feed import Feed, make_feed
from xmae_fast.training.gradients import GradientArena, share_weights
from xmae_fast.training.launch import agreed, launch
from xmae_fast.training.loop import Loop, Result
from xmae_fast.training.optimiser import adamw
from xmae_fast.training.parameters import freeze_untrained
from xmae_fast.training.progress import Progress
from xmae_fast.training.records import NonFiniteLoss, make_loggers
from xmae_fast.training.run_folder import RunFolder
from xmae_fast.training.step import GraphedStep
from xmae_fast.training.sync_batchnorm import synchronise_batch_norm
from xmae_fast.training.truth import TruthHead

# Settings that may differ between processes.
_OWN = ("data", "val_data", "cache_dir", "num_threads", "devices", "num_nodes", "wandb", "tensorboard")


class PretrainingError(RuntimeError):
    """A run had to end because its loss is not finite. The message names the file with the batch."""


def pretrain(
    cfg: TrainCfg | Mapping[str, Any],
    name: str,
    *,
    runs: str | os.PathLike[str] = "runs",
    resume: bool | str = False,
    overwrite: bool = False,
    quiet: bool = False,
    callback: Callable[[int], None] | None = None,
) -> Result:
    """Pretrain an xMAE. Everything about the run lies in the folder `runs`/`name`.

    Where torchrun or Slurm has started several processes, or with devices > 1, every process calls this.

    Args:
        cfg: a TrainCfg or its dictionary form.
        name: of the run.
        runs: the folder of all runs.
        resume: True goes on from last.ckpt of the run; with the same number of processes the run then gives the same
            bits as one that was not interrupted. "auto" does so if last.ckpt is there, and begins otherwise. False
            refuses a folder that is there.
        overwrite: remove the files of a run of that name first. Other files in its folder stay.
        quiet: show nothing.
        callback: called by every process after every step, with the number of steps so far.

    Returns:
        How the run stands, its speed, and where the checkpoints are.

    Raises:
        ValueError, TypeError: the configuration is wrong; the message names the key.
        FileExistsError, FileNotFoundError: the folder is not what `resume` and `overwrite` ask for.
        PretrainingError: the loss is NaN or infinite; nan_batch.pt holds the batch.
        BlockingIOError: another run writes to the folder.
        ImportError: lightning or PyYAML is not installed.
    """
    import_yaml()
    cfg = cfg if isinstance(cfg, TrainCfg) else train_cfg_from_dict(cfg)
    _check_name(name)
    fabric = launch(cfg)
    folder = RunFolder(Path(runs) / name)
    resumed = agreed(fabric, lambda: folder.open(resume, overwrite))
    try:
        return _run(fabric, cfg, folder, resumed, quiet, callback)
    finally:
        folder.close()


def _run(
    fabric: Any, cfg: TrainCfg, folder: RunFolder, resumed: bool, quiet: bool, callback: Callable[[int], None] | None
) -> Result:
    rank, world_size = fabric.global_rank, fabric.world_size
    shown = Progress(shown=rank == 0 and not quiet)
    with fabric.rank_zero_first(local=True):  # the first process builds indexes that are missing
        made = attempt(lambda: make_feed(cfg, fabric.device, rank, world_size))
    own = [name for name in _OWN if name != "data" or not cfg.simulated]
    shared = {name: value for name, value in cfg.to_dict().items() if name not in own}
    feed = settled(made, lambda feed: feed.segments(), shared)
    step = make_step(cfg, fabric.device, rank, world_size)
    loop = Loop(cfg, step, feed, folder, resumed, shown, callback)
    try:
        if rank == 0:
            _record_start(cfg, loop, feed, fabric.device, resumed)
        with shown.bar():
            result = loop.run()
    except NonFiniteLoss as error:
        saved = save_bad_batch(loop, error, folder.path / ("nan_batch.pt" if rank == 0 else f"nan_batch_{rank}.pt"))
        where = f"the batch is in {saved}; last.ckpt, if there is one, is from before"
        raise PretrainingError(f"{error}; {where}") from error
    finally:
        loop.close()
        feed.close()
    if rank == 0:
        folder.add_result(asdict(result))
    fabric.barrier()
    return result


def make_step(cfg: TrainCfg, device: torch.device, rank: int = 0, world_size: int = 1) -> GraphedStep:
    """Make the training step of a run, with new weights, as `pretrain` makes it.

    Args:
        cfg: the configuration; its seed gives the weights.
        device: where the model goes.
        rank: the number of this process.
        world_size: how many processes share each batch.
    """
    torch.manual_seed(cfg.seed)
    model = xMAE(cfg.model_cfg(), impl=cfg.impl).to(device).train()
    torch.manual_seed(cfg.seed)
    truth = TruthHead(model.cfg.proj_dim).to(device) if cfg.truth_weight else None  # the same in all processes
    torch.manual_seed(cfg.seed + (rank << 32))
    parameters = freeze_untrained(model, embedding=truth is not None)
    if truth is not None:
        parameters += truth.parameters()
    arena = None
    if world_size > 1:
        if cfg.sync_batchnorm:
            synchronise_batch_norm(model)
        share_weights([*model.parameters(), *model.buffers(), *(truth.parameters() if truth is not None else ())])
        arena = GradientArena(parameters)
    bf16 = cfg.precision == "bf16" or (cfg.precision == "auto" and device.type == "cuda")
    optimizer = adamw(parameters, cfg.lr, cfg.weight_decay, (cfg.betas[0], cfg.betas[1]))
    return GraphedStep(
        model, optimizer, mask_ratio=cfg.mask_ratio_ecg,
        mode=cfg.mask_mode, mask_ratio_ppg=cfg.mask_ratio_ppg, autocast=torch.bfloat16 if bf16 else None,
        micro_batches=cfg.accumulate, seed=cfg.seed, graph=cfg.graph, loss_weight=cfg.mwm_ecg, rank=rank,
        world_size=world_size, truth=truth, truth_weight=cfg.truth_weight, arena=arena,
    )  # fmt: skip


def save_bad_batch(loop: Loop, error: NonFiniteLoss, path: Path) -> Path:
    """Write the batch of the step that `error` names, and the batch before it, whose update may be the cause.

    The file holds ppg, ecg, subject and segment of both, read again as the loader gave them, and step, seed and mask
    ratio.

    Returns:
        `path`.
    """
    batches = {}
    for number in (error.step, error.step - 1):
        if number >= 0:
            epoch, batch = divmod(number, loop.steps_per_epoch)
            batches[number] = {"epoch": epoch, "batch": batch, **loop.feed.batch(epoch, batch)}
    content = {
        "step": error.step, "loss": error.value, "batches": batches, "seed": loop.step.seed,
        "mask_ratio": loop.curriculum.ratio(error.step), "losses": loop.losses.values,
        "swap_signals": loop.cfg.swap_signals,
    }  # fmt: skip
    with atomic_path(path) as temporary:
        save_with_torch(content, temporary)
    return path


def _check_name(name: str) -> None:
    if not name or Path(name).name != name or name in (".", ".."):
        raise ValueError(f"name: expected the name of a folder to make, got {name!r}")


def _record_start(cfg: TrainCfg, loop: Loop, feed: Feed, device: torch.device, resumed: bool) -> None:
    """Write config.yaml and run.json, make the loggers, and show a few lines about the run."""
    folder, step, tell = loop.folder, loop.step, loop.shown.tell
    changed = folder.write_config(cfg)
    about = describe_environment(device, step.world_size)
    about["model"] = {
        "parameters": sum(p.numel() for p in step.core.parameters()),
        "trained": sum(p.numel() for p in step.core.parameters() if p.requires_grad),
        "implementations": explain(step.core).splitlines(),
        "graph": step.reason or "captured",
        "autocast": str(step.autocast),
    }
    note_implementations(step.core)
    about["data"] = feed.describe()
    folder.write_about(about, {"step": step.steps, "host": about["host"], "changed": changed})
    loop.loggers = make_loggers(cfg, folder.path, step.steps if resumed else None, tell)
    tell(f"{folder.path}: {about['model']['trained']:,} of {about['model']['parameters']:,} parameters are trained")
    tell(f"{feed}; {loop.steps:,} steps of {cfg.batch_size} on {step.world_size} x {device}")
    tell(f"CUDA graph: {'not used, ' + step.reason if step.reason else 'captured after the first steps'}")
    if resumed:
        tell(f"goes on after step {step.steps}" + "".join(f"; {change}" for change in changed))
