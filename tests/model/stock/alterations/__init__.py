"""`ALTERATIONS`: what code around a model does to its parts, by name."""

from tests.model.stock.alterations import around, blocks, layers, settings, weights  # noqa: F401 - they fill the registry
from tests.model.stock.alterations.layers import LoRA
from tests.model.stock.alterations.registry import ALTERATIONS, replace

__all__ = ["ALTERATIONS", "LoRA", "replace"]
