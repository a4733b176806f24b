"""What the source archive and the wheel hold, what an isolated build asks for, and how wheels are put together."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from csrc import choosing, pip_hooks, wheels
from csrc.building import reader_name
from xmae_fast._version import __version__

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "benchmarks", "csrc", "docs", "examples", "tests", "xmae_fast")
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "pyproject.toml",
          "setup.py", ".clang-format", ".pre-commit-config.yaml")  # fmt: skip
NOT_SOURCES = ("__pycache__", "*.so", "*.py[cod]", ".*cache*", "*.egg-info")


def sources(*folders: str, root: Path = ROOT) -> set[str]:
    """Files below these folders, without what was built or cached."""
    return {
        str(path.relative_to(root))
        for folder in folders
        for path in (root / folder).rglob("*")
        if path.is_file() and not any(part.match(skip) for part in (path, *path.parents) for skip in NOT_SOURCES)
    }


def setup_py(folder: Path, *arguments: str, **env: str) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=folder, env=os.environ | {"XMAE_FAST_BUILD": "none"} | env, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """What the source archive holds, made of a copy of the sources."""
    place = tmp_path_factory.mktemp("sdist")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, place / "tree" / name, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    for name in BESIDE:
        shutil.copy(ROOT / name, place / "tree" / name)
    (place / "tree" / "xmae_fast" / "_C_cpu.so").write_bytes(b"built")
    setup_py(place / "tree", "sdist")
    with tarfile.open(place / "tree" / "dist" / f"xmae_fast-{__version__}.tar.gz") as packed:
        packed.extractall(place, filter="data")
    return place / f"xmae_fast-{__version__}"


def test_the_source_archive_holds_all_sources(unpacked):
    expected = sources(*FOLDERS) | set(BESIDE)
    assert len(expected) > 600
    there = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert expected - there == set()
    assert {name for name in there - expected if "egg-info" not in name} <= {"PKG-INFO", "setup.cfg", ".gitignore"}


@pytest.fixture(scope="module")
def wheel(unpacked) -> zipfile.ZipFile:
    """The wheel without kernels that is built of the source archive."""
    setup_py(unpacked, "bdist_wheel")
    return zipfile.ZipFile(unpacked / "dist" / f"xmae_fast-{__version__}-py3-none-any.whl")


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == sources("xmae_fast")
    for needed in (
        "py.typed",
        "configs/xmae_small.yaml",
        "shipped/xmae-sim-base/model.safetensors",
        "data/__init__.pyi",
    ):
        assert f"xmae_fast/{needed}" in names


def test_metadata(wheel):
    about = email.message_from_bytes(wheel.read(f"xmae_fast-{__version__}.dist-info/METADATA"))
    assert about["Version"] == __version__
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"] == "Apache-2.0"
    classifiers = about.get_all("Classifier")
    for minor in range(wheels.OLDEST[1], wheels.NEWEST[1] + 1):  # those that wheels are built for
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert not [need for need in about.get_all("Requires-Dist") if need.startswith("numpy") and "<" in need]


def test_a_wheel_of_prebuilt_parts_holds_them(unpacked, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("_C_cpu.so", reader_name(), "_C_io.cpython-399.so"):
        (parts / name).write_bytes(name.encode())
    out = tmp_path / "out"
    build = ("build", "--build-base", str(tmp_path / "build"), "bdist_wheel", "--dist-dir", str(out))
    setup_py(unpacked, *build, XMAE_FAST_BUILD="cpu", XMAE_FAST_PREBUILT=str(parts))
    [made] = out.glob("*.whl")
    assert f"cp{sys.version_info[0]}{sys.version_info[1]}-" in made.name
    with zipfile.ZipFile(made) as packed:
        built = {name: packed.read(name) for name in packed.namelist() if name.endswith(".so")}
    assert built == {f"xmae_fast/{name}": name.encode() for name in ("_C_cpu.so", reader_name())}
    (parts / "_C_cpu.so").unlink()
    with pytest.raises(AssertionError, match=r"XMAE_FAST_PREBUILT: expected _C_cpu.so in .*parts, found none"):
        setup_py(unpacked, *build, XMAE_FAST_BUILD="cpu", XMAE_FAST_PREBUILT=str(parts))


def test_an_isolated_build_asks_for_torch_where_kernels_are_built(monkeypatch):
    monkeypatch.delenv("XMAE_FAST_PREBUILT", raising=False)
    monkeypatch.setenv("XMAE_FAST_BUILD", "none")
    assert pip_hooks._needed() == []
    monkeypatch.setenv("XMAE_FAST_BUILD", "auto")
    monkeypatch.setattr(choosing.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert pip_hooks._needed() == ["torch>=2.11,<3", "ninja"]
    monkeypatch.setattr(choosing.shutil, "which", lambda name: None)
    with pytest.raises(
        SystemExit, match=r"no C\+\+ compiler was found .* or set XMAE_FAST_BUILD=none in the environment"
    ):
        pip_hooks._needed()  # before torch is fetched
    monkeypatch.setenv("XMAE_FAST_PREBUILT", "parts")
    assert pip_hooks._needed() == []


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (None, "no torch is installed to build with"),
        ("2.10.0+cpu", "torch 2.10.0.cpu is too old to build with"),
        ("1.13.1", "torch 1.13.1 is too old"),
        ("2.11.0", ""),
        ("2.13.0+cpu", ""),
        ("3.0", ""),
    ],
)
def test_a_torch_that_cannot_be_built_with_is_named(monkeypatch, version, message):
    def installed(name: str) -> str:
        if version is None:
            raise choosing.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(choosing.importlib.metadata, "version", installed)
    why = choosing.missing_torch()
    assert bool(why) == bool(message)
    if message:
        with pytest.raises(SystemExit, match=rf"cannot be built, because {message}.* leave out --no-build-isolation"):
            choosing.refuse("auto", why)


def test_pythons_are_found_and_missing_ones_are_named(tmp_path):
    found, missing = wheels.find([sys.executable, "python3.99", str(tmp_path / "python3.12")])
    assert [one.version for one in found] == [sys.version_info[:2]]
    assert missing[0] == "python3.99: not found on PATH or in pyenv"
    assert "python3.12 cannot be run: No such file" in missing[1]
    (tmp_path / "old").write_text('#!/bin/sh\necho \'[[3, 9], "/x", true, ".so", true]\'\n')
    (tmp_path / "bare").write_text('#!/bin/sh\necho \'[[3, 12], "/x", false, ".so", true]\'\n')
    for name, why in (("old", "is Python 3.9, older than 3.11"), ("bare", "has no headers (/x/Python.h)")):
        (tmp_path / name).chmod(0o755)
        assert wheels.look_at(str(tmp_path / name)) == f"{tmp_path / name} {why}"
