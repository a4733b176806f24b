"""What decides the segments of a recording. Imports nothing that takes time: the caller's process needs no more."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Recipe = Literal["batched", "neurokit2"]
EQUIVALENT = "neurokit2 0.2.13"  # whose steps "batched" repeats
LOWEST_RATE = 30.0  # Hz; below, the filters and beat detectors have no meaning


@dataclass(frozen=True)
class Settings:
    """All that decides what becomes of a recording; see `prepare`."""

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
        return round(self.window_s * self.sampling_freq)

    def to_json(self) -> dict:
        return asdict(self) | {"quality": list(self.quality)}

    @classmethod
    def from_json(cls, content: dict) -> Settings:
        return cls(**content | {"quality": tuple(content["quality"])})
