"""The training configurations that come with the package, which go by name."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "configs"


def config_names() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def config_path(config: str | os.PathLike[str]) -> Path:
    """The file of a configuration.

    Args:
        config: a YAML file; or the name of a configuration of this package, such as "xmae_small". What is on disk comes
            first. `configs/xmae_small.yaml`, as the file was once found in the sources, means the name too.

    Raises:
        FileNotFoundError: neither; the message lists the names.
    """
    path, names = Path(config), config_names()
    if path.is_file():
        return path
    name = path.stem if path.parent.name == "configs" and path.suffix == ".yaml" else str(config)
    if name in names:
        return FOLDER / f"{name}.yaml"
    raise FileNotFoundError(
        f"config: expected a YAML file, or {', '.join(map(repr, names))} of this package, got {str(config)!r}, which "
        + ("is a folder" if path.is_dir() else "does not exist")
    )
