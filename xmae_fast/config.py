"""The model's configuration: `ModelCfg`, its dictionary (YAML) form, and checks whose errors name the key."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

SOURCES = ("ppg+ecg", "ppg", "ecg")
STEM_TYPES = ("unet",)
LAG_KINDS = ("window", "gaussian", "table")

# model_params key -> (ModelCfg field, value when the key is missing). These are the published dictionary's defaults,
# which differ from the dataclass's.
_MODEL_PARAMS: dict[str, tuple[str, Any]] = {
    "patch_len": ("patch_len", 40),
    "d_model": ("d_model", 512),
    "nhead": ("nhead", 8),
    "depth_ecg": ("depth_ecg", 6),
    "depth_ppg": ("depth_ppg", 6),
    "depth_bridge": ("depth_bridge", 2),
    "stem_ch": ("stem_ch", 32),
    "dropout": ("dropout", 0.1),
    "latent_dim": ("proj_dim", 384),
    "use_cross_bridge": ("use_cross_bridge", True),
    "stem_type": ("stem_type", "unet"),
    "lag": ("lag", None),
}


def _expect(ok: bool, key: str, expected: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{key}: expected {expected}, got {got!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
        _expect(self.kind in LAG_KINDS, "lag", f"'none' or one of {', '.join(map(repr, LAG_KINDS))}", self.kind)
        if self.kind == "window":
            for key in ("min_s", "max_s"):
                _expect(_is_number(getattr(self, key)), f"lag.{key}", "a finite number of seconds", getattr(self, key))
            _expect(self.min_s <= self.max_s, "lag.min_s", f"at most lag.max_s = {self.max_s}", self.min_s)
        else:
            _expect(
                self.min_s is None and self.max_s is None,
                "lag.min_s, lag.max_s",
                f"none for kind {self.kind!r} (they belong to 'window')",
                (self.min_s, self.max_s),
            )

    @classmethod
    def parse(cls, value: LagCfg | Mapping[str, Any] | str | None) -> LagCfg | None:
        """`value` in any accepted form -> LagCfg, or None for the published attention. ValueError otherwise."""
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            unknown = set(value) - {"kind", "min_s", "max_s"}
            _expect(not unknown, "lag", "the keys kind, min_s, max_s", dict(value))
            _expect("kind" in value, "lag.kind", f"one of {LAG_KINDS}", None)
            return None if value["kind"] in (None, "none") else cls(**value)
        _expect(isinstance(value, str), "lag", "None, a string, a mapping or a LagCfg", value)
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
        dropout: on attention probabilities and after each feed-forward, in [0, 1).
        proj_dim: width of `ppg_embedding`.
        use_cross_bridge: ECG tokens attend to PPG tokens before decoding.
        source: "ppg+ecg", "ppg" or "ecg".
        stem_type: "unet".
        return_embeddings, return_recon: what `forward` returns unless told otherwise.
        lag: lag awareness of the bridge (`LagCfg` or what `LagCfg.parse` reads); None is the published model.
        sampling_freq: Hz; gives lags their seconds, nothing else.

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
        """Check every field and bring `lag` into its parsed form; ValueError names the field."""
        for key in ("seq_len", "patch_len", "d_model", "nhead", "stem_ch", "proj_dim"):
            value = getattr(self, key)
            _expect(_is_int(value) and value >= 1, key, "a positive whole number", value)
        for key in ("depth_ecg", "depth_ppg", "depth_bridge"):
            value = getattr(self, key)
            _expect(_is_int(value) and value >= 0, key, "a whole number >= 0", value)
        for key in ("use_cross_bridge", "return_embeddings", "return_recon"):
            _expect(isinstance(getattr(self, key), bool), key, "True or False", getattr(self, key))
        _expect(
            self.seq_len % self.patch_len == 0, "patch_len", f"a divisor of seq_len = {self.seq_len}", self.patch_len
        )
        _expect(self.d_model % self.nhead == 0, "nhead", f"a divisor of d_model = {self.d_model}", self.nhead)
        _expect(_is_number(self.dropout) and 0 <= self.dropout < 1, "dropout", "a number in [0, 1)", self.dropout)
        _expect(self.source in SOURCES, "source", f"one of {', '.join(map(repr, SOURCES))}", self.source)
        _expect(self.stem_type in STEM_TYPES, "stem_type", f"one of {', '.join(map(repr, STEM_TYPES))}", self.stem_type)
        _expect(
            _is_number(self.sampling_freq) and self.sampling_freq > 0,
            "sampling_freq",
            "a positive number of Hz",
            self.sampling_freq,
        )
        self.lag = LagCfg.parse(self.lag)
        _expect(
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

    The published form has `sampling_freq` (Hz) and `seg_len` (s), whose product is seq_len, `source`, and
    `model_params`; other top-level keys belong to training and are not looked at. Missing keys take the published
    defaults, which differ from the dataclass's.

    Raises:
        ValueError: a value is wrong, or model_params (or a flat form) has an unknown key.
        TypeError: `cfg` or its model_params is not a mapping.
    """
    if not isinstance(cfg, Mapping):
        raise TypeError(f"cfg: expected a dictionary, got {type(cfg).__name__}")
    if "model_params" not in cfg and "seq_len" in cfg:
        _check_keys(cfg, [field.name for field in fields(ModelCfg)], "cfg")
        return ModelCfg(**cfg)
    _check_top_level(cfg)
    params = cfg.get("model_params") or {}
    if not isinstance(params, Mapping):
        raise TypeError(f"model_params: expected a dictionary, got {type(params).__name__}")
    _check_keys(params, list(_MODEL_PARAMS), "model_params")
    rate, seconds = cfg.get("sampling_freq", 100), cfg.get("seg_len", 10)
    for key, value in (("sampling_freq", rate), ("seg_len", seconds)):
        _expect(_is_number(value) and value > 0, key, "a positive number", value)
    samples = rate * seconds
    _expect(abs(samples - round(samples)) < 1e-9, "seg_len", f"a whole number of samples at {rate} Hz", seconds)
    source = cfg.get("source", "ppg+ecg")
    _expect(isinstance(source, str), "source", f"one of {', '.join(map(repr, SOURCES))}", source)
    values = {field: params.get(key, default) for key, (field, default) in _MODEL_PARAMS.items()}
    return ModelCfg(seq_len=round(samples), source=source.lower(), sampling_freq=rate, **values)


def _check_top_level(cfg: Mapping[str, Any]) -> None:
    """Keys of others are welcome there, but not ours in the wrong place or slightly misspelt."""
    known = ("model_params", "sampling_freq", "seg_len", "source")
    for key in cfg:
        if "model_params" not in cfg and key in _MODEL_PARAMS:
            raise ValueError(f"cfg: expected {key!r} under 'model_params', got it at the top level")
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.8)
        if key not in known and near and near[0] not in cfg:
            raise ValueError(f"cfg: unknown key {key!r} (did you mean {near[0]!r}?)")


def _check_keys(got: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in got:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{where}: unknown key {key!r}{hint}; known keys are {', '.join(known)}")
