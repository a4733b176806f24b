"""The settings of the simulator, with the reasons for their defaults."""

import math
from dataclasses import dataclass
from itertools import pairwise

from xmae_fast._config_checks import between, check_all, expect

RR_MIN = 0.4  # s; the shortest sinus interval, which limits the number of beats in a segment


@dataclass(frozen=True)
class SimulationCfg:
    """The population, the physiology and the recording quality of a simulated data set.

    Amplitudes are relative to the R wave (ECG) or to the subject's pulse (PPG). PAT is the pulse arrival time, from the
    R peak to the foot of the pulse.

    Args:
        sampling_freq: in Hz.
        seg_len: the length of a segment in seconds.
        heart_rate_mean: in beats per minute, as all heart rates.
        heart_rate_sd: standard deviation between subjects.
        heart_rate_drift: standard deviation between the segments of a subject.
        heart_rate_range: the lowest and the highest rate.
        lf_amplitude: of the Mayer wave (about 0.1 Hz), relative to the RR interval.
        hf_amplitude: of the respiratory sinus arrhythmia, relative to the RR interval.
        rr_jitter: standard deviation from beat to beat, relative to the RR interval.
        respiration_rate_mean: in breaths per minute, as all respiration rates.
        respiration_rate_sd: standard deviation between subjects.
        respiration_rate_range: the lowest and the highest rate.
        pat_quantiles: (probability, seconds) points of the distribution of the subjects' PAT, interpolated linearly.
            The default passes through the 5, 50 and 95 % points 92, 276 and 448 ms that were measured on MIMIC-IV.
        pat_within_sd: the spread of PAT around the subject's own value, over segments and beats, in seconds. Measured
            spreads near 107 ms are mostly errors of detection, so the default is the 15 ms of physiology at rest.
        pat_coupling: ties the shape of the pulse to PAT, as arterial stiffness does in people: stiff arteries bring
            both the pulse and its reflection early, and steepen the upstroke. It is the share, 0 to 1, of the variance
            between subjects of log crest time and of log reflected-wave delay (heart rate apart) that the normal score
            of their PAT explains; the rest is independent of PAT. Within a subject the delay of the reflected wave
            moves with PAT by `pat_coupling` seconds per second. With 0 the PPG alone tells nothing about PAT, except
            within a subject through heart rate and breathing.
        ppg_wander: the median amplitude of the respiratory baseline of the PPG.
        ecg_wander: the same for the ECG.
        ppg_noise: the median standard deviation of the white noise of the PPG.
        ecg_noise: the same for the ECG.
        noise_spread: the standard deviation, over segments, of the logarithm of the amplitudes of wander and noise.
        powerline_freq: in Hz; it is sampled without an anti-aliasing filter.
        powerline_amplitude: in the ECG.
        motion_probability: that a segment has one burst of motion.
        pvc_probability: that a beat is a premature ventricular contraction; two never follow each other.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    sampling_freq: int = 100
    seg_len: float = 10.0
    heart_rate_mean: float = 72.0
    heart_rate_sd: float = 11.0
    heart_rate_drift: float = 3.0
    heart_rate_range: tuple[float, float] = (45.0, 125.0)
    lf_amplitude: float = 0.02
    hf_amplitude: float = 0.03
    rr_jitter: float = 0.006
    respiration_rate_mean: float = 15.0
    respiration_rate_sd: float = 2.5
    respiration_rate_range: tuple[float, float] = (8.0, 25.0)
    pat_quantiles: tuple[tuple[float, float], ...] = ((0, 0.06), (0.05, 0.092), (0.5, 0.276), (0.95, 0.448), (1, 0.52))
    pat_within_sd: float = 0.015
    pat_coupling: float = 0.0
    ppg_wander: float = 0.06
    ecg_wander: float = 0.04
    ppg_noise: float = 0.012
    ecg_noise: float = 0.015
    noise_spread: float = 0.8
    powerline_freq: float = 50.0
    powerline_amplitude: float = 0.005
    motion_probability: float = 0.08
    pvc_probability: float = 0.0

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
        """L, the samples of a segment."""
        return round(self.sampling_freq * self.seg_len)

    @property
    def max_beats(self) -> int:
        """The width of the padded arrays of truth; a premature beat can bring one more beat in at either end."""
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
