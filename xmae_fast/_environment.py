"""Versions, state of the sources and machine, for the records of runs and files."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from xmae_fast._version import __version__

_PACKAGES = ("torch", "numpy", "h5py", "lightning", "safetensors", "triton", "PyYAML", "tensorboard", "rich")
# What else readers, reports and exports need.
_OPTIONAL = (
    "scipy", "pandas", "pyarrow", "wfdb", "neurokit2", "scikit-learn", "matplotlib", "fsspec", "huggingface_hub",
    "onnx", "onnxscript", "onnxruntime", "openvino",
)  # fmt: skip
_SETTINGS = (
    "XMAE_FAST_LOCK_WAIT_S", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA",
    "CUDA_VISIBLE_DEVICES", "TRITON_INTERPRET", "RANK", "WORLD_SIZE",
)  # fmt: skip


def describe_environment(device: torch.device, world_size: int) -> dict[str, Any]:
    """Versions, state of the sources, host and processors, as plain values.

    Args:
        device: where the work is done.
        world_size: how many processes share it.
    """
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "command": sys.argv,
        "xmae_fast": __version__,
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := package_version(name))},
        "git": _git_state(Path(__file__).parent),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpus": usable_processors(),
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": gpu,
        "processes": world_size,
    }


def describe_installation() -> dict[str, str]:
    """Python, system, processor, packages that are installed, and settings of this library in the environment, as a
    report of a bug needs them: without names of the machine, of its user or of folders."""
    threads = f"{torch.get_num_threads()} threads on {usable_processors()} of {os.cpu_count()} processors"
    packages = (f"{name} {version}" for name in (*_PACKAGES, *_OPTIONAL) if (version := package_version(name)))
    settings = (f"{name}={value}" for name, value in sorted(os.environ.items()) if name in _SETTINGS)
    return {
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": f"{cpu_name()}; {threads}",
        "packages": ", ".join(packages),
        "environment": ", ".join(settings) or "no settings",
    }


def package_version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the package's sources, and whether files differ from it; None if they are not under git."""
    options = {"cwd": folder, "capture_output": True, "text": True, "timeout": 10, "check": True}
    asked = ("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", ".")
    try:
        commit, changes = (subprocess.run(["git", *arguments], **options).stdout for arguments in asked)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed": bool(changes.strip())}


def cpu_name() -> str:
    """The model of the processor as the system names it, or else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def usable_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
