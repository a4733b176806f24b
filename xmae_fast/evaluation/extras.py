"""Optional packages, with an error that says what to install."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def need(module: str, purpose: str) -> ModuleType:
    """The module; ImportError names the pip extra where it is missing."""
    try:
        return import_module(module)
    except ImportError:
        package = {"sklearn": "scikit-learn"}.get(module.split(".")[0], module.split(".")[0])
        raise ImportError(f'{purpose} need {package}: pip install "xmae_fast[eval]"') from None
