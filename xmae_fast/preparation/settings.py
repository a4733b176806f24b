"""The settings that decide the segments of a recording. This module imports nothing that takes time."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

from xmae_fast.recordings.reading import Reading

Recipe = Literal["batched", "neurokit2"]
POLARITIES = ("keep", "auto", "flip")
EQUIVALENT = "neurokit2 0.2.13"  # the recipe "batched" gives the same as this version
PPG_BAND_HZ = 8.0  # the upper end of the band-pass of the PPG; recordings need more than twice this rate
# Hz; too few beats cost no window of simulated ECG at 50 Hz, 28 % at 30 Hz, 50 % at 25 Hz and 97 % at 20 Hz.
LOW_ECG_RATE = 50.0


@dataclass(frozen=True)
class Settings:
    """All settings that decide what is made of a recording; see `prepare`. `quality` and `polarity` are (PPG, ECG)."""

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
    signals: str = "both"
    polarity: tuple[str, str] = ("keep", "keep")
    time: str | None = None
    day_first: bool | None = None
    skip_rows: int | None = None
    encoding: str | None = None
    decimal: str | None = None

    @property
    def reading(self) -> Reading:
        """What readers of recordings are asked for."""
        return Reading(**{name: getattr(self, name) for name in Reading._fields})

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the signals that shards get: "ppg", "ecg" or both."""
        return tuple(kind.lower() for kind in self.reading.kinds)

    @property
    def seq_len(self) -> int:
        """L, the samples of a segment."""
        return round(self.window_s * self.sampling_freq)

    def to_json(self) -> dict:
        """The fields by name, for JSON. Those that came after version 0.1.0 are left out where they have their default
        values, so that unfinished work of that version can go on."""
        later = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        content = {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}

    @classmethod
    def from_json(cls, content: dict) -> Settings:
        """The settings that `to_json` has written."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**values)
