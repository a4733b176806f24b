"""The settings that decide the segments of a recording. This module imports nothing that takes time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Recipe = Literal["batched", "neurokit2"]
EQUIVALENT = "neurokit2 0.2.13"  # the recipe "batched" gives the same as this version
LOWEST_RATE = 30.0  # Hz; below this rate the filters and beat detectors do not work


@dataclass(frozen=True)
class Settings:
    """All settings that decide what is made of a recording; see `prepare`. `quality` is a pair (PPG, ECG)."""

    dataset: str
    recipe: Recipe
    ppg: str | None
    ecg: str | None
    fs: float | None
    subject: str
    window_s: float
    hop_s: float
    sampling_freq: float
    quality: tuple[float, float]
    max_missing: float

    @property
    def seq_len(self) -> int:
        """L, the samples of a segment."""
        return round(self.window_s * self.sampling_freq)

    def to_json(self) -> dict:
        """The fields by name, for JSON."""
        return asdict(self) | {"quality": list(self.quality)}

    @classmethod
    def from_json(cls, content: dict) -> Settings:
        """The settings that `to_json` has written."""
        fields: dict[str, Any] = content | {"quality": tuple(content["quality"])}
        return cls(**fields)
