"""Which of a file's tensors are the weights of an xMAE, under whatever prefixes and wrappers they lie."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmae_fast.model.storage.errors import CheckpointError, in_a_row, listed

PREFIX = "model."
_STATE_DICT = "state_dict"
_MAX_DEPTH = 4
_ANCHORS = tuple(f"{path}_path.{key}" for path in ("ppg", "ecg") for key in ("pos", "mask_loc_table.weight"))
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # compile, FSDP, checkpointing
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_HINTS = {
    "lora_": "LoRA: save what model.merge_and_unload() returns",
    "parametrizations.": "parametrised: torch.nn.utils.parametrize.remove_parametrizations(module, 'weight') first",
    "weight_orig": "pruned: torch.nn.utils.prune.remove(module, 'weight') first",
    "weight_g": "weight normalisation: torch.nn.utils.remove_weight_norm(module) first",
    "_packed_params": "quantised: save the model before quantize_dynamic",
}


@dataclass
class Weights:
    """Tensors that look like those of one model.

    Attributes:
        label: where they lie, as keys and prefix.
        state: the tensors under the model's own keys.
        published: whether they lie where the published code puts them.
        beside: keys of other tensors in the same dictionary that belong to no model.
    """

    label: str
    state: dict[str, Any]
    published: bool
    beside: list[str] = field(default_factory=list)

    def equals(self, other: Weights) -> bool:
        """Whether both hold the same tensors, which is so where a module holds one model under two names."""
        return self.state.keys() == other.state.keys() and all(
            isinstance(value, Tensor) and isinstance(other.state[key], Tensor) and torch.equal(value, other.state[key])
            for key, value in self.state.items()
        )


def find_weights(path: Path, content: Mapping[Any, Any], wanted: str | None) -> Weights:
    """The weights in `content`.

    Where there are several sets, it is the one that `wanted` names; if that is None, the set in the published form
    ("state_dict", prefix "model."), with a warning that names the others.

    Raises:
        CheckpointError: there are no weights, none has that name, or there are several and none has the published form.
    """
    found = [weights for place, state in _dictionaries(content) for weights in _models(path, place, state)]
    if not found:
        raise CheckpointError(f"{path}: {_nothing_found(content)}")
    labels = [weights.label for weights in found]
    if wanted is not None:
        chosen = [x for x in found if x.label == wanted] or [x for x in found if x.label.startswith(wanted + ".")]
        if len(chosen) != 1:
            raise CheckpointError(f"weights: expected one of {in_a_row([*map(repr, labels)])}, got {wanted!r}")
        return chosen[0]
    if len(found) == 1 or all(found[0].equals(other) for other in found[1:]):
        return found[0]
    chosen = next((weights for weights in found if weights.published), None)
    calls = [f"load_checkpoint({str(path)!r}, weights={label!r})" for label in labels]
    if chosen is None:
        raise CheckpointError(f"{path}: expected one model, got the weights of {len(found)}; choose:{listed(calls)}")
    others = in_a_row([call for call, weights in zip(calls, found, strict=True) if weights is not chosen])
    warnings.warn(f"{path}: took the weights {chosen.label!r} of {len(found)} sets; others: {others}", stacklevel=4)
    return chosen


def _dictionaries(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every dictionary that directly holds tensors, with the keys that lead to it, "state_dict" first."""
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    found = []
    for place, mapping in waiting:
        if any(isinstance(value, Tensor) for value in mapping.values()):
            found.append((place, mapping))
        if len(place) < _MAX_DEPTH:
            inner = ((key, value) for key, value in mapping.items() if isinstance(value, Mapping))
            waiting += [((*place, key), value) for key, value in inner if isinstance(key, str)]
    return iter(sorted(found, key=lambda item: item[0] != (_STATE_DICT,)))


def _models(path: Path, place: tuple[str, ...], mapping: Mapping[Any, Any]) -> list[Weights]:
    """The models of one dictionary, the published prefix first."""
    keys: dict[str, str] = {}
    for key in mapping:
        if isinstance(key, str):
            bare = _without_wrappers(key)
            if bare in keys:
                raise CheckpointError(f"{path}: expected one {bare!r}, got {keys[bare]!r} and {key!r}")
            keys[bare] = key
    prefixes = {bare[: -len(anchor)] for bare in keys for anchor in _ANCHORS if ("." + bare).endswith("." + anchor)}
    models = {
        prefix: Weights(".".join((*place, prefix)).strip("."), {}, place in ((), (_STATE_DICT,)) and prefix == PREFIX)
        for prefix in sorted(prefixes, key=lambda prefix: (prefix != PREFIX, len(prefix), prefix))
    }
    for model in models.values():
        model.published |= place == (_STATE_DICT,) and len(models) == 1
    beside = []
    for bare, key in keys.items():
        prefix = max((prefix for prefix in prefixes if bare.startswith(prefix)), key=len, default=None)
        if prefix is not None and (prefix or isinstance(mapping[key], Tensor)):  # a flat file may also hold its epoch
            models[prefix].state[bare[len(prefix) :]] = mapping[key]
        elif isinstance(mapping[key], Tensor):
            beside.append(key)
    for model in models.values():
        model.beside = beside
    return list(models.values())


def _without_wrappers(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.replace(wrapper, "")
    return key


def _nothing_found(content: Mapping[Any, Any]) -> str:
    dictionaries = list(_dictionaries(content))
    if not dictionaries:
        return f"expected tensors under 'state_dict' or at the top, got keys {in_a_row([*map(repr, content)])}"
    keys = [key for _, mapping in dictionaries for key in mapping]
    if any(str(key).endswith("stem.enc1.0.branches.0.0.weight") for key in keys):
        return (
            "expected a whole model, got the weights of one path alone; make the model and then "
            "model.ppg_path.load_state_dict(...) (or ecg_path)"
        )
    return f"expected weights of an xMAE, such as 'model.ppg_path.pos', got {in_a_row([*map(repr, keys)])}"


def problems_of_fit(weights: Weights, wanted: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """(missing keys, unexpected keys, values that cannot be taken, in words)."""
    state = weights.state
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    wrong = []
    for key in wanted:
        if key not in state:
            continue
        value = state[key]
        if not isinstance(value, Tensor):
            wrong.append(f"{key}: expected a tensor, got {type(value).__name__}")
        elif value.shape != wanted[key].shape:
            hint = " (DeepSpeed's ZeRO-3 keeps it elsewhere: python zero_to_fp32.py)" if value.shape == (0,) else ""
            wrong.append(f"{key}: expected shape {list(wanted[key].shape)}, got {list(value.shape)}{hint}")
        elif value.is_meta:
            wrong.append(f"{key}: expected numbers, got a tensor on the device 'meta', which holds none")
        elif wanted[key].is_floating_point() and value.dtype not in _FLOATS:
            wrong.append(f"{key}: expected floating-point numbers of 16 to 64 bits, got {value.dtype}")
    return missing, unexpected, wrong


def hint_of_keys(unexpected: list[str]) -> str:
    """A hint at the tool that made keys which the model does not have, where their names tell it, or ''."""
    hints = [hint for part, hint in _HINTS.items() if any(part in key for key in unexpected)]
    return f"\n  ({'; '.join(hints)})" if hints else ""


def common_dtype(state: Mapping[str, Any]) -> torch.dtype:
    """The narrowest dtype that holds every floating-point tensor of `state` without a loss."""
    dtypes = {value.dtype for value in state.values() if isinstance(value, Tensor) and value.dtype in _FLOATS}
    dtype = None
    for other in dtypes:
        dtype = other if dtype is None else torch.promote_types(dtype, other)
    return dtype or torch.get_default_dtype()
