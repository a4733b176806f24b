"""Optional packages, whose absence is an error that says what to install, and names that are imported when first used.

Importing this module takes no time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_PACKAGE = {"markdown_it": "markdown-it-py", "sklearn": "scikit-learn", "yaml": "PyYAML"}


def need(module: str, what_needs: str, extra: str) -> ModuleType:
    """Import a module of an optional package, as in need("wfdb", "WFDB needs", "prepare").

    Args:
        module: its full name.
        what_needs: the beginning of the message.
        extra: the extra of this package that installs it.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError:
        raise _missing(module, what_needs, extra) from None


def check_installed(package: str, what_needs: str, extra: str) -> None:
    """Raise the ImportError of `need` if a package is missing, but do not import it: that takes a second for some."""
    if find_spec(package) is None:
        raise _missing(package, what_needs, extra)


def new_figure(width: float, height: float, what_needs: str, extra: str):
    """An empty matplotlib figure that needs no display.

    Args:
        width: in inches.
        height: in inches.
        what_needs, extra: see `need`.
    """
    canvas = need("matplotlib.backends.backend_agg", what_needs, extra).FigureCanvasAgg
    figure = need("matplotlib.figure", what_needs, extra).Figure(figsize=(width, height), layout="constrained")
    canvas(figure)
    return figure


def _missing(module: str, what_needs: str, extra: str) -> ImportError:
    top = module.split(".")[0]
    return ImportError(f'{what_needs} {_PACKAGE.get(top, top)}: pip install "xmae_fast[{extra}]"')


def lazy_names(
    package: str, home: Mapping[str, str], at_once: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package that imports its public names when they are first used.

    A type checker cannot follow such imports: it reads the file `__init__.pyi` of the package, which imports each name.

    Args:
        package: the full name of the package.
        home: for each public name the module that has it, by its name in the package, or by its full name if that
            begins with "xmae_fast.".
        at_once: the public names that the package imports itself, for `__all__`.
    """

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = home[name] if home[name].startswith("xmae_fast.") else f"{package}.{home[name]}"
        return getattr(import_module(module), name)

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return __getattr__, __dir__, [*home, *at_once]
