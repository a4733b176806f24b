"""The settings of the simulated population: rhythms, segments, and the ranges of everything that is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from xmae_fast._config_checks import expect
from xmae_fast.simulation.population.ranges import CirculationCfg, EcgCfg, PpgCfg, RhythmCfg

RHYTHMS = ("sinus", "pvc", "pac", "vt", "svt", "af")
"""Names of the rhythms; their numbers are their places: sinus rhythm, premature ventricular contractions, premature
atrial contractions, ventricular tachycardia, supraventricular tachycardia, atrial fibrillation."""

SHORTEST_RR = 0.27  # s; 222 beats per minute, which limits the number of beats in a segment


@dataclass(frozen=True)
class PopulationCfg:
    """The settings of the simulated population.

    Args:
        sampling_freq: in Hz.
        seg_len: the length of a segment in seconds.
        segments_per_subject: how many segments in a row are of the same subject; it divides 256.
        shares: of the rhythms, in the order of `RHYTHMS`; they sum to 1.
        clean: whether the signals get the band-pass of the published preparation before they are scaled.
        cleaned_apart: the share of the subjects whose segments are cleaned one by one, as the published preparation
            does with `clean_ppg` and `clean_ecg`, which bends the ends of the segments; those of the others are cut
            from a recording that was cleaned as a whole.
        rhythm: when the heart beats.
        circulation: how much each beat ejects, and when its pulse arrives.
        ppg: the pulse at the sensor.
        ecg: the waves of the ECG.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    sampling_freq: int = 100
    seg_len: float = 10.0
    segments_per_subject: int = 4
    shares: tuple[float, ...] = (0.4, 0.13, 0.12, 0.1, 0.1, 0.15)
    clean: bool = True
    cleaned_apart: float = 0.5
    rhythm: RhythmCfg = field(default_factory=RhythmCfg)
    circulation: CirculationCfg = field(default_factory=CirculationCfg)
    ppg: PpgCfg = field(default_factory=PpgCfg)
    ecg: EcgCfg = field(default_factory=EcgCfg)

    def __post_init__(self) -> None:
        expect(50 <= self.sampling_freq <= 500, "PopulationCfg.sampling_freq", "50 to 500", self.sampling_freq)
        expect(5 <= self.seg_len <= 60, "PopulationCfg.seg_len", "5 to 60", self.seg_len)
        count = self.segments_per_subject
        expect(count > 0 and 256 % count == 0, "PopulationCfg.segments_per_subject", "a divisor of 256", count)
        _check_shares("PopulationCfg.shares", self.shares, len(RHYTHMS))
        _check_shares("RhythmCfg.pattern", self.rhythm.pattern, 5)
        _check_shares("PpgCfg.site", self.ppg.site, 3)
        for part in (self.rhythm, self.circulation, self.ppg, self.ecg):
            for item in fields(part):
                _check(f"{type(part).__name__}.{item.name}", getattr(part, item.name))

    @property
    def seq_len(self) -> int:
        """L, the samples of a segment."""
        return round(self.sampling_freq * self.seg_len)

    @property
    def max_beats(self) -> int:
        """The width of the padded arrays of truth."""
        return math.ceil(self.seg_len / SHORTEST_RR) + 2


_SPREADS = ("RhythmCfg.sinus_rate", "EcgCfg.axis")  # mean and standard deviation
_LOGARITHMIC = (
    "hf", "lf", "vlf", "rr_jitter", "breathing_rate", "vt_jitter", "svt_jitter", "vt_beats", "svt_beats", "vt_strength",
    "beat_spread", "breathing", "wander", "noise", "runoff", "low_pass", "high_pass", "levels", "motion_size",
    "f_waves", "pvc_height", "mains", "rise",
)  # fmt: skip
_LISTS = ("RhythmCfg.pattern", "PpgCfg.site", "EcgCfg.leads", "EcgCfg.high_pass")


def _check_shares(name: str, shares: tuple[float, ...], count: int) -> None:
    fits = len(shares) == count and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6
    expect(fits, name, f"{count} shares that sum to 1", shares)


def _check(name: str, value: float | tuple[float, ...]) -> None:
    if isinstance(value, tuple):
        expect(len(value) > 0 and all(math.isfinite(x) for x in value), name, "finite numbers", value)
        if name not in _LISTS:
            ordered = len(value) == 2 and value[0] >= 0 and (value[0] <= value[1] or name in _SPREADS)
            expect(ordered, name, "0 <= low <= high", value)
            above = min(value) > 0 or name.split(".")[1] not in _LOGARITHMIC
            expect(above, name, "a range above 0", value)
    else:
        expect(0 <= value <= 1, name, "0 to 1", value)
