"""What the simulator can be told, with the reason for each default."""

import math
from dataclasses import dataclass
from itertools import pairwise

from xmae_fast._config_checks import between, check_all, expect

RR_MIN = 0.4  # s; shortest sinus interval, which bounds the number of beats in a segment


@dataclass(frozen=True)
class SimulationCfg:
    """Population, physiology and recording quality of a simulated data set. Amplitudes are relative to the R wave (ECG)
    or to the subject's pulse (PPG); intervals in seconds; rates in beats or breaths per minute.

    `pat_quantiles` are (probability, seconds) knots of the subjects' pulse arrival time, interpolated linearly; the
    default passes through the 5-50-95 % points 92-276-448 ms measured on MIMIC-IV. `pat_within_sd` is the spread around
    a subject's own value, over segments and beats: measured spreads near 107 ms are mostly detection error, so the
    default is a resting-physiology 15 ms.

    `pat_coupling` ties the pulse's shape to PAT, as arterial stiffness does in people: stiff arteries bring both the
    pulse and its reflection early, and steepen the upstroke. It is the share of the variance of log crest time and of
    log reflected-wave delay between subjects (heart rate apart) that the normal score of their PAT explains; the rest
    stays independent. Within a subject the reflected wave's delay moves with PAT by `pat_coupling` seconds per second.
    0: PPG alone tells nothing about PAT but, within a subject, through heart rate and breathing.

    Raises ValueError naming the field that is out of range."""

    sampling_freq: int = 100  # Hz
    seg_len: float = 10.0  # s
    heart_rate_mean: float = 72.0
    heart_rate_sd: float = 11.0  # between subjects
    heart_rate_drift: float = 3.0  # SD between the segments of a subject
    heart_rate_range: tuple[float, float] = (45.0, 125.0)
    lf_amplitude: float = 0.02  # Mayer wave, about 0.1 Hz, relative to RR
    hf_amplitude: float = 0.03  # respiratory sinus arrhythmia, relative to RR
    rr_jitter: float = 0.006  # SD per beat, relative to RR
    respiration_rate_mean: float = 15.0
    respiration_rate_sd: float = 2.5
    respiration_rate_range: tuple[float, float] = (8.0, 25.0)
    pat_quantiles: tuple[tuple[float, float], ...] = ((0, 0.06), (0.05, 0.092), (0.5, 0.276), (0.95, 0.448), (1, 0.52))
    pat_within_sd: float = 0.015
    pat_coupling: float = 0.0  # of the pulse's shape to PAT, 0 to 1
    ppg_wander: float = 0.06  # median amplitude of the respiratory baseline
    ecg_wander: float = 0.04
    ppg_noise: float = 0.012  # median SD of the white noise
    ecg_noise: float = 0.015
    noise_spread: float = 0.8  # SD of the logarithm of wander and noise amplitudes over segments
    powerline_freq: float = 50.0  # Hz; sampled without an anti-aliasing filter
    powerline_amplitude: float = 0.005
    motion_probability: float = 0.08  # of one burst in a segment
    pvc_probability: float = 0.0  # per beat; two never follow each other

    def __post_init__(self) -> None:
        check_all({name: between(low, high) for name, low, high in _BOUNDS}, self, "SimulationCfg.")
        for name, low, high in (("heart_rate_range", 35, 140), ("respiration_rate_range", 4, 40)):
            value = getattr(self, name)
            fits = len(value) == 2 and low <= value[0] < value[1] <= high
            expect(fits, f"SimulationCfg.{name}", f"{low} <= low < high <= {high}", value)
        probability, pat = zip(*self.pat_quantiles, strict=True)
        rising = all(a < b for knots in (probability, pat) for a, b in pairwise(knots))
        if not (rising and probability[0] == 0 and probability[-1] == 1 and pat[0] >= 0.03 and pat[-1] <= 0.6):
            raise ValueError(
                "SimulationCfg.pat_quantiles: expected rising (probability, seconds) pairs, probability from 0 to 1 and"
                f" seconds within [0.03, 0.6], got {self.pat_quantiles!r}"
            )

    @property
    def seq_len(self) -> int:
        """Samples of one segment."""
        return round(self.sampling_freq * self.seg_len)

    @property
    def max_beats(self) -> int:
        """Width of the padded truth arrays; a premature beat can bring in one more at either end."""
        return math.ceil(self.seg_len / RR_MIN) + 2


_BOUNDS = (
    ("sampling_freq", 40, 2000),
    ("seg_len", 5, 600),
    ("heart_rate_mean", 35, 140),
    ("heart_rate_sd", 0, 40),
    ("heart_rate_drift", 0, 20),
    ("lf_amplitude", 0, 0.1),
    ("hf_amplitude", 0, 0.1),
    ("rr_jitter", 0, 0.05),
    ("respiration_rate_mean", 4, 40),
    ("respiration_rate_sd", 0, 10),
    ("pat_within_sd", 0, 0.05),
    ("pat_coupling", 0, 1),
    ("ppg_wander", 0, 2),
    ("ecg_wander", 0, 2),
    ("ppg_noise", 0, 2),
    ("ecg_noise", 0, 2),
    ("noise_spread", 0, 2),
    ("powerline_freq", 1, 1000),
    ("powerline_amplitude", 0, 1),
    ("motion_probability", 0, 1),
    ("pvc_probability", 0, 1),
)
