"""Files of weights as nested dictionaries: torch, safetensors, and indexes of several files. No code in them is run."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xmae_fast.model.storage.errors import CheckpointError, first_line, in_a_row
from xmae_fast.model.storage.stand_ins import DAMAGES, StandIn, foreign_names, load_with_stand_ins

CFG_KEY = "xmae_fast_cfg"  # in a safetensors file's metadata and at the top of our own torch checkpoints
_INDEX = ".index.json"
_TRUST = "runs code that the file brings along: only if you trust where it is from"
_THEN = "Then load_checkpoint('weights.ckpt', cfg)."
_STARTS = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself; 'git lfs pull' fetches that",
    b"\x89HDF": "it is an HDF5 file",
    b"\x1f\x8b": "it is compressed by gzip",
    b"<": "it is a page of HTML or XML, perhaps of a failed download",
}


def read_file(path: Path) -> dict[Any, Any]:
    """The content of a file of weights, on the CPU; a configuration in safetensors metadata comes under CFG_KEY.

    Raises:
        FileNotFoundError: no such file, or a folder. CheckpointError: empty, truncated, foreign, or not a dictionary.
    """
    if not path.is_file():
        found = f"is a folder{_hint_of_folder(path)}" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"path: expected a checkpoint file, got {str(path)!r}, which {found}")
    if path.name.endswith(_INDEX):
        return _read_index(path)
    return _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)


def _hint_of_folder(path: Path) -> str:
    names = {entry.name for entry in path.iterdir()}
    if ".metadata" in names:
        command = f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.ckpt"
        return f" of torch.distributed.checkpoint; one file comes from it by: {command}"
    if "zero_to_fp32.py" in names or "latest" in names or (path / "checkpoint").is_dir():
        return f" of DeepSpeed; one file comes from it by: python {path / 'zero_to_fp32.py'} {path} weights.ckpt"
    files = sorted(name for name in names if name.endswith((_INDEX, ".safetensors", ".ckpt", ".pt", ".pth", ".bin")))
    if "model.safetensors" in names or (path / "checkpoints" / "best.ckpt").is_file():
        return f"; from_pretrained({str(path)!r}) reads folders"
    return f"; it holds {in_a_row(files)}" if files else ""


def _is_safetensors(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError) as error:
        why = f"{_foreign(path)}; {first_line(error)}"
        raise CheckpointError(f"{path}: expected a safetensors file, but it is truncated or foreign: {why}") from error
    return content | ({CFG_KEY: metadata[CFG_KEY]} if CFG_KEY in metadata else {})


def _read_index(path: Path) -> dict[str, Any]:
    """Weights in several files beside `path`, which names the file of each key under "weight_map"."""
    try:
        files = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in files if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = "expected an index of weights in several files, JSON with 'weight_map'"
        raise CheckpointError(f"{path}: {expected}, but it is truncated or foreign: {error!r}") from error
    if outside:
        raise CheckpointError(f"{path}: expected names of files beside it under 'weight_map', got {outside[0]!r}")
    content: dict[str, Any] = {}
    for name in files:
        if not (path.parent / name).is_file():
            raise CheckpointError(f"{path}: expected the {len(files)} files that it names beside it, {name} is missing")
        content |= read_file(path.parent / name)
    return content


def _read_torch(path: Path) -> dict[Any, Any]:
    with path.open("rb") as file:
        if file.read(1) not in (b"P", b"\x80"):  # a zip archive, or the pickle of old versions
            expected = "expected a torch or safetensors checkpoint, but it is truncated or foreign"
            raise CheckpointError(f"{path}: {expected}: {_foreign(path)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        content = _load_foreign(path, error)
    except DAMAGES as error:
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: expected a checkpoint of tensors, got an archive of TorchScript; reading it {_TRUST}:\n"
                f"  torch.save({{'state_dict': torch.jit.load({str(path)!r}).state_dict()}}, 'weights.ckpt')\n{_THEN}"
            ) from error
        raise CheckpointError(
            f"{path}: expected a torch checkpoint, but it is truncated or foreign: {first_line(error)}"
        ) from error
    _refuse_modules(path, content)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a dictionary, got {_kind(content)}")
    return dict(content)


def _load_foreign(path: Path, refusal: pickle.UnpicklingError) -> Any:
    """The content with stand-ins for objects of foreign classes; an error with the exact call where that fails."""
    names, reason = foreign_names(path), refusal
    if names:
        try:
            return load_with_stand_ins(path, names)
        except (pickle.UnpicklingError, *DAMAGES) as error:
            reason = error
    if any(name.startswith("torch.distributed.") for name in names):
        raise CheckpointError(
            f"{path}: expected whole tensors, got parts of them ({in_a_row(names)}); where it was saved, take\n"
            "  torch.distributed.checkpoint.state_dict.get_model_state_dict(model, options=StateDictOptions("
            "full_state_dict=True, cpu_offload=True))"
        ) from reason
    raise CheckpointError(
        f"{path}: expected a checkpoint of tensors and plain values; it is truncated, foreign, or holds objects that "
        f"cannot be read without running code ({in_a_row(names) or _reason(reason)}). Reading them {_TRUST}:\n"
        f"  content = torch.load({str(path)!r}, map_location='cpu', weights_only=False)\n"
        f"  torch.save({{'state_dict': content['state_dict']}}, 'weights.ckpt')  # or the key of its weights\n{_THEN}"
    ) from reason


def _refuse_modules(path: Path, content: Any) -> None:
    """Raise where whole modules were saved, `torch.save(model, path)`, and no weights beside them."""
    places = {"": content} if isinstance(content, StandIn) else content if isinstance(content, Mapping) else {}
    for key, value in places.items():
        if isinstance(value, StandIn) and isinstance(value.state, Mapping) and "_modules" in value.state:
            if any(isinstance(other, Mapping) and _has_tensors(other) for other in places.values()):
                continue
            index = f"[{key!r}]" if key else ""
            raise CheckpointError(
                f"{path}: expected a dictionary of tensors, got a whole module ({value.name}), as by "
                f"torch.save(model, ...). Reading it {_TRUST}, and where that class can be imported:\n"
                f"  module = torch.load({str(path)!r}, map_location='cpu', weights_only=False){index}\n"
                f"  torch.save({{'state_dict': module.state_dict()}}, 'weights.ckpt')\n{_THEN}"
            )


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in content.values())


def _kind(content: Any) -> str:
    return content.name if isinstance(content, StandIn) else type(content).__name__


def _foreign(path: Path) -> str:
    """A description of a foreign file from its first bytes."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "it is empty"
    known = [what for start, what in _STARTS.items() if head.lstrip().startswith(start)]
    return known[0] if known else f"it begins with {head[:12]!r}"


def _reason(error: Exception) -> str:
    """The class that torch refused, or the sentence of its long message that names another reason."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return found.group(1)
    return first_line(Exception(str(error).partition("WeightsUnpickler error:")[2] or str(error)))
