"""The settings that decide the segments of a recording. This module imports nothing that takes time."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from xmae_fast.recordings.reading import Reading

Recipe = Literal["batched", "neurokit2"]
EQUIVALENT = "neurokit2 0.2.13"  # the recipe "batched" gives the same as this version
PPG_BAND_HZ = 8.0  # the upper end of the band-pass of the PPG; recordings need more than twice this rate
# Hz; too few beats cost no window of simulated ECG at 50 Hz, 28 % at 30 Hz, 50 % at 25 Hz and 97 % at 20 Hz.
LOW_ECG_RATE = 50.0


@dataclass(frozen=True)
class Settings:
    """All settings that decide what is made of a recording; see `prepare`. `quality` and `polarity` are (PPG, ECG)."""

    dataset: str
    recipe: Recipe
    subject: str
    window_s: float
    hop_s: float
    sampling_freq: float
    quality: tuple[float, float]
    max_missing: float
    reading: Reading
    polarity: tuple[str, str] = ("keep", "keep")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the signals that shards get: "ppg", "ecg" or both."""
        return tuple(kind.lower() for kind in self.reading.kinds)

    @property
    def seq_len(self) -> int:
        """L, the samples of a segment."""
        return round(self.window_s * self.sampling_freq)

    def to_json(self) -> dict:
        """The fields by name, and those of `reading` among them, for JSON. Those that came after version 0.1.0 are left
        out where they have their default values, so that unfinished work of that version can go on."""
        content = {field.name: getattr(self, field.name) for field in fields(self)} | self.reading._asdict()
        del content["reading"]
        given = {name: value for name, value in content.items() if name not in _LATER or value != _LATER[name]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}

    @classmethod
    def from_json(cls, content: dict) -> Settings:
        """The settings that `to_json` has written."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        reading = Reading(**{name: values.pop(name) for name in Reading._fields if name in values})
        return cls(**values, reading=reading)


_FIRST = ("ppg", "ecg", "fs")  # the fields of Reading that version 0.1.0 had
_LATER = {name: value for name, value in Reading._field_defaults.items() if name not in _FIRST}
_LATER["polarity"] = Settings.polarity
