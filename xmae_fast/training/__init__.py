"""Pretraining: the step and what runs it."""

from importlib import import_module

from xmae_fast.training.step import GraphedStep, adamw

_HOME = {
    "PretrainingError": "pretraining",
    "Result": "loop",
    "TrainCfg": "config",
    "make_step": "pretraining",
    "pretrain": "pretraining",
    "read_train_cfg": "yaml_files",
    "train_cfg_from_dict": "config",
    "validation_loss": "validation",
}
__all__ = [*_HOME, "GraphedStep", "adamw"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
