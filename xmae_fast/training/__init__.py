"""Pretraining: `pretrain` runs it from a configuration, `GraphedStep` is one step of it."""

from xmae_fast._optional import lazy_names
from xmae_fast.training.gradients import GradientArena as GradientArena
from xmae_fast.training.optimiser import adamw as adamw
from xmae_fast.training.step import GraphedStep as GraphedStep

_HOME = {
    "PretrainingError": "pretraining",
    "Result": "loop",
    "TrainCfg": "config",
    "make_step": "pretraining",
    "pretrain": "pretraining",
    "read_train_cfg": "config",
    "train_cfg_from_dict": "config",
    "validation_loss": "validation",
}
__getattr__, __dir__, __all__ = lazy_names(__name__, _HOME, ("GradientArena", "GraphedStep", "adamw"))
