"""Optional packages, with an error that says what to install."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def need(module: str, purpose: str) -> ModuleType:
    """The module; ImportError names the pip extra where it is missing."""
    try:
        return import_module(module)
    except ImportError:
        raise _missing(module, purpose) from None


def check_installed(package: str, purpose: str) -> None:
    """`need` without importing it, which takes a second for some."""
    if find_spec(package) is None:
        raise _missing(package, purpose)


def _missing(module: str, purpose: str) -> ImportError:
    return ImportError(f'{purpose} needs {module.split(".")[0]}: pip install "xmae_fast[prepare]"')
