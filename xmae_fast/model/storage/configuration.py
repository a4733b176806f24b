"""The configuration of a checkpoint: where files keep it, and what the weights' shapes tell of it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from xmae_fast._files import read_json
from xmae_fast.config import MODEL_PARAMS, LagCfg, ModelCfg, cfg_from_dict
from xmae_fast.model.storage.errors import CheckpointError, first_line
from xmae_fast.model.storage.files import CFG_KEY
from xmae_fast.model.storage.stand_ins import plain

CONFIG, MODEL_TYPE = "config.json", "xmae"  # beside weights, as the Hugging Face Hub has it
_PLACES = ("hyper_parameters", "hparams", "cfg", "config", "model_cfg", "model_config", "args", "model")
_MAX_DEPTH = 4
_PUBLISHED = ("sampling_freq", "seg_len", "source", "model_params")
_FIELDS = tuple(field.name for field in fields(ModelCfg))


class Shapes:
    """The fields of the configuration that the shapes of a state dict tell; `reasons` names a key for each field.

    nhead and dropout leave no trace in the shapes (but lag biases show nhead), nor does a lag window. A field on which
    the tensors do not agree is left out.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._said: dict[str, dict[Any, str]] = defaultdict(dict)
        shapes = {key: list(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
        paths = [path for path in ("ppg", "ecg") if any(key.startswith(f"{path}_path.") for key in shapes)]
        self._say("source", "+".join(paths), f"keys {'_path.*, '.join(paths)}_path.*")
        self._read(shapes, "mask_token", 3, d_model=2)
        for path in paths:
            prefix = f"{path}_path."
            self._read(shapes, prefix + "pos", 3, patches=1, d_model=2)
            self._read(shapes, prefix + "mask_loc_table.weight", 2, patches=0, d_model=1)
            self._read(shapes, prefix + "patcher.proj.weight", 3, d_model=0, stem_ch=1, patch_len=2)
            self._read(shapes, prefix + "proj.1.weight", 2, proj_dim=0, d_model=1)
            self._read(shapes, prefix + "decoder.deconv.weight", 3, d_model=0, patch_len=2)
            self._say_depth(f"depth_{path}", shapes, prefix + "encoder.blocks.")
        if len(paths) == 2:
            bridged = any(key.startswith("bridger.") for key in shapes)
            if bridged:
                self._say_depth("depth_bridge", shapes, "bridger.ecg2ppg.")
            self._say("use_cross_bridge", bridged, "keys bridger.*" if bridged else "no key bridger.*")
            self._read(shapes, "bridger.ecg2ppg.0.lag.center", 1, nhead=0)
            self._read(shapes, "bridger.ecg2ppg.0.lag.table", 2, nhead=0)
            for key, kind in (("center", "gaussian"), ("table", "table")):
                if f"bridger.ecg2ppg.0.lag.{key}" in shapes:
                    self._say("lag", LagCfg(kind), f"the key bridger.ecg2ppg.0.lag.{key}")
        if {"patches", "patch_len"} <= self.fields.keys():
            length = self.fields["patches"] * self.fields["patch_len"]
            self._say("seq_len", length, f"{self.fields['patches']} patches, {self.reasons['patches']}")

    @property
    def fields(self) -> dict[str, Any]:
        """Field -> value, where all tensors agree."""
        return {name: next(iter(values)) for name, values in self._said.items() if len(values) == 1}

    @property
    def reasons(self) -> dict[str, str]:
        """Field -> the first key that shows it, with its shape."""
        return {name: next(iter(values.values())) for name, values in self._said.items()}

    def cfg(self, given: Mapping[str, Any]) -> ModelCfg:
        """ModelCfg of what the shapes tell and `given` adds; ValueError where `given` does not fit."""
        known = {name: value for name, value in self.fields.items() if name in _FIELDS}
        return ModelCfg(**(known | dict(given)))

    def tell_enough(self) -> bool:
        """Whether nothing but nhead and dropout is missing."""
        return {"seq_len", "d_model", "stem_ch", "proj_dim"} <= self.fields.keys()

    def disagreements(self, cfg: ModelCfg, leave_out: tuple[str, ...] = ()) -> list[str]:
        """The fields in which `cfg` is not what the shapes show, in words."""
        found = []
        for name, value in self.fields.items():
            if name not in _FIELDS or name in leave_out or getattr(cfg, name) == value:
                continue
            if name == "use_cross_bridge" and cfg.depth_bridge == 0:
                continue  # a bridge without blocks has no keys
            if name == "depth_bridge" and not cfg.use_cross_bridge:
                continue
            got = getattr(cfg, name)
            found.append(f"{name}: expected {value!r} (from the weights: {self.reasons[name]}), got {got!r}")
        return found

    def _say(self, name: str, value: Any, reason: str) -> None:
        self._said[name].setdefault(value, reason)

    def _read(self, shapes: Mapping[str, list[int]], key: str, dim: int, **axes: int) -> None:
        shape = shapes.get(key)
        if shape is not None and len(shape) == dim and 0 not in shape:
            for name, axis in axes.items():
                self._say(name, shape[axis], f"{key} has shape {shape}")

    def _say_depth(self, name: str, shapes: Mapping[str, list[int]], prefix: str) -> None:
        found = {int(match.group(1)) for key in shapes if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))}
        if found == set(range(len(found))):
            self._say(name, len(found), f"{len(found)} blocks {prefix}*")


def stored_cfg(path: Path, content: Mapping[Any, Any], shapes: Shapes) -> tuple[ModelCfg | None, str]:
    """The configuration that a file holds, or None, and where in the file it lies.

    Looked for: what `save_checkpoint` writes; the published dictionary form or the fields of a ModelCfg, under
    "hyper_parameters" and other usual names, also nested ("hyper_parameters.cfg"); last, a config.json of an xMAE
    beside the file.

    Raises:
        CheckpointError: what is there is no configuration, or there are several and they differ.
    """
    if (text := content.get(CFG_KEY)) is not None:
        try:
            return cfg_from_dict(json.loads(text)), CFG_KEY
        except (TypeError, ValueError) as error:
            why = f"got {text!r} ({first_line(error)})"
            raise CheckpointError(f"{path}: expected a configuration in JSON under {CFG_KEY!r}, {why}") from error
    found: dict[str, ModelCfg] = {}
    refused = []
    for place, values in _dictionaries(content):
        try:
            cfg = _as_cfg(values, shapes)
        except (TypeError, ValueError) as error:
            refused.append(f"{path}: expected a configuration under {place!r}: {first_line(error)}")
            continue
        if cfg is not None and cfg not in found.values():
            found[place] = cfg
    if len(found) > 1:
        fitting = {place: cfg for place, cfg in found.items() if not shapes.disagreements(cfg)}
        found = fitting if len(fitting) == 1 else found
    if len(found) > 1:
        raise CheckpointError(f"{path}: expected one configuration, got different ones under {', '.join(found)}")
    if not found and refused:
        raise CheckpointError(f"{refused[0]}; load_checkpoint({str(path)!r}, cfg) does not look there")
    place, cfg = next(iter(found.items()), ("", None))
    return (cfg, place) if cfg is not None else _cfg_beside(path)


def _cfg_beside(path: Path) -> tuple[ModelCfg | None, str]:
    """The configuration of a config.json beside a file, as transformers writes it; None where there is none."""
    file = path.with_name(CONFIG)
    values = read_json(file) or {}
    if values.get("model_type") != MODEL_TYPE:
        return None, ""
    try:
        return ModelCfg(**{name: values[name] for name in _FIELDS if name in values}), CONFIG
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: expected the configuration of an xMAE: {first_line(error)}") from error


def _dictionaries(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Plain dictionaries that may be a configuration, with the keys that lead to them."""
    waiting: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), content)]
    for place, mapping in waiting:
        yield ".".join(place), mapping
        for name in _PLACES if len(place) < _MAX_DEPTH else ():
            inner = plain(mapping.get(name))
            if isinstance(inner, Mapping) and not any(isinstance(value, Tensor) for value in inner.values()):
                waiting.append(((*place, name), inner))


def _as_cfg(values: Mapping[str, Any], shapes: Shapes) -> ModelCfg | None:
    """ModelCfg of a dictionary in one of the known forms; None where it has none of them."""
    if isinstance(plain(values.get("model_params")), Mapping):
        return cfg_from_dict({key: plain(values[key]) for key in _PUBLISHED if key in values})
    if not {"nhead", "dropout", "d_model"} <= values.keys():
        return None
    given = {}
    for key, (name, _, convert) in MODEL_PARAMS.items():
        if key in values:
            given[name] = plain(values[key]) if convert is None else convert(key, plain(values[key]))
    rest = (name for name in _FIELDS if name not in given and name in values)
    return shapes.cfg(given | {name: plain(values[name]) for name in rest})
