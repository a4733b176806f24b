"""Optional packages, with an error that says what to install, and names that are imported when first used.

Importing this module takes no time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_PACKAGE = {"markdown_it": "markdown-it-py", "sklearn": "scikit-learn", "yaml": "PyYAML"}


def need(module: str, what_needs: str, extra: str) -> ModuleType:
    """The module; ImportError names the pip extra where it is missing. As in need("wfdb", "WFDB needs", "prepare")."""
    try:
        return import_module(module)
    except ImportError:
        raise _missing(module, what_needs, extra) from None


def check_installed(package: str, what_needs: str, extra: str) -> None:
    """`need` without importing it, which takes a second for some."""
    if find_spec(package) is None:
        raise _missing(package, what_needs, extra)


def new_figure(width: float, height: float, what_needs: str, extra: str):
    """An empty matplotlib figure, inches, that needs no display; `need` says the rest."""
    canvas = need("matplotlib.backends.backend_agg", what_needs, extra).FigureCanvasAgg
    figure = need("matplotlib.figure", what_needs, extra).Figure(figsize=(width, height), layout="constrained")
    canvas(figure)
    return figure


def _missing(module: str, what_needs: str, extra: str) -> ImportError:
    top = module.split(".")[0]
    return ImportError(f'{what_needs} {_PACKAGE.get(top, top)}: pip install "xmae_fast[{extra}]"')


def lazy_names(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for the package of that name.

    Args:
        home: of each public name the submodule that has it: relative to the package, or a full name in xmae_fast.
    """

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = home[name] if home[name].startswith("xmae_fast.") else f"{package}.{home[name]}"
        return getattr(import_module(module), name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return __getattr__, __dir__
