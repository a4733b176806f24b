"""Reading and writing one file of weights; `xmae_fast.model.checkpoint` has the public functions."""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmae_fast._files import atomic_path, check_replaceable
from xmae_fast._full_disk import save_with_torch
from xmae_fast.config import ModelCfg, cfg_from_dict
from xmae_fast.model.storage.configuration import Shapes, stored_cfg
from xmae_fast.model.storage.errors import CheckpointError, listed
from xmae_fast.model.storage.files import CFG_KEY, read_file
from xmae_fast.model.storage.positions import resized_positions
from xmae_fast.model.storage.weights import (
    PREFIX,
    Weights,
    common_dtype,
    find_weights,
    hint_of_keys,
    problems_of_fit,
)

if TYPE_CHECKING:
    from xmae_fast.model.xmae import xMAE

_log = logging.getLogger("xmae_fast.model")


def save_checkpoint(model: xMAE, path: Path) -> None:
    """See `xmae_fast.save_checkpoint`."""
    check_replaceable(path, _is_checkpoint, "a checkpoint", "path")
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    cfg = json.dumps(model.cfg.to_dict())
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, temporary, metadata={CFG_KEY: cfg, "format": "pt"})
        else:
            content = {"state_dict": {PREFIX + key: value for key, value in state.items()}, CFG_KEY: cfg}
            save_with_torch(content, temporary)


def _is_checkpoint(path: Path) -> bool:
    """Whether a file looks like one of torch.save or of safetensors."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith(b"\x80\x02") or start[8:] == b"{"


def load_checkpoint(
    make: Callable[..., xMAE],
    path: Path,
    cfg: ModelCfg | Mapping[str, Any] | None = None,
    impl: str = "auto",
    *,
    weights: str | None = None,
    strict: bool = True,
    resize_positions: bool = False,
    nhead: int | None = None,
    dropout: float | None = None,
    sampling_freq: float | None = None,
) -> xMAE:
    """`make(cfg, impl=impl)` with the weights of a file, in evaluation mode; see `xmae_fast.load_checkpoint`."""
    content = read_file(path)
    chosen = find_weights(path, content, weights)
    shapes = Shapes(chosen.state)
    named = {"nhead": nhead, "dropout": dropout, "sampling_freq": sampling_freq}
    named = {name: value for name, value in named.items() if value is not None}
    if cfg is not None:
        if named:
            raise ValueError(f"{next(iter(named))}: expected None with cfg, got {named[next(iter(named))]!r}")
        cfg = cfg if isinstance(cfg, ModelCfg) else cfg_from_dict(cfg)
        _warn_of_stored(path, content, shapes, cfg)
        _check_agreement(path, shapes, cfg, "cfg", strict, resize_positions)
    else:
        if resize_positions:
            raise ValueError("cfg: expected the configuration with the new length for resize_positions=True, got None")
        cfg, place = stored_cfg(path, content, shapes)
        if cfg is None:
            cfg = _cfg_from_shapes(path, shapes, named)
        else:
            for name, value in named.items():
                if getattr(cfg, name) != value:
                    stored = f"{getattr(cfg, name)!r}, as the file has it under {place!r}; give cfg for another"
                    raise ValueError(f"{name}: expected None or {stored}, got {value!r}")
            _check_agreement(path, shapes, cfg, f"the configuration under {place!r}", strict, False)
    model = make(cfg, impl=impl)
    if resize_positions:
        chosen.state = resized_positions(path, chosen.state, cfg.num_patches)
    _load(path, model, chosen, strict)
    _log.debug("read %d tensors of %s", len(chosen.state), path)
    return model.eval()


def _warn_of_stored(path: Path, content: Mapping[Any, Any], shapes: Shapes, cfg: ModelCfg) -> None:
    """Warn where `cfg` differs from the file's own configuration in a field that leaves no trace in the shapes."""
    try:
        stored, place = stored_cfg(path, content, shapes)
    except CheckpointError:
        return
    for name in ("nhead", "lag", "sampling_freq") if stored is not None else ():
        if getattr(stored, name) != getattr(cfg, name):
            was, now = getattr(stored, name), getattr(cfg, name)
            text = f"{name}: {path} was saved with {was!r} (under {place!r}), cfg has {now!r}, which is taken"
            warnings.warn(text, stacklevel=4)


def _check_agreement(
    path: Path, shapes: Shapes, cfg: ModelCfg, what: str, strict: bool, resize_positions: bool
) -> None:
    leave_out = ("seq_len",) if resize_positions else ()
    found = shapes.disagreements(cfg, leave_out if strict else (*leave_out, "lag", "use_cross_bridge"))
    if not found:
        return
    hint = ""
    if [line.partition(":")[0] for line in found] == ["seq_len"] and what == "cfg":
        hint = f"\nload_checkpoint({str(path)!r}, cfg, resize_positions=True) stretches the positions to that length."
    raise CheckpointError(f"{path}: {what} is not that of the weights:{listed(found)}{hint}")


def _cfg_from_shapes(path: Path, shapes: Shapes, named: Mapping[str, Any]) -> ModelCfg:
    """The configuration that the weights' shapes and the arguments give together."""
    missing = [name for name in ("nhead", "dropout") if name not in named and name not in shapes.fields]
    if not missing and shapes.tell_enough():
        return shapes.cfg(named)
    reason = f"cfg: expected a configuration, because {path.name} does not hold one, got None"
    if not shapes.tell_enough():
        raise CheckpointError(f"{reason}; call load_checkpoint({str(path)!r}, cfg)")
    published = {name: named.get(name, default) for name, default in (("nhead", 8), ("dropout", 0.1))}
    arguments = ", ".join(f"{name}={value!r}" for name, value in published.items() if name not in shapes.fields)
    raise CheckpointError(
        f"{reason}; its weights tell all but {' and '.join(missing)}: call load_checkpoint({str(path)!r}, {arguments}) "
        "with the values that it was trained with (8 and 0.1 are the published ones; sampling_freq too where that is "
        "not 100 Hz), or load_checkpoint(path, cfg)"
    )


def _load(path: Path, model: xMAE, chosen: Weights, strict: bool) -> None:
    missing, unexpected, wrong = problems_of_fit(chosen, model.state_dict())
    problems = [f"missing {key}" for key in missing] + [f"unexpected {key}" for key in unexpected]
    if wrong or (strict and problems):
        if missing:
            problems += [f"beside the model: {key}" for key in chosen.beside]
        hint = hint_of_keys(unexpected)
        if strict and unexpected and not missing and not wrong:
            hint += f"\nload_checkpoint({str(path)!r}, ..., strict=False) leaves them out."
        count = f"{len(problems) + len(wrong)} keys do not fit the configuration"
        raise CheckpointError(f"{path}: {count}:{listed(problems + wrong)}{hint}")
    if problems:
        text = f"{path}: strict=False left out unexpected keys and kept initial values of missing ones"
        warnings.warn(text + listed(problems), stacklevel=4)
    if chosen.beside:
        text = f"{path}: left out {len(chosen.beside)} tensors that lie beside the model's"
        warnings.warn(text + listed(chosen.beside), stacklevel=4)
    model.to(common_dtype(chosen.state))
    model.load_state_dict({key: value for key, value in chosen.state.items() if key not in set(unexpected)}, strict)
