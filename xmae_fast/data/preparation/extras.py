"""Optional packages, with an error that says what to install."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def need(module: str, purpose: str) -> ModuleType:
    """The module; ImportError names the pip extra where it is missing."""
    try:
        return import_module(module)
    except ImportError:
        raise ImportError(f'{purpose} needs {module.split(".")[0]}: pip install "xmae_fast[prepare]"') from None
