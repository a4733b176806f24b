"""How PPG is prepared for a model. The recipe travels with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from xmae_fast._config_checks import expect, is_number
from xmae_fast.config import ModelCfg

CLEANINGS = ("elgendi", "none")
_VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """How PPG is prepared for a model; it travels with the weights as preprocessing.json.

    Attributes:
        sampling_freq: rate of the model's signals in Hz.
        segment_s: length of its segments in seconds.
        clean: "elgendi", the band-pass of neurokit2's ppg_clean, over each segment at its recorded rate; or "none".
        low_hz, high_hz, filter_order: edges and order of that Butterworth band-pass.
        quality_percentile: a segment's quality is this percentile of its samples' template-matching quality.
        quality_threshold: the least quality of the segments of pretraining.
        normalize_dtype: arithmetic of the min-max to [-1, 1] per segment, "float16" as published, or "float32".

    Raises:
        ValueError: naming the field.
    """

    sampling_freq: float = 100.0
    segment_s: float = 10.0
    clean: str = "elgendi"
    low_hz: float = 0.5
    high_hz: float = 8.0
    filter_order: int = 2
    quality_percentile: float = 15.0
    quality_threshold: float = 0.9
    normalize_dtype: str = "float16"

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, expected: str) -> None:
            expect(ok, f"preprocessing.{name}", expected, getattr(self, name))

        for name in ("sampling_freq", "segment_s", "low_hz"):
            check(is_number(getattr(self, name)) and getattr(self, name) > 0, name, "a positive number")
        check(self.clean in CLEANINGS, "clean", "'elgendi' or 'none'")
        check(is_number(self.high_hz) and self.high_hz > self.low_hz, "high_hz", f"more than low_hz = {self.low_hz}")
        order = self.filter_order
        check(isinstance(order, int) and order > 0, "filter_order", "a whole number >= 1")
        percentile = self.quality_percentile
        check(is_number(percentile) and 0 <= percentile <= 100, "quality_percentile", "0 to 100")
        check(is_number(self.quality_threshold), "quality_threshold", "a number")
        check(self.normalize_dtype in ("float16", "float32"), "normalize_dtype", "'float16' or 'float32'")

    @classmethod
    def for_model(cls, cfg: ModelCfg) -> Recipe:
        """The published recipe at a model's rate and segment length."""
        return cls(sampling_freq=float(cfg.sampling_freq), segment_s=cfg.seq_len / cfg.sampling_freq)

    @property
    def samples(self) -> int:
        """L, samples of a segment."""
        return round(self.sampling_freq * self.segment_s)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the steps in words; `from_dict` reads it back."""
        band = f"{self.low_hz:g} to {self.high_hz:g} Hz"
        way = f"band-pass {band} (Butterworth, order {self.filter_order}, forwards and backwards)"
        steps = [
            f"cut into segments of {self.segment_s:g} s at the recorded rate",
            "no cleaning" if self.clean == "none" else f"clean each segment: {way}, as neurokit2's ppg_clean",
            f"quality: percentile {self.quality_percentile:g} of neurokit2's ppg_quality (templatematch)",
            f"resample to {self.samples} samples ({self.sampling_freq:g} Hz) by cubic splines, first on first and"
            " last on last sample, as neurokit2's signal_resample",
            f"scale each segment to [-1, 1] by its minimum and maximum, in {self.normalize_dtype}",
        ]
        return {"version": _VERSION, "signal": "ppg", **asdict(self), "steps": steps}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_dict` described.

        Raises:
            ValueError: another version or signal, an unknown key, or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"preprocessing: expected a mapping, got {type(values).__name__}")
        values = dict(values)
        values.pop("steps", None)
        for name, expected in (("version", _VERSION), ("signal", "ppg")):
            if (got := values.pop(name, None)) != expected:
                raise ValueError(f"preprocessing.{name}: expected {expected!r}, got {got!r}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"preprocessing: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(known))}")
        return cls(**values)
