"""The Hugging Face Hub: folders go there and come from there. It needs huggingface_hub, imported when first used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from xmae_fast._optional import need
from xmae_fast._shipped import pretrained_models

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_repo_id(repo_id: str) -> None:
    """Raise ValueError unless `repo_id` has the form "owner/name"."""
    if not _HUB_ID.fullmatch(repo_id):
        raise ValueError(f"repo_id: expected 'owner/name', got {repo_id!r}")


def download(hub_id: str, files: list[str], options: dict[str, Any]) -> Path:
    """The folder on disk with those of `files` that the Hub has under `hub_id`. options: of `snapshot_download`.

    Raises:
        FileNotFoundError: `hub_id` has another form, or nothing on the Hub has that name.
        ImportError: huggingface_hub is missing.
    """
    if not _HUB_ID.fullmatch(hub_id):
        models = " or ".join(map(repr, pretrained_models()))
        own = f"{models} of this package, " if models else ""
        expected = f"a folder, a checkpoint file, {own}or 'owner/name' on the Hugging Face Hub"
        raise FileNotFoundError(f"path_or_hub_id: expected {expected}, {hub_id!r} does not exist")
    library = import_hub(f"path_or_hub_id: {hub_id!r} does not exist here; from the Hugging Face Hub it")
    try:
        return Path(library.snapshot_download(hub_id, allow_patterns=files, **options))
    except (library.errors.RepositoryNotFoundError, library.errors.LocalEntryNotFoundError) as error:
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"path_or_hub_id: {hub_id!r} is neither on disk nor to be had: {reason}") from error


def import_hub(what: str = "The Hugging Face Hub"):
    """The package huggingface_hub; ImportError, which says that `what` needs it, where it is missing."""
    library = need("huggingface_hub", f"{what} needs", "hub")
    need("huggingface_hub.errors", f"{what} needs", "hub")
    return library
