"""Wheels of the project, with its kernels, for several Pythons: `make wheels`, `make wheel-cuda`.

    python -m csrc.wheels [--pythons P ...] [--out dist] [--prebuilt DIR] [--cuda] [--list]

Makes the source archive, unpacks it, and builds the wheels from what it holds. The operators are compiled once and
serve every Python from 3.11 on and every torch from 2.11 on (stable ABI of both); the reader of segments is compiled
for each Python. torch and setuptools are needed in the Python that runs this, headers (Python.h) and pip in the others.
auditwheel gives each wheel the oldest manylinux tag that it fits. torch's libraries are left out of the wheel, and no
OpenMP is linked: the kernels run on torch's threads, so that a process has one OpenMP, which torch brings.

--prebuilt DIR takes compiled parts of DIR (such as xmae_fast after `make build`) as they are where it has them.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from csrc.building import INCLUDE, ROOT, Commands, cpu_commands, cuda_commands, reader_commands, torch_folder
from csrc.choosing import OLDEST_TORCH

OLDEST = (3, 11)
NEWEST = (3, 13)
TORCH = ("torch", "torch_cpu", "torch_cuda", "torch_python", "c10", "c10_cuda")  # libraries that are torch's to bring
LOOK = """
import json, os, sys, sysconfig
include = sysconfig.get_paths()["include"]
try: import pip
except ImportError: pip = None
print(json.dumps([list(sys.version_info[:2]), include, os.path.exists(include + "/Python.h"),
                  sysconfig.get_config_var("EXT_SUFFIX"), pip is not None]))
"""


class Interpreter(NamedTuple):
    command: str
    version: tuple[int, int]
    include: str
    suffix: str


def look_at(command: str) -> Interpreter | str:
    """A Python, or why no wheel can be built for it."""
    try:
        done = subprocess.run([command, "-c", LOOK], capture_output=True, text=True, check=False, timeout=60)
    except OSError as error:
        return f"{command} cannot be run: {error.strerror}"
    if done.returncode:
        return f"{command} does not run"
    version, include, headers, suffix, pip = json.loads(done.stdout)
    if tuple(version) < OLDEST:
        return f"{command} is Python {version[0]}.{version[1]}, older than {OLDEST[0]}.{OLDEST[1]}"
    if not headers:
        return f"{command} has no headers ({include}/Python.h)"
    if not pip:
        return f"{command} has no pip"
    return Interpreter(command, tuple(version), include, suffix)


def candidates(name: str) -> list[str]:
    """Commands that may be the Python of this name: beside this Python, on PATH, and of pyenv (for python3.12)."""
    if os.sep in name:
        return [name]
    folders = [os.path.dirname(sys.executable), *os.environ.get("PATH", "").split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders += sorted(glob.glob(str(pyenv / f"{name.removeprefix('python')}.*" / "bin")))
    return [command for folder in folders if os.access(command := os.path.join(folder, name), os.X_OK)]


def find(asked: list[str]) -> tuple[list[Interpreter], list[str]]:
    """The Pythons to build for, one a version, and a sentence for each that is missing."""
    found, missing = [], []
    for name in asked or [f"python3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]:
        seen = [look_at(command) for command in candidates(name)]
        usable = [one for one in seen if isinstance(one, Interpreter)]
        if usable:
            found.append(usable[0])
        else:
            missing.append(f"{name}: {'; '.join(map(str, seen)) or 'not found on PATH or in pyenv'}")
    return found, missing


def run(command: list[str], **options) -> str:
    """Run a command; its output. SystemExit with the output where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nwheels: {' '.join(command[:6])} ... failed (exit code {done.returncode})")
    return done.stdout


def source_archive(out: Path) -> Path:
    """The source archive, in `out`."""
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar.gz")}
    with tempfile.TemporaryDirectory() as scratch:  # SOURCES.txt of an earlier build would name files that are gone
        run(
            [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", scratch, "sdist", "--dist-dir", str(out)],
            cwd=ROOT,
        )
    [made] = [path for path in out.glob("*.tar.gz") if before.get(path) != path.stat().st_mtime_ns]
    return made


def compile_parts(folder: Path, tree: Path, pythons: list[Interpreter], prebuilt: Path | None, cuda: bool) -> None:
    """Everything that is compiled, in `folder`, from the sources in `tree`; files at the same time."""
    compiler = os.environ.get("CXX", "c++")
    wanted: list[tuple[str, Commands]] = [("_C_cpu.so", cpu_commands(folder, compiler))]
    for one in pythons:
        name = f"_C_io{one.suffix}"
        wanted.append((name, reader_commands(folder, compiler, one.include, name)))
    if cuda:
        wanted.append(("_C_cuda.so", cuda_commands(folder, os.environ.get("NVCC", "nvcc"))))
    for name, _ in wanted:
        if prebuilt is not None and (prebuilt / name).is_file():
            shutil.copyfile(prebuilt / name, folder / name)
            print(f"{name}: taken from {prebuilt} as it is", flush=True)
    wanted = [(name, commands) for name, commands in wanted if not (folder / name).is_file()]
    # Paths are relative to the sources, so that no path of this machine is in what the kernels say.
    shorter = f"-ffile-prefix-map={torch_folder().parent}=."
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name, commands in wanted:
            more = [f"-Xcompiler={shorter}"] if name == "_C_cuda.so" else [shorter]
            steps = [[part.replace(INCLUDE, "csrc") for part in step] + more for _, step in commands.compile]
            list(pool.map(lambda step: run(step, cwd=tree), steps))
            run(commands.link, cwd=tree)
            print(f"{name}: built, {(folder / name).stat().st_size / 2**20:.1f} MiB", flush=True)


def wheel(one: Interpreter, archive: Path, parts: Path, out: Path, label: str) -> Path:
    """The wheel of one Python, with its manylinux tag."""
    environment = os.environ | {"XMAE_FAST_PREBUILT": str(parts), "XMAE_FAST_BUILD": "cuda" if label else "cpu"}
    options = [f"--config-settings=--build-option=--build-number={label}"] if label else []
    with tempfile.TemporaryDirectory() as raw:
        run(
            [one.command, "-m", "pip", "wheel", "--quiet", "--no-deps", *options, "-w", raw, str(archive)],
            env=environment,
        )
        [made] = Path(raw).glob("*.whl")
        exclude = [text for name in TORCH for text in ("--exclude", f"lib{name}.so")]
        tidy = Path(raw) / "tidy"
        said = run(["auditwheel", "repair", *exclude, "-w", str(tidy), str(made)])
        [repaired] = tidy.glob("*.whl")
        if re.search(r"Grafting", said):
            raise SystemExit(f"{said}\nwheels: expected no library to be copied into {repaired.name}")
        return Path(shutil.move(repaired, out / repaired.name))


def audit(library: Path) -> None:
    """SystemExit: the library of operators uses more of torch or Python than what is stable from the oldest ones on."""
    found = json.loads(run(["torch-abi-audit", "--check", "torch", "--json", str(library)]))
    [torch] = [one["torch"] for one in [*found["extensions"], *found["bundled_libs"]]]
    oldest = torch["min_torch_version"]
    if not torch["stable"] or tuple(map(int, oldest.split("."))) > (*OLDEST_TORCH, 0):
        raise SystemExit(f"wheels: {library.name}: expected stable symbols of torch {OLDEST_TORCH}, got {torch}")
    run(["abi3audit", "--strict", "--assume-minimum-abi3", ".".join(map(str, OLDEST)), str(library)])
    needed = needs(library)
    if any("omp" in name for name in needed):
        raise SystemExit(f"wheels: {library.name}: expected no OpenMP of its own beside torch's, got {needed}")
    print(f"{library.name}: stable symbols alone, of torch {oldest}; needs {', '.join(needed)}", flush=True)


def needs(library: Path) -> list[str]:
    """Libraries that one is linked to."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run(["readelf", "-d", str(library)]))


def finish_cuda(library: Path) -> None:
    """See to it that a torch with CUDA resolves all symbols of the library, whichever torch it was linked with.

    SystemExit: it needs libcudart, which a machine may have in another version than nvcc brought.
    """
    if "libtorch_cuda.so" not in needs(library):  # linked beside a torch without CUDA
        run(["patchelf", "--add-needed", "libtorch_cuda.so", str(library)])
    needed = needs(library)
    if any(name.startswith("libcudart") for name in needed):
        raise SystemExit(f"wheels: {library.name}: expected CUDA's runtime to be linked in, got {needed}")
    print(f"{library.name}: CUDA's runtime is linked in. Not yet run on a GPU.", flush=True)


def cuda_label(nvcc: str) -> str:
    """The build number of wheels with CUDA, by nvcc's release: 1cu130 for 13.0."""
    release = re.search(r"release (\d+)\.(\d+)", run([nvcc, "--version"]))
    if release is None:
        raise SystemExit(f"wheels: {nvcc} --version: expected a release, got none")
    return f"1cu{release[1]}{release[2]}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", nargs="+", default=[], metavar="P", help="commands; default: all that are found")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the wheels (default: dist)")
    parser.add_argument("--prebuilt", type=Path, metavar="DIR", help="compiled parts to take as they are")
    parser.add_argument("--cuda", action="store_true", help="with the CUDA C++ kernels too; needs nvcc")
    parser.add_argument("--list", action="store_true", help="say for which Pythons, and do nothing")
    options = parser.parse_args(arguments)
    pythons, missing = find(options.pythons)
    if options.list:
        print(*(one.command for one in pythons), sep="\n")
        return 0
    for tool in ("auditwheel", "patchelf", "torch-abi-audit", "abi3audit"):
        if shutil.which(tool) is None:
            raise SystemExit(f"wheels: {tool} is missing (pip install -r .ci/wheel-tools.txt)")
    for why in missing:
        print(f"no wheel: {why}", flush=True)
    if not pythons or (missing and options.pythons):
        return 1
    label = cuda_label(os.environ.get("NVCC", "nvcc")) if options.cuda else ""
    options.out.mkdir(parents=True, exist_ok=True)
    archive = source_archive(options.out.resolve())
    print(archive, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        [tree] = Path(folder).iterdir()
        parts = Path(folder) / "parts"
        parts.mkdir()
        compile_parts(parts, tree, pythons, options.prebuilt and options.prebuilt.resolve(), options.cuda)
        if options.cuda:
            finish_cuda(parts / "_C_cuda.so")
        for library in sorted(parts.glob("_C_c*.so")):
            audit(library)
        for one in pythons:
            print(wheel(one, archive, parts, options.out, label), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
