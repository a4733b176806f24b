"""The compiled parts, built by the compilers' own commands, all files at the same time; no setuptools.

    python -m benchmarks.gpu.build [--only cuda,cpu,io] [--prebuilt DIR]

A library that lies in xmae_fast/, or in --prebuilt DIR, is taken as it is where it loads and has this version's
operators: _C_cpu.so and _C_cuda.so built anywhere serve every Python from 3.11 on and every torch from 2.11 on (stable
ABI), the reader _C_io serves the Python that it was built with. A part that cannot be built is named with the reason,
and the others are built all the same. Exit code 1: a part is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from csrc.building import EVERY_GPU, HOPPER, Commands, cpu_commands, cuda_commands, reader_commands, reader_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "xmae_fast"
PARTS = ("cuda", "cpu", "io")
NVCC_ELSEWHERE = "/usr/local/cuda/bin/nvcc"  # where it is not on PATH
COMPILE_LIMIT_S = 240
# Why each part cannot be used, '' where it can; run in a process of its own, as a library cannot be loaded twice.
STATE = """
import json, torch, xmae_fast
from xmae_fast import backend
from xmae_fast.backend import registry
said = {impl: next((why for op in backend.OPS if registry.has(op, impl)
                    and (why := backend.available()[op][impl].reason)), "") for impl in ("cpu", "cuda")}
try:
    import xmae_fast._C_io
    said["io"] = ""
except ImportError as error:
    said["io"] = str(error)
print(json.dumps(said))
"""


def find_nvcc() -> str:
    """nvcc: what $NVCC names, the one on PATH, or the one in CUDA's usual folder; '' if there is none."""
    found = shutil.which(os.environ.get("NVCC", "nvcc"))
    return found or (NVCC_ELSEWHERE if Path(NVCC_ELSEWHERE).exists() else "")


def find_compiler() -> str:
    """The C++ compiler, '' if there is none."""
    wanted = os.environ.get("CXX", "c++")
    return wanted if shutil.which(wanted.split()[0]) else (shutil.which("g++") or "")


def gpus() -> str:
    """nvcc's option for the GPU of this machine, or for all GPUs where it is no Hopper."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return EVERY_GPU
    query = [smi, "--query-gpu=compute_cap", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30).stdout.split()
    return HOPPER if found and set(found) == {"9.0"} else EVERY_GPU


def file_of(part: str) -> str:
    """Name of a part's library."""
    return reader_name() if part == "io" else f"_C_{part}.so"


def state() -> dict[str, str]:
    """Why each part of the package cannot be used by this Python and torch, '' where it can."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", STATE], capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
        timeout=120,
    )  # fmt: skip
    if done.returncode:
        return dict.fromkeys(PARTS, f"xmae_fast cannot be imported: {last_line(done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])


def take(parts: Iterable[str], folder: Path, say: Callable[[str], None]) -> None:
    """Copy the libraries of `parts` from `folder` into the package; those that do not fit are removed again."""
    copied = [part for part in parts if (folder / file_of(part)).is_file()]
    for part in copied:
        put(folder / file_of(part), PACKAGE / file_of(part))
    found = state() if copied else {}
    for part in copied:
        said = "taken as it is" if not found[part] else f"does not fit: {found[part]}"
        say(f"{file_of(part)} of {folder}: {said}")
        if found[part]:
            (PACKAGE / file_of(part)).unlink(missing_ok=True)


def put(source: Path, target: Path) -> None:
    """Copy a library to where a process may have the old one loaded."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def commands_of(part: str, folder: Path) -> Commands | str:
    """How a part is built in `folder`, or why it cannot be built."""
    tool = find_nvcc() if part == "cuda" else find_compiler()
    if not tool:
        return "no CUDA compiler was found (looked for nvcc)" if part == "cuda" else "no C++ compiler was found"
    if part == "cuda":
        return cuda_commands(folder, tool, gpus())
    return cpu_commands(folder, tool) if part == "cpu" else reader_commands(folder, tool)


def build(parts: Iterable[str], say: Callable[[str], None]) -> dict[str, str]:
    """Compile and link all parts at the same time; why each of them is not in the package now, '' where it is."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        began, failed = time.monotonic(), {}
        commands = {part: commands_of(part, Path(folder)) for part in parts}
        waiting = {
            part: [pool.submit(_run, command) for _, command in made.compile]
            for part, made in commands.items()
            if isinstance(made, Commands)
        }
        for part, made in commands.items():
            if isinstance(made, str):
                failed[part] = made
                continue
            problems = [problem for one in waiting[part] if (problem := one.result())] or [_run(made.link)]
            failed[part] = problems[0]
            if not problems[0]:
                put(made.library, PACKAGE / made.library.name)
            say(f"{made.library.name}: {problems[0] or f'built after {time.monotonic() - began:.0f} s'}")
    return failed


def _run(command: list[str]) -> str:
    """The first error of a command, '' if it has none."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=COMPILE_LIMIT_S, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} was stopped after {COMPILE_LIMIT_S} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    said = (done.stderr + done.stdout).splitlines()
    first = next((line for line in said if "error" in line.lower()), said[-1] if said else "")
    return f"{Path(command[0]).name} failed (exit code {done.returncode}): {first[:300]}"


def last_line(text: str) -> str:
    """The last line that says something, cut to 300 characters."""
    return next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "nothing was said")


def provide(parts: Iterable[str], prebuilt: Path | None, say: Callable[[str], None]) -> dict[str, str]:
    """See to it that the parts are in the package; why each of them is not, '' where it is."""
    parts = list(parts)
    found = state() if any((PACKAGE / file_of(part)).exists() for part in parts) else dict.fromkeys(PARTS, "not there")
    missing = [part for part in parts if found[part]]
    for part in parts:
        if part not in missing:
            say(f"{file_of(part)}: is there and fits")
        elif found[part] != "not there":
            say(f"{file_of(part)}: {found[part]}")
    if missing and prebuilt is not None:
        take(missing, prebuilt, say)
        missing = [part for part in missing if not (PACKAGE / file_of(part)).exists()]
    failed = build(missing, say) if missing else {}
    if any(not why for why in failed.values()):
        after = state()
        failed = {part: why or after[part] for part, why in failed.items()}
    return dict.fromkeys(parts, "") | failed


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help="of cuda,cpu,io")
    parser.add_argument("--prebuilt", type=Path, metavar="DIR", help="libraries to take where they fit")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    failed = provide(options.only, options.prebuilt, lambda line: print(line, flush=True))
    for part, why in failed.items():
        if why:
            print(f"{file_of(part)} is missing: {why}", flush=True)
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
