"""Random numbers, subjects and beat times of the simulator: everything that comes before the waveforms."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmae_fast.simulation.config import RR_MIN, SimulationCfg

BLOCK = 64  # how many segments share one random stream
_LEAD = 4.0  # s that are simulated before the segment: the slowest beat and its pulse, twice
_TAIL = 1.5  # s that are simulated after it: the P wave and the upstroke of the next beat
_RR_MAX = 1.8  # s
_PAT_MIN = 0.03  # s
_PVC_PAT = 0.025  # s; an early beat ejects later
_SEGMENT_UNIFORMS = 26
_SEGMENT_NORMALS = 8


class Draws(NamedTuple):
    """All random numbers of n segments of some subjects. The meaning of a column does not depend on the configuration.

    Args:
        subject: [n] int64.
        subject_uniform: [n, 3].
        subject_normal: [n, 20].
        uniform: [n, 26].
        normal: [n, 8].
        beat: [n, 4, beats]: RR jitter, PAT jitter and pulse amplitude (normal), PVC (uniform).
        noise: [n, 2, L] float32: PPG, ECG.
    """

    subject: np.ndarray
    subject_uniform: np.ndarray
    subject_normal: np.ndarray
    uniform: np.ndarray
    normal: np.ndarray
    beat: np.ndarray
    noise: np.ndarray


class Rhythm(NamedTuple):
    """The beats of n segments, from before the first sample to after the last. Times are in seconds; the first sample
    is at 0.

    Args:
        r_times: [n, beats], the R peaks, rising.
        rr: [n, beats], the sinus interval that follows the sinus time of the beat.
        pat: [n, beats], the pulse arrival time.
        is_pvc: [n, beats] bool.
        subject_pat: [n], the subject's own PAT.
        respiration: [n], in Hz.
        respiration_phase: [n], at time 0.
    """

    r_times: np.ndarray
    rr: np.ndarray
    pat: np.ndarray
    is_pvc: np.ndarray
    subject_pat: np.ndarray
    respiration: np.ndarray
    respiration_phase: np.ndarray


def num_beats(cfg: SimulationCfg) -> int:
    """How many beats are simulated for each segment, enough for the fastest heart."""
    return math.ceil((_LEAD + _RR_MAX + cfg.seg_len + _TAIL) / RR_MIN) + 1


def draw(seed: int, blocks: Sequence[tuple[int, int, int]], cfg: SimulationCfg) -> Draws:
    """Draw the random numbers of blocks of segments.

    A stream is Philox with the key (seed, subject) and the counter (block, kind), and rows are filled in the order of
    the segments. No number depends on how many segments or subjects there are, or on how blocks are grouped.

    Args:
        seed: in [0, 2^64).
        blocks: (subject, number of the block, how many segments it has, at most BLOCK).
        cfg: the settings.
    """
    beats, samples = num_beats(cfg), cfg.seq_len
    parts: list[tuple[np.ndarray, ...]] = []
    for subject, block, rows in blocks:
        person, uniform, normal, noise = (_stream(seed, subject, b, kind) for kind, b in enumerate((0, *[block] * 3)))
        traits = person.random(3), person.standard_normal(20)
        flat = uniform.random((rows, _SEGMENT_UNIFORMS + beats))
        bell = normal.standard_normal((rows, _SEGMENT_NORMALS + 3 * beats))
        parts.append(
            (
                np.full(rows, subject, np.int64),
                *(np.broadcast_to(trait, (rows, len(trait))) for trait in traits),
                flat[:, :_SEGMENT_UNIFORMS],
                bell[:, :_SEGMENT_NORMALS],
                np.concatenate([bell[:, _SEGMENT_NORMALS:], flat[:, _SEGMENT_UNIFORMS:]], 1).reshape(rows, 4, beats),
                noise.standard_normal((rows, 2, samples), np.float32),
            )
        )
    return Draws(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def make_rhythm(draws: Draws, cfg: SimulationCfg) -> Rhythm:
    """Compute beat times and pulse arrival times (PAT).

    RR_n = RR (1 + LF sin(2 pi f_lf t_n) + HF sin(breathing at t_n) + jitter). A PVC comes early by 30 to 45 % of the
    interval, and the next beat keeps its sinus time, which is a full compensatory pause. PAT is the subject's value
    plus a part that varies within the subject. The variance of this part comes to 40 % from the segment (half of this
    from the heart rate: the faster, the shorter), to 20 % from breathing, to 15 % from RR, and to 25 % from jitter of
    the beats.
    """
    mean_pat_u, early_u, _ = draws.subject_uniform.T
    rate_z, breath_z = draws.subject_normal[:, :2].T
    start_u, lf_u, lf_phase, breath_phase, pat_phase = draws.uniform[:, :5].T
    drift_z, breath_drift_z, pat_z = draws.normal[:, :3].T
    rr_jitter, pat_jitter, _, pvc_u = draws.beat.swapaxes(0, 1)
    drift = cfg.heart_rate_drift * drift_z
    rate = np.clip(cfg.heart_rate_mean + cfg.heart_rate_sd * rate_z + drift, *cfg.heart_rate_range)
    breaths = cfg.respiration_rate_mean + cfg.respiration_rate_sd * (0.9 * breath_z + 0.43 * breath_drift_z)
    respiration = np.clip(breaths, *cfg.respiration_rate_range) / 60
    phase, rr_mean, f_lf = 2 * np.pi * breath_phase, 60 / rate, 0.08 + 0.04 * lf_u

    r_times, rr = np.empty_like(rr_jitter), np.empty_like(rr_jitter)
    t = -_LEAD - start_u * rr_mean
    for n in range(r_times.shape[1]):
        r_times[:, n] = t
        modulation = cfg.lf_amplitude * np.sin(2 * np.pi * (f_lf * t + lf_phase)) + cfg.rr_jitter * rr_jitter[:, n]
        modulation += cfg.hf_amplitude * np.sin(2 * np.pi * respiration * t + phase)
        rr[:, n] = np.clip(rr_mean * (1 + modulation), RR_MIN, _RR_MAX)
        t = t + rr[:, n]

    is_pvc = pvc_u < cfg.pvc_probability
    is_pvc[:, 0] = False
    for n in range(1, is_pvc.shape[1]):
        is_pvc[:, n] &= ~is_pvc[:, n - 1]

    breathing = np.sin(2 * np.pi * (respiration[:, None] * r_times + pat_phase[:, None]) + phase[:, None])
    rr_sd = math.sqrt((cfg.lf_amplitude**2 + cfg.hf_amplitude**2) / 2 + cfg.rr_jitter**2) or 1.0
    rr_z = (rr / rr_mean[:, None] - 1) / rr_sd
    segment_z = (pat_z - drift_z) * math.sqrt(0.2)
    within = segment_z[:, None] + math.sqrt(0.4) * breathing + math.sqrt(0.15) * rr_z + 0.5 * pat_jitter
    shares, pats = zip(*cfg.pat_quantiles, strict=True)
    subject_pat = np.interp(mean_pat_u, shares, pats)
    pat = np.maximum(subject_pat[:, None] + cfg.pat_within_sd * within, _PAT_MIN) + _PVC_PAT * is_pvc
    r_times[:, 1:] -= is_pvc[:, 1:] * (0.3 + 0.15 * early_u[:, None]) * rr[:, :-1]
    return Rhythm(r_times, rr, pat, is_pvc, subject_pat, respiration, phase)


def _stream(seed: int, subject: int, block: int, kind: int) -> np.random.Generator:
    """The random stream of one kind of numbers for a block of segments."""
    key, counter = np.array([seed, subject], np.uint64), np.array([0, 0, block, kind], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
