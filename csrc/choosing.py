"""What an installation from source builds (XMAE_FAST_BUILD), and the sentence it ends with where it cannot.

Imports nothing but the standard library.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil

CHOICES = ("auto", "cpu", "cuda", "none")
NEEDED = ("torch>=2.11,<3", "ninja")  # to compile the kernels; an isolated build fetches them
OLDEST_TORCH = (2, 11)
WITHOUT = (
    "or set XMAE_FAST_BUILD=none in the environment to install without kernels, where everything runs in plain PyTorch"
)


def choice() -> str:
    """What $XMAE_FAST_BUILD asks for. SystemExit: it is none of `CHOICES`."""
    asked = os.environ.get("XMAE_FAST_BUILD", "auto")
    if asked not in CHOICES:
        raise SystemExit(f"xmae_fast: XMAE_FAST_BUILD: expected one of {', '.join(CHOICES)}, got {asked!r}.")
    return asked


def missing_compiler() -> str:
    """Why no C++ compiler can be used, or ''."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None and shutil.which("g++") is None:
        return f"no C++ compiler was found (looked for {compiler!r} and 'g++'); install one, such as g++"
    return ""


def missing_torch() -> str:
    """Why the torch of this Python cannot be built with, or ''."""
    install = 'install one (pip install "torch>=2.11,<3") or leave out --no-build-isolation, and pip fetches one'
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return f"no torch is installed to build with; {install}"
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is not None and (int(found[1]), int(found[2])) < OLDEST_TORCH:
        return f"torch {version} is too old to build with; {install}"
    return ""


def missing_nvcc(nvcc: str) -> str:
    """Why no CUDA compiler can be used, or ''."""
    return "" if shutil.which(nvcc) else f"no CUDA compiler was found (looked for {nvcc!r})"


def refuse(asked: str, why: str) -> None:
    """End the installation with one sentence, if there is a reason."""
    if why:
        said = "the C++ kernels cannot be built, because" if asked == "auto" else f"XMAE_FAST_BUILD={asked}, but"
        raise SystemExit(f"xmae_fast: {said} {why}, {WITHOUT}.")
