"""Random numbers, subjects and beat times of the simulator: everything that has no waveform yet."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmae_fast.simulation.config import RR_MIN, SimulationCfg

BLOCK = 64  # segments that share one random stream
_LEAD = 4.0  # s simulated before the segment: the slowest beat and its pulse, twice
_TAIL = 1.5  # s simulated after it: the P wave and the upstroke of the next beat
_RR_MAX = 1.8
_PAT_MIN = 0.03
_PVC_PAT = 0.025  # s; an early beat ejects later
_SEGMENT_UNIFORMS = 26
_SEGMENT_NORMALS = 8


class Draws(NamedTuple):
    """All random numbers of S segments of some subjects. Every column means one thing, whatever the configuration."""

    subject: np.ndarray  # (S,) int64
    subject_uniform: np.ndarray  # (S, 3)
    subject_normal: np.ndarray  # (S, 20)
    uniform: np.ndarray  # (S, 26)
    normal: np.ndarray  # (S, 8)
    beat: np.ndarray  # (S, 4, K): RR jitter, PAT jitter, pulse amplitude (normal), PVC (uniform)
    noise: np.ndarray  # (S, 2, L) float32: PPG, ECG


class Rhythm(NamedTuple):
    """Beats of S segments, from before the first sample to after the last; times in seconds, 0 = first sample."""

    r_times: np.ndarray  # (S, K) rising
    rr: np.ndarray  # (S, K) sinus interval that follows the sinus time of the beat
    pat: np.ndarray  # (S, K)
    is_pvc: np.ndarray  # (S, K) bool
    subject_pat: np.ndarray  # (S,)
    respiration: np.ndarray  # (S,) Hz
    respiration_phase: np.ndarray  # (S,) at time 0


def num_beats(cfg: SimulationCfg) -> int:
    return math.ceil((_LEAD + _RR_MAX + cfg.seg_len + _TAIL) / RR_MIN) + 1


def draw(seed: int, blocks: Sequence[tuple[int, int, int]], cfg: SimulationCfg) -> Draws:
    """Random numbers of `blocks` (subject, block, segments <= BLOCK). A stream is Philox keyed by (seed, subject) with
    counter (block, kind), and rows are filled in segment order: no number depends on how many segments or subjects
    there are, nor on how blocks are grouped."""
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
    """Beat times and pulse arrival times (PAT).

    RR_n = RR (1 + LF sin(2 pi f_lf t_n) + HF sin(breathing at t_n) + jitter). A PVC comes early by 30-45 % of the
    interval and the next beat keeps its sinus time: a full compensatory pause. PAT = subject + within-subject part,
    whose variance is 40 % segment (half of it faster rate = shorter), 20 % breathing, 15 % RR, 25 % beat jitter."""
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
    subject_pat = np.interp(mean_pat_u, *zip(*cfg.pat_quantiles, strict=True))
    pat = np.maximum(subject_pat[:, None] + cfg.pat_within_sd * within, _PAT_MIN) + _PVC_PAT * is_pvc
    r_times[:, 1:] -= is_pvc[:, 1:] * (0.3 + 0.15 * early_u[:, None]) * rr[:, :-1]
    return Rhythm(r_times, rr, pat, is_pvc, subject_pat, respiration, phase)


def _stream(seed: int, subject: int, block: int, kind: int) -> np.random.Generator:
    key, counter = np.array([seed, subject], np.uint64), np.array([0, 0, block, kind], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
