"""One thing that is to be found out on a GPU, in a process of its own, which may fail, hang or die of it.

    python -m benchmarks.gpu.probe operator conv_stem triton bfloat16
    python -m benchmarks.gpu.probe machine | stems | warm 0 6 | step | embedding

Lines that begin with "@ " are for people, the line that begins with "@@ " holds the numbers as JSON; all others are
for the log. `warm I N` compiles every N-th Triton kernel of a training step and an embedding for this GPU, so that
several processes fill Triton's cache at the same time. Exit code: 1 wrong or failed, 2 no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.choosing import add_choices, apply_choices
from benchmarks.harness.contest import culprit

SHOWN, NUMBERS = "@ ", "@@ "
MOST_OF_A_MESSAGE = 160


class Wrong(Exception):
    """Results are out of bounds; the message is for people."""


def say(text: str) -> None:
    print(f"{SHOWN}{text}", flush=True)


def tell(**numbers: Any) -> None:
    print(NUMBERS + json.dumps(numbers), flush=True)


def short(error: BaseException) -> str:
    """An error in one line: the launch that it comes from, if it comes from one, its type and its message."""
    message = " ".join(str(error).split())
    if len(message) > MOST_OF_A_MESSAGE:  # the reason stands at the end of a compiler's message
        message = f"{message[: MOST_OF_A_MESSAGE // 3]} ... {message[-2 * MOST_OF_A_MESSAGE // 3 :]}"
    launch = culprit(error)
    return f"{f'in {launch}: ' if launch else ''}{type(error).__name__}: {message}"


def trace_into(path: Path) -> None:
    """Write each launch of a Triton kernel into a file before it happens: its last line names a culprit."""
    from xmae_fast.ops import _launch

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _launch.trace_launches(lambda launch: os.write(file, f"{launch}\n".encode()))


def machine(options: argparse.Namespace) -> None:
    """Versions and what impl="auto" takes."""
    import importlib.metadata

    import xmae_fast
    from xmae_fast import backend

    versions = {}
    for name in ("torch", "triton", "numpy", "setuptools"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else "rehearsal without a GPU"
    auto: dict[str, list[str]] = {}
    for op in backend.OPS:
        auto.setdefault(backend.resolve(op, "auto", torch.device(options.device)), []).append(op)
    say(f"{gpu}, Python {sys.version.split()[0]}, {', '.join(f'{name} {value}' for name, value in versions.items())}")
    fields = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit"
    if smi := shutil.which("nvidia-smi"):
        query = [smi, f"--query-gpu={fields}", "--format=csv,noheader"]
        told = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
        say(f"nvidia-smi ({fields}): {told}")
    say("auto takes " + "; ".join(f"{impl}: {', '.join(ops)}" for impl, ops in auto.items()))
    tell(gpu=gpu, versions=versions, auto=auto, explained=xmae_fast.explain(device=options.device))


def operator(options: argparse.Namespace) -> None:
    """Forward and backward of one case of an operator against float64."""
    from benchmarks.gpu.cases import case_of
    from xmae_fast.testing import check_op

    op, impl, dtype = options.words
    began = time.monotonic()
    cases, case, run = case_of(op, impl, "reference" if options.rehearse else impl)
    errors = check_op(cases, case, run, dtype=getattr(torch, dtype), device=options.device)
    worst = max(errors, key=lambda one: one.error / one.bound if one.bound else one.error)
    about = "equal bit for bit" if cases.exact else f"{worst.error:.1e} of {worst.bound:.1e} allowed ({worst.name})"
    seconds, launches = time.monotonic() - began, launches_by(options)
    launched = f", Triton launches: {launches}" if launches else ""
    say(f"right: {about}; {case.name}; {seconds:.0f} s with compilation{launched}")
    tell(error=worst.error, bound=worst.bound, seconds=seconds, **({"launches": launches} if launches else {}))


def launches_by(options: argparse.Namespace) -> int:
    """Triton's launches of this process so far, if it traces them."""
    path = options.trace
    return len(path.read_text().splitlines()) if path is not None and path.exists() else 0


def warm(options: argparse.Namespace) -> None:
    """Compile part of the kernels of a training step and an embedding at the published sizes."""
    from benchmarks.gpu.warm import launches_of_part, warm_up, words_of

    part, parts = map(int, options.words)
    began, capability = time.monotonic(), torch.cuda.get_device_capability()
    launches = launches_of_part(part, parts, capability, options.batch, torch.bfloat16)

    def fails(launch: Any) -> bool:
        try:
            warm_up(launch)
        except Exception as error:  # compilers raise anything; the others are still wanted
            print(f"does not compile: {words_of(launch)}: {short(error)}", flush=True)
            bad.append(f"{words_of(launch)}: {short(error)}")
            return True
        return False

    bad: list[str] = []
    failed = sum(map(fails, launches))
    if bad:
        say(f"does not compile: {failed} of {len(launches)}, first {bad[0]}")
    tell(kernels=len(launches), failed=failed, seconds=time.monotonic() - began)
    if failed:
        raise Wrong


@contextlib.contextmanager
def alone(options: argparse.Namespace) -> Iterator[None]:
    """Within it no other process that asks for the same is at work on the GPU."""
    if options.lock is None:
        yield
        return
    with open(options.lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def step(options: argparse.Namespace) -> None:
    """A training step against the plain model's."""
    from benchmarks.gpu.whole import training_step

    with alone(options):
        training_step(options, say, tell)


def embedding(options: argparse.Namespace) -> None:
    """An embedding against the plain model's."""
    from benchmarks.gpu.whole import embedding as embed

    with alone(options):
        embed(options, say, tell)


WORKS = {"machine": machine, "operator": operator, "warm": warm, "step": step, "embedding": embedding}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("words", nargs="*", help="of operator: its name, an implementation and a dtype; of warm: I N")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--trace", type=Path, help="write each launch here before it happens")
    parser.add_argument("--lock", type=Path, help="a file that processes lock while they are timed")
    parser.add_argument("--rehearse", type=Path, help=argparse.SUPPRESS)  # without a GPU; a script that runs first
    add_choices(parser)
    options = parser.parse_args(arguments)
    options.device = "cpu" if options.rehearse else "cuda"
    if not options.rehearse and not torch.cuda.is_available():
        say("no GPU: torch finds no CUDA device")
        return 2
    try:
        if options.trace is not None:
            trace_into(options.trace)
        apply_choices(options)
        if options.rehearse:
            runpy.run_path(str(options.rehearse))
        WORKS[options.work](options)
    except Wrong:
        return 1
    except AssertionError as error:
        traceback.print_exc()
        say(f"WRONG: {short(error)}")
        return 1
    except Exception as error:
        traceback.print_exc()
        say(f"FAILED: {short(error)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
