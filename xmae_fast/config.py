"""The model's configuration: `ModelCfg`, its dictionary (YAML) form, and checks whose errors name the key."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from xmae_fast._config_checks import (
    did_you_mean,
    expect,
    is_number,
    is_whole,
    nearest,
    one_of,
    plain,
    to_real,
    to_truth,
    to_whole,
)

SOURCES = ("ppg+ecg", "ppg", "ecg")
STEM_TYPES = ("unet",)
LAG_KINDS = ("window", "gaussian", "table")

# model_params key -> (ModelCfg field, value when the key is missing, conversion). The values are the published
# dictionary's defaults, which differ from the dataclass's.
MODEL_PARAMS: dict[str, tuple[str, Any, Callable[[str, Any], Any] | None]] = {
    "patch_len": ("patch_len", 40, to_whole),
    "d_model": ("d_model", 512, to_whole),
    "nhead": ("nhead", 8, to_whole),
    "depth_ecg": ("depth_ecg", 6, to_whole),
    "depth_ppg": ("depth_ppg", 6, to_whole),
    "depth_bridge": ("depth_bridge", 2, to_whole),
    "stem_ch": ("stem_ch", 32, to_whole),
    "dropout": ("dropout", 0.1, to_real),
    "latent_dim": ("proj_dim", 384, to_whole),
    "use_cross_bridge": ("use_cross_bridge", True, to_truth),
    "stem_type": ("stem_type", "unet", None),
    "lag": ("lag", None, None),
}
_TOP_LEVEL = ("model_params", "sampling_freq", "seg_len", "source")


@dataclass(frozen=True)
class LagCfg:
    """Lag awareness of the bridge's attention. Lag = time of the PPG token minus time of the ECG token, in seconds.

    kind "window": only keys with min_s <= lag <= max_s are admissible; "gaussian": learned lag and width per head;
    "table": one free bias per head and lag. `LagCfg.parse` reads "none", "gaussian", "table", "window(0.1, 0.6)" and
    dictionaries such as {"kind": "window", "min_s": 0.1, "max_s": 0.6}.
    """

    kind: str
    min_s: float | None = None
    max_s: float | None = None

    def __post_init__(self) -> None:
        expect(self.kind in LAG_KINDS, "lag", f"'none' or {one_of(*LAG_KINDS)[1]}", self.kind)
        if self.kind == "window":
            for key in ("min_s", "max_s"):
                object.__setattr__(self, key, plain(getattr(self, key)))
                expect(is_number(getattr(self, key)), f"lag.{key}", "a finite number of seconds", getattr(self, key))
            low, high = self.min_s, self.max_s
            in_order = low is not None and high is not None and low <= high
            expect(in_order, "lag.min_s", f"at most lag.max_s = {high}", low)
        else:
            expect(
                self.min_s is None and self.max_s is None,
                "lag.min_s, lag.max_s",
                f"none for kind {self.kind!r} (they belong to 'window')",
                (self.min_s, self.max_s),
            )

    @classmethod
    def parse(cls, value: LagCfg | Mapping[str, Any] | str | None) -> LagCfg | None:
        """LagCfg from `value` in any accepted form; None is the published attention. ValueError for other values."""
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            unknown = set(value) - {"kind", "min_s", "max_s"}
            expect(not unknown, "lag", "the keys kind, min_s, max_s", dict(value))
            expect("kind" in value, "lag.kind", f"one of {LAG_KINDS}", None)
            return None if value["kind"] in (None, "none") else cls(**value)
        expect(isinstance(value, str), "lag", "None, a string, a mapping or a LagCfg", value)
        assert isinstance(value, str)  # `expect` has made sure of it
        text = value.strip().lower()
        if text == "none":
            return None
        if match := re.fullmatch(r"window\(\s*([^,]+?)\s*,\s*([^,]+?)\s*\)", text):
            try:
                low, high = (float(part) for part in match.groups())
            except ValueError:
                raise ValueError(f"lag: expected 'window(min_s, max_s)' with two numbers, got {value!r}") from None
            return cls("window", low, high)
        return cls(text)


@dataclass
class ModelCfg:
    """Configuration of an xMAE model; the first fifteen fields are the published ones, in their order.

    Attributes:
        seq_len: L, samples of one signal.
        patch_len: P, samples of one patch; divides seq_len.
        d_model: D, width of the tokens; a multiple of nhead.
        nhead: H, attention heads.
        depth_ecg, depth_ppg, depth_bridge: number of encoder blocks and bridge blocks.
        stem_ch: S, channels that the convolutional stem returns.
        dropout: on attention probabilities and after each feed-forward, in [0, 1].
        proj_dim: width of `ppg_embedding`.
        use_cross_bridge: ECG tokens attend to PPG tokens before decoding.
        source: "ppg+ecg", "ppg" or "ecg"; None means "ppg+ecg".
        stem_type: "unet".
        return_embeddings, return_recon: what `forward` returns unless told otherwise.
        lag: lag awareness of the bridge (`LagCfg` or what `LagCfg.parse` reads); None is the published model.
        sampling_freq: Hz; gives lags their seconds, nothing else.

    Numbers and truth values of NumPy become plain ones. A model keeps its own copy: later changes do not reach it.

    Raises:
        ValueError: naming the field, what was expected and what came.
    """

    seq_len: int = 1000
    patch_len: int = 40
    d_model: int = 512
    nhead: int = 8
    depth_ecg: int = 1
    depth_ppg: int = 2
    depth_bridge: int = 1
    stem_ch: int = 32
    dropout: float = 0.1
    proj_dim: int = 384
    use_cross_bridge: bool = True
    source: str = "ppg+ecg"
    stem_type: str = "unet"
    return_embeddings: bool = True
    return_recon: bool = True
    lag: LagCfg | Mapping[str, Any] | str | None = None
    sampling_freq: float = 100

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Make every field a plain value (`lag` its parsed form) and check it; ValueError names the field."""
        for field in fields(self):
            setattr(self, field.name, plain(getattr(self, field.name)))
        if self.source is None:
            self.source = "ppg+ecg"
        for key in ("seq_len", "patch_len", "d_model", "nhead", "stem_ch", "proj_dim"):
            value = getattr(self, key)
            expect(is_whole(value) and value >= 1, key, "a positive whole number", value)
        for key in ("depth_ecg", "depth_ppg", "depth_bridge"):
            value = getattr(self, key)
            expect(is_whole(value) and value >= 0, key, "a whole number >= 0", value)
        for key in ("use_cross_bridge", "return_embeddings", "return_recon"):
            expect(isinstance(getattr(self, key), bool), key, "True or False", getattr(self, key))
        expect(
            self.seq_len % self.patch_len == 0, "patch_len", f"a divisor of seq_len = {self.seq_len}", self.patch_len
        )
        expect(self.d_model % self.nhead == 0, "nhead", f"a divisor of d_model = {self.d_model}", self.nhead)
        expect(is_number(self.dropout) and 0 <= self.dropout <= 1, "dropout", "a number in [0, 1]", self.dropout)
        for key, (fits, expected) in (("source", one_of(*SOURCES)), ("stem_type", one_of(*STEM_TYPES))):
            expect(fits(getattr(self, key)), key, expected, getattr(self, key))
        expect(
            is_number(self.sampling_freq) and self.sampling_freq > 0,
            "sampling_freq",
            "a positive number of Hz",
            self.sampling_freq,
        )
        self.lag = LagCfg.parse(self.lag)
        expect(
            self.lag is None or (self.use_cross_bridge and self.source == "ppg+ecg"),
            "lag",
            "None without a bridge (use_cross_bridge=True, source='ppg+ecg')",
            self.lag,
        )

    @property
    def num_patches(self) -> int:
        """N = L / P."""
        return self.seq_len // self.patch_len

    @property
    def patch_seconds(self) -> float:
        """Time from one token's centre to the next, in seconds."""
        return self.patch_len / self.sampling_freq

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values (JSON-able); `cfg_from_dict` reads it back."""
        return asdict(self)


def cfg_from_dict(cfg: Mapping[str, Any]) -> ModelCfg:
    """ModelCfg from the published dictionary (YAML) form, or from `ModelCfg.to_dict`.

    The published form has `sampling_freq` (Hz) and `seg_len` (s), with seq_len = int(sampling_freq) * int(seg_len),
    `source` (None means "ppg+ecg"), and `model_params`; other top-level keys belong to training and are not looked at.
    Missing keys take the published defaults, which differ from the dataclass's. Numbers may be texts or numbers of
    NumPy, and foreign keys of `model_params` are ignored, all as published. A warning names a key that looks like a
    misspelt known one, and a number that loses its fraction.

    Raises:
        ValueError: a value is wrong; a truth value is a text such as "False", which the published code takes for True;
            `cfg` has a known key misspelt or in the wrong place, or (in the form of `to_dict`) an unknown one.
        TypeError: `cfg` or its model_params is not a mapping.
    """
    if not isinstance(cfg, Mapping):
        raise TypeError(f"cfg: expected a dictionary, got {type(cfg).__name__}")
    if "model_params" not in cfg and "seq_len" in cfg:
        _check_fields(cfg)
        return ModelCfg(**cfg)
    _check_top_level(cfg)
    params = cfg.get("model_params") or {}
    if not isinstance(params, Mapping):
        raise TypeError(f"model_params: expected a dictionary, got {type(params).__name__}")
    _warn_of_misspellings(params, cfg)
    rate, seconds = cfg.get("sampling_freq", 100), cfg.get("seg_len", 10)
    whole_rate, whole_seconds = to_whole("sampling_freq", rate), to_whole("seg_len", seconds)
    expect(whole_rate >= 1, "sampling_freq", "at least 1 Hz", rate)
    expect(whole_seconds >= 1, "seg_len", "at least 1 second", seconds)
    source = cfg.get("source")
    expect(source is None or isinstance(source, str), "source", one_of(*SOURCES)[1], source)
    values = {}
    for key, (field, default, convert) in MODEL_PARAMS.items():
        value = params.get(key, default)
        values[field] = value if convert is None else convert(key, value)
    return ModelCfg(
        seq_len=whole_rate * whole_seconds,
        source="ppg+ecg" if source is None else source.lower(),
        sampling_freq=to_real("sampling_freq", rate),
        **values,
    )


def _check_top_level(cfg: Mapping[str, Any]) -> None:
    """Raise ValueError for a known key in the wrong place or slightly misspelt; other keys belong to training."""
    for key in cfg:
        if "model_params" not in cfg and key in MODEL_PARAMS:
            raise ValueError(f"cfg: expected {key!r} under 'model_params', got it at the top level")
        near = nearest(key, _TOP_LEVEL, cutoff=0.8)
        if key not in _TOP_LEVEL and near is not None and near not in cfg:
            raise ValueError(f"cfg: unknown key {key!r} (did you mean {near!r}?)")


def _warn_of_misspellings(params: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
    """Warn of foreign keys (they are ignored, as published) that look like a known key which is missing."""
    for key in params:
        hint = None
        if key == "seq_len":
            hint = "it is sampling_freq * seg_len, which lie beside 'model_params'"
        elif key in _TOP_LEVEL:
            hint = "it belongs beside 'model_params'" if key not in cfg else None
        elif key not in MODEL_PARAMS:
            meant = "latent_dim" if key == "proj_dim" else nearest(str(key).lower(), MODEL_PARAMS, cutoff=0.7)
            hint = f"did you mean {meant!r}?" if meant is not None and meant not in params else None
        if hint is not None:
            warnings.warn(f"model_params: {key!r} is ignored, as in the published code ({hint})", stacklevel=3)


def _check_fields(got: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that is no field of ModelCfg."""
    known = [field.name for field in fields(ModelCfg)]
    for key in got:
        if key not in known:
            raise ValueError(f"cfg: unknown key {key!r}{did_you_mean(key, known)}; known keys are {', '.join(known)}")
