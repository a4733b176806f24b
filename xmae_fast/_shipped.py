"""The pretrained models that come with the package: their names, files and checksums."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MODEL = "xmae-sim-base"
"""The model that is used where none is named."""

ABOUT = "shipped.json"
_FOLDER = Path(__file__).parent / "shipped"


class DamagedModelError(ValueError):
    """A file of a model that comes with the package is missing, or is not the one that was shipped."""


@dataclass(frozen=True)
class PretrainedModel:
    """A model that comes with the package.

    Attributes:
        name: which `from_pretrained` takes.
        summary: what it is, in a sentence.
        parameters: how many it has.
        bytes: of its files.
        folder: of its weights, configuration, recipe and model card (README.md).
    """

    name: str
    summary: str
    parameters: int
    bytes: int
    folder: Path

    @property
    def card(self) -> str:
        """The model card, in Markdown: what the model was trained on, what it can do and what it cannot."""
        return (self.folder / "README.md").read_text(encoding="utf-8")


def pretrained_models() -> dict[str, PretrainedModel]:
    """The models that come with the package, by name; `from_pretrained` loads them without a network."""
    found = {}
    for path in sorted(_FOLDER.glob(f"*/{ABOUT}")):
        about = json.loads(path.read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
        name = path.parent.name
        found[name] = PretrainedModel(name, about["summary"], about["parameters"], size, path.parent)
    return found


def shipped_folder(name: str) -> Path | None:
    """The folder of a model that comes with the package, after a check of its files; None for another name.

    Raises:
        DamagedModelError: a file is missing or damaged; the message names it.
    """
    folder = _FOLDER / name
    if not name or Path(name).name != name or not (folder / ABOUT).is_file():
        return None
    for file, expected in json.loads((folder / ABOUT).read_text(encoding="utf-8"))["sha256"].items():
        again = "install xmae-fast again"
        if not (folder / file).is_file():
            raise DamagedModelError(f"{name}: {folder / file} is missing: {again}")
        got = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        if got != expected:
            found = f"expected sha256 {expected[:12]}..., got {got[:12]}..."
            raise DamagedModelError(f"{name}: {folder / file} is damaged ({found}): {again}")
    return folder
