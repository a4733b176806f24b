"""Reading and writing checkpoints: Lightning, flat and safetensors forms; strict, atomic, no code executed."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmae_fast.atomic import atomic_path
from xmae_fast.config import ModelCfg, cfg_from_dict
from xmae_fast.model.xmae import xMAE
from xmae_fast.written import check_replaceable

PREFIX = "model."
CFG_KEY = "xmae_fast_cfg"  # in a safetensors file's metadata and at the top of our own torch checkpoints
_SHOWN_KEYS = 12


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit; the message names the file and what is wrong."""


def save_checkpoint(model: xMAE, path: str | os.PathLike[str]) -> None:
    """Write weights, statistics and configuration to one file; `load_checkpoint(path)` gives the model back.

    Args:
        model: what to save.
        path: ends in ".safetensors" for safetensors (keys as in the state dict); any other ending gives the published
            Lightning form (torch.save of {"state_dict": {"model.<key>": ...}}).

    Nothing is left half-written: the file appears under its name when it is complete, or not at all. A checkpoint that
    is there is replaced, any other file is not: FileExistsError.
    """
    if not isinstance(model, xMAE):
        raise TypeError(f"model: expected an xMAE, got {type(model).__name__}")
    path = Path(path)
    check_replaceable(path, _is_checkpoint, "a checkpoint", "path")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    cfg = json.dumps(model.cfg.to_dict())
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, temporary, metadata={CFG_KEY: cfg, "format": "pt"})
        else:
            torch.save({"state_dict": {PREFIX + key: value for key, value in state.items()}, CFG_KEY: cfg}, temporary)


def _is_checkpoint(path: Path) -> bool:
    """Whether a file looks like one of torch.save or of safetensors."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith(b"\x80\x02") or start[8:] == b"{"


def load_checkpoint(
    path: str | os.PathLike[str], cfg: ModelCfg | Mapping[str, Any] | None = None, impl: str = "auto"
) -> xMAE:
    """A model from a checkpoint file, in evaluation mode, on the CPU, in the dtype that was saved.

    Args:
        path: a Lightning checkpoint ({"state_dict": {"model.<key>": ...}}), a flat dictionary of such keys (with or
            without "model."), or a safetensors file. Read with `weights_only=True`: no code in it is run.
        cfg: ModelCfg or the dictionary form; may be None where the file holds its configuration.
        impl: as for xMAE.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: truncated or foreign file, no configuration, or keys or shapes that do not match (listed).
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"path: expected a checkpoint file, got {str(path)!r}, which {found}")
    state, stored_cfg = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    if cfg is None:
        if stored_cfg is None:
            raise CheckpointError(f"cfg: expected a configuration, because {path.name} does not hold one, got None")
        cfg = stored_cfg
    model = xMAE(cfg if isinstance(cfg, ModelCfg) else cfg_from_dict(cfg), impl=impl)
    _check_fit(path, state, model.state_dict())
    model.to(state["mask_token"].dtype).load_state_dict(state)
    return model.eval()


def _is_safetensors(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file, but it is truncated or foreign: {error}"
        ) from error
    return _strip_prefix(state), _parse_cfg(path, metadata.get(CFG_KEY))


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    with path.open("rb") as file:
        if file.read(1) not in (b"P", b"\x80"):  # a zip archive, or the pickle of old versions
            raise CheckpointError(f"{path}: expected a torch or safetensors checkpoint, but it is truncated or foreign")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint of tensors and plain values; it is foreign or holds objects that would run "
            f"code when loaded ({_refused(error)}); save its 'state_dict' alone, or without them"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, LookupError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: expected a torch checkpoint, but it is truncated or foreign: {_first_line(error)}"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary, got {type(content).__name__}")
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary under 'state_dict', got {type(state).__name__}")
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path}: expected tensors under 'state_dict' or at the top, got keys {list(content)[:_SHOWN_KEYS]}"
        )
    return _strip_prefix(tensors), _parse_cfg(path, content.get(CFG_KEY))


def _strip_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the prefix of Lightning and that of torch.compile."""
    return {key.removeprefix(PREFIX).removeprefix("_orig_mod."): value for key, value in state.items()}


def _parse_cfg(path: Path, text: object) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: expected JSON under {CFG_KEY!r}, got {text!r}") from error


def _check_fit(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    problems = [f"missing {key}" for key in wanted if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in wanted]
    problems += [
        f"{key}: expected shape {list(wanted[key].shape)}, got {list(value.shape)}"
        for key, value in state.items()
        if key in wanted and wanted[key].shape != value.shape
    ]
    if problems:
        shown = "\n  ".join(problems[:_SHOWN_KEYS])
        more = f"\n  ... and {len(problems) - _SHOWN_KEYS} more" if len(problems) > _SHOWN_KEYS else ""
        raise CheckpointError(f"{path}: {len(problems)} keys do not fit the configuration:\n  {shown}{more}")


def _refused(error: Exception) -> str:
    """The class that `weights_only=True` refused, where torch names it."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return found.group(1) if found else "torch does not say which"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
