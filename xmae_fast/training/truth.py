"""What a simulation knows of a segment, as further targets of pretraining: `truth_weight` in the configuration.

Reconstructing ECG asks each token for the beats near it, and little for what only the whole segment tells. Where
patients are simulated, rhythm, rates and irregularity are known, and a linear head on `ppg_embedding` is trained to
tell them, which also trains the projection of that embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xmae_fast.simulation.population import RHYTHMS

_KINDS = {"pvc": RHYTHMS.index("pvc"), "pac": RHYTHMS.index("pac")}
_LIMIT = 3.0  # units; above it an error counts in proportion, not by its square
_PULSE = 0.15  # the size from which a beat counts as a pulse, relative to one of sinus rhythm
SCALES = {  # name: (centre, unit); about the mean and the standard deviation of the population, rates finer
    "heart_rate": (85.0, 12.0),
    "pulse_rate": (80.0, 12.0),
    "log_sd": (-3.0, 1.2),
    "log_rmssd": (-2.8, 1.4),
    "pvc_share": (0.1, 0.25),
    "pac_share": (0.075, 0.25),
    "deficit_share": (0.05, 0.17),
    "respiration_rate": (16.0, 5.0),
    "age": (54.0, 20.0),
    "log_size_sd": (0.27, 0.33),
}
"""The numbers beside the rhythm: heart rate, pulse rate (by the median interval between pulses) and respiration rate in
1/min; the logarithms of the standard deviation and of the root mean square of successive differences of the RR
intervals, both relative to their mean; the shares of premature ventricular, of premature atrial and of pulseless beats;
age in years; the standard deviation of the logarithm of the pulses' sizes."""


def truth_of(simulated: Mapping[str, np.ndarray]) -> np.ndarray:
    """The targets of segments, as `simulate_population` gives them.

    Returns:
        [n, 1 + len(SCALES)] float32: the number of the rhythm in `RHYTHMS`, then the numbers of `SCALES` in their
        units; NaN where a segment has too few beats to tell.
    """
    times = simulated["r_times"].astype(np.float64)
    there, beats = np.isfinite(times), np.isfinite(times).sum(1)
    intervals = np.diff(times, axis=1)
    mean = _mean(intervals)
    changes = np.sqrt(_mean(np.diff(intervals, axis=1) ** 2))
    size = np.where(there & (simulated["pulse_size"] > 0), simulated["pulse_size"], np.nan)
    feet = np.sort(np.where(size > _PULSE, simulated["foot_times"], np.nan), 1)  # NaN are last
    values = {
        "heart_rate": np.where(beats > 1, simulated["heart_rate"], np.nan),
        "pulse_rate": 60 / _median(np.diff(feet, axis=1)),
        "log_sd": np.log(_sd(intervals) / mean + 0.005),
        "log_rmssd": np.log(changes / mean + 0.005),
        "deficit_share": _share((simulated["pulse_size"] <= 0) & there, beats),
        "respiration_rate": simulated["respiration_rate"],
        "age": simulated["age"],
        "log_size_sd": _sd(np.log(size)),
    }
    for name, kind in _KINDS.items():
        values[f"{name}_share"] = _share((simulated["beat_kind"] == kind) & there, beats)
    scaled = [(values[name] - centre) / unit for name, (centre, unit) in SCALES.items()]
    return np.stack([simulated["rhythm"], *scaled], 1).astype(np.float32)


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean of each row without its NaN; NaN for a row of NaN."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(1) / known.sum(1)


def _median(values: np.ndarray) -> np.ndarray:
    """The median of each row without its NaN; NaN for a row of NaN."""
    count = np.isfinite(values).sum(1)
    ordered, rows = np.sort(values, 1), np.arange(len(values))
    middle = ordered[rows, np.maximum(count - 1, 0) // 2] + ordered[rows, np.minimum(count // 2, values.shape[1] - 1)]
    return np.where(count > 0, middle / 2, np.nan)


def _sd(values: np.ndarray) -> np.ndarray:
    return np.sqrt(_mean((values - _mean(values)[:, None]) ** 2))


def _share(chosen: np.ndarray, beats: np.ndarray) -> np.ndarray:
    return chosen.sum(1) / np.maximum(beats, 1)


class TruthHead(nn.Module):
    """A linear head that tells the truth of a segment from its embedding; it is thrown away after pretraining.

    Args:
        proj_dim: the length of `ppg_embedding`.
    """

    def __init__(self, proj_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(proj_dim, len(RHYTHMS) + len(SCALES))

    def loss(self, embedding: Tensor, truth: Tensor) -> Tensor:
        """The cross entropy of the rhythm, and the mean squared error of the numbers in their units (in proportion
        where it is above three units), added.

        Args:
            embedding: `ppg_embedding` [B, proj_dim].
            truth: [B, 1 + len(SCALES)], as `truth_of` gives it; NaN counts nowhere.
        """
        told = self.linear(embedding.float())
        rhythm, numbers = told[:, : len(RHYTHMS)], truth[:, 1:]
        known = numbers.isfinite()
        error = functional.huber_loss(told[:, len(RHYTHMS) :], numbers.nan_to_num(), reduction="none", delta=_LIMIT)
        squares = 2 * torch.where(known, error, 0).sum() / known.sum().clamp(min=1)
        return functional.cross_entropy(rhythm, truth[:, 0].long()) + squares
