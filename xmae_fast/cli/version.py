"""`xmae-fast --version`: what is installed here, a line each."""

from __future__ import annotations

import argparse


class Version(argparse.Action):
    """Print `describe_versions` and exit. The text is made only then, because finding it out takes time."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(describe_versions())
        parser.exit()


def describe_versions() -> str:
    """Versions of the package and of torch, the instruction sets of the CPU kernels, CUDA and the GPUs; a line each."""
    import torch

    from xmae_fast import __version__
    from xmae_fast.backend import cpu_kernels, cpu_reason
    from xmae_fast.backend.explaining import describe_bfloat16

    reason = cpu_reason()
    lines = {
        "xmae_fast": __version__,
        "torch": torch.__version__,
        "CPU kernels": f"none, because {reason}" if reason else cpu_kernels(),
        "CPU kernels in bfloat16": describe_bfloat16(),
        "CUDA": _cuda(torch),
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _cuda(torch) -> str:
    if torch.version.cuda is None:
        return "none, because this torch was built without CUDA"
    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(count)) or "no GPU"
    return f"{torch.version.cuda}, {names}"
