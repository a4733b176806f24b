"""xmae_fast: a high-performance drop-in xMAE (arXiv 2605.00973). Importing it needs torch and numpy alone."""

from importlib import import_module
from typing import TYPE_CHECKING

from xmae_fast import _starting, ops  # noqa: F401  # _starting first
from xmae_fast._shipped import PretrainedModel, pretrained_models
from xmae_fast._version import __version__
from xmae_fast.backend import available, explain
from xmae_fast.config import ModelCfg
from xmae_fast.model import xmae as _xmae
from xmae_fast.model.checkpoint import load_checkpoint, save_checkpoint
from xmae_fast.model.pretrained import from_pretrained
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.xmae import build_model_from_cfg, xMAE
from xmae_fast.ops.random_masking import PatchMask, random_masking
from xmae_fast.ops.waveform_loss import masked_mse

if TYPE_CHECKING:  # what `__getattr__` imports
    from xmae_fast import data, embedding, evaluation, export, preparation, simulation, training, tuning  # noqa: F401
    from xmae_fast.embedding import Embedder, embed_files, read_embeddings, reconstruct

_PACKAGES = ("data", "embedding", "evaluation", "export", "preparation", "simulation", "training", "tuning")
_EMBEDDING = ("Embedder", "embed_files", "read_embeddings", "reconstruct")

__all__ = [
    "Embedder",
    "ModelCfg",
    "PatchMask",
    "PretrainedModel",
    "Recipe",
    "__version__",
    "available",
    "build_model_from_cfg",
    "embed_files",
    "explain",
    "from_pretrained",
    "load_checkpoint",
    "masked_mse",
    "ops",
    "pretrained_models",
    "random_masking",
    "read_embeddings",
    "reconstruct",
    "save_checkpoint",
    "xMAE",
]


def __getattr__(name: str):
    """Import, when they are first used, `Embedder` and the functions beside it, and the packages `xmae_fast.data`,
    `embedding`, `evaluation`, `export`, `preparation`, `simulation`, `training` and `tuning`."""
    if name in _PACKAGES:
        return import_module(f"xmae_fast.{name}")
    if name in _EMBEDDING:
        return getattr(import_module("xmae_fast.embedding"), name)
    raise AttributeError(f"module 'xmae_fast' has no attribute {name!r}")


def _make_embedder(*args, **options):
    return import_module("xmae_fast.embedding").Embedder(*args, **options)


_xmae.make_embedder = _make_embedder
