"""Computes the ECG of the simulated population: waves of the beats on one lead, and what the monitor makes of them."""

from __future__ import annotations

import numpy as np

from xmae_fast.simulation.population.beats import AF, PAC, PVC, SINUS, VT, Beats
from xmae_fast.simulation.population.canvas import (
    Canvas,
    frequencies,
    high_pass,
    in_time,
    low_pass,
    noise_spectrum,
    times,
)
from xmae_fast.simulation.population.circulation import Pulses
from xmae_fast.simulation.population.config import PopulationCfg
from xmae_fast.simulation.population.faults import bursts, quantise
from xmae_fast.simulation.population.random import BLOCK, Random, happens, log_uniform, normal, uniform
from xmae_fast.simulation.population.subjects import repeat

_DEGREE = np.pi / 180


def draw_ecg(
    shape: Random, rng: Random, beats: Beats, pulses: Pulses, cfg: PopulationCfg
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the ECG of a block.

    Args:
        shape: the stream of what stays the same for a subject.
        rng: the stream of the rest.
        beats, pulses, cfg: of the block.

    Returns:
        [256, samples] float32 over the times of the canvas, not prepared; and [256] float32, the share of each segment
        that has a fault.
    """
    e = cfg.ecg
    canvas = Canvas(cfg)
    lead = _Lead(shape, cfg)
    lag = uniform(rng, (0, 2 * np.pi), BLOCK)
    angle = 2 * np.pi * beats.breathing
    swing = 1 + uniform(rng, (0.0, 0.12), BLOCK) * np.sin(angle * beats.time + beats.breathing_phase + lag)
    shown = (beats.time > -2.5) & (beats.time < cfg.seg_len + 1)
    wide = (beats.kind == PVC) | (beats.kind == VT)
    _narrow_beats(canvas, lead, beats, swing, shown & ~wide)
    _wide_beats(canvas, lead, rng, beats, swing, shown & wide)
    _dissociated_p(canvas, lead, beats, pulses, cfg)

    f = frequencies(cfg)
    spectrum = canvas.spectrum()
    wander, noise = log_uniform(rng, e.wander, BLOCK), log_uniform(rng, e.noise, BLOCK)
    spectrum += noise_spectrum(rng, cfg, noise, wander)
    spectrum *= low_pass(f, uniform(rng, e.low_pass, BLOCK))
    cutoffs = np.array(e.high_pass, np.float32)
    spectrum *= high_pass(f, cutoffs[rng.integers(0, len(cutoffs), (BLOCK, 1))])
    ecg = in_time(spectrum, cfg)
    time = times(cfg)
    ecg += 0.3 * wander * np.sin(angle * time + beats.breathing_phase)
    mains = np.where(happens(rng, 0.5, BLOCK), 50, 60) * (1 + 0.001 * normal(rng, BLOCK, 1))
    phase = rng.random((BLOCK, 1), np.float32)
    ecg += log_uniform(rng, e.mains, BLOCK) * np.sin(2 * np.pi * (mains.astype(np.float32) * time + phase))
    _f_waves(rng, ecg, beats, time, cfg)
    faulty = bursts(rng, ecg, e.motion, 0.3, (0.1, 2.0), (0.3, 12.0), cfg)
    quantise(rng, ecg, (256.0, 4096.0))
    return ecg, faulty


class _Lead:
    """The heights and widths of waves on the lead of each subject, [256, 1] float32 each, in mV and s."""

    def __init__(self, shape: Random, cfg: PopulationCfg) -> None:
        e, count = cfg.ecg, BLOCK // cfg.segments_per_subject
        angles = np.array(e.leads, np.float32)
        lead = angles[shape.integers(0, len(angles), (count, 1))]
        axis = e.axis[0] + e.axis[1] * normal(shape, count, 1)
        r = uniform(shape, e.r_height, count)
        block, right = happens(shape, e.block, count), happens(shape, 0.5, count)

        def on_lead(turn: np.ndarray | np.float32) -> np.ndarray:
            return np.cos((axis + turn - lead) * _DEGREE)

        def keep(values: np.ndarray) -> np.ndarray:
            return repeat(values.astype(np.float32), cfg)

        main = on_lead(np.float32(0))
        # No monitor shows a lead without a QRS complex: a main wave is at least 0.35 of the vector.
        main = np.where(np.abs(main) < 0.35, np.where(main < 0, -0.35, 0.35), main)
        t = uniform(shape, e.t_height, count) * on_lead(uniform(shape, (-45, 45), count))
        changed = happens(shape, 0.2, count)
        t = np.where(changed, t * uniform(shape, (-1.0, 0.3), count), t)
        t = np.where(block, -0.3 * np.sign(main) * np.abs(t) - 0.1 * main, t)
        self.p = keep(uniform(shape, e.p_height, count) * np.cos((55 + 20 * normal(shape, count, 1) - lead) * _DEGREE))
        self.pr, self.p_width = keep(uniform(shape, e.pr, count)), keep(uniform(shape, (0.016, 0.028), count))
        self.q = keep(r * uniform(shape, (0, 0.2), count) * on_lead(uniform(shape, (120, 220), count)))
        self.r = keep(r * main)
        self.s = keep(r * uniform(shape, (0.05, 0.7), count) * on_lead(uniform(shape, (120, 240), count)))
        self.width = keep(uniform(shape, e.qrs_width, count) * np.where(block & ~right, 1.5, 1))
        late = np.where(right, on_lead(np.float32(180)) * 0.45, main * 0.85)
        self.late = keep(np.where(block, r * late, 0))
        self.t, self.qt = keep(t), keep(uniform(shape, e.qt, count) * np.where(block, 1.12, 1))
        self.t_width = keep(uniform(shape, (0.035, 0.06), count))
        sign = np.where(happens(shape, 0.5, count), 1, -1)
        self.wide = keep(log_uniform(shape, e.pvc_height, count) * sign)
        self.wide_width = keep(uniform(shape, e.pvc_width, count))
        self.wide_second = keep(uniform(shape, (-0.9, 0.7), count))
        self.wide_first = keep(uniform(shape, (-0.35, 0.35), count))
        self.wide_t = keep(uniform(shape, (-0.6, -0.15), count))
        self.early_p = keep(uniform(shape, (-0.8, 1.0), count))


def _narrow_beats(canvas: Canvas, lead: _Lead, beats: Beats, swing: np.ndarray, shown: np.ndarray) -> None:
    """Draw sinus beats, premature atrial beats, and those of SVT and AF; only the first two have a P wave."""
    row, beat = np.nonzero(shown)
    time, kind = beats.time[row, beat], beats.kind[row, beat]
    size = swing[row, beat].astype(np.float32)
    pace = np.cbrt(np.clip(beats.interval[row, beat], 0.3, 1.6))

    def of(values: np.ndarray) -> np.ndarray:
        return values[row, 0]

    with_p = (kind == SINUS) | (kind == PAC)
    p = of(lead.p) * np.where(kind == PAC, of(lead.early_p), np.float32(1))
    at = time - of(lead.pr) * np.clip(pace, 0.8, 1.1)
    canvas.add(row[with_p], at[with_p], of(lead.p_width)[with_p], p[with_p])
    width = of(lead.width)
    canvas.add(row, time, width, size * of(lead.r))
    canvas.add(row, time - 2.3 * width, 0.8 * width, size * of(lead.q))
    canvas.add(row, time + 2.4 * width, 0.95 * width, size * of(lead.s))
    late = np.flatnonzero(of(lead.late))
    canvas.add(row[late], time[late] + 4.6 * width[late], 1.6 * width[late], (size * of(lead.late))[late])
    t_at, t_width = time + of(lead.qt) * pace, of(lead.t_width) * pace
    canvas.add(row, t_at, t_width, size * of(lead.t))  # rises slowly and falls fast, as two Gaussians
    canvas.add(row, t_at - 1.2 * t_width, 1.2 * t_width, 0.4 * size * of(lead.t))


def _wide_beats(canvas: Canvas, lead: _Lead, rng: Random, beats: Beats, swing: np.ndarray, shown: np.ndarray) -> None:
    """Draw ventricular beats: a wide QRS of one focus and a T wave against it; a tenth of VTs turn around the axis."""
    turning = happens(rng, 0.1, BLOCK)
    turn = 2 * np.pi * (uniform(rng, (0.1, 0.35), BLOCK) * beats.time + rng.random((BLOCK, 1), np.float32))
    change = 1 + log_uniform(rng, (0.01, 0.15), BLOCK) * normal(rng, *beats.time.shape)
    change *= np.where(turning & (beats.rhythm == VT), np.sin(turn), 1) * swing
    row, beat = np.nonzero(shown)
    time, size = beats.time[row, beat], change[row, beat].astype(np.float32)
    pace = np.cbrt(np.clip(beats.interval[row, beat], 0.3, 1.2))

    def of(values: np.ndarray) -> np.ndarray:
        return values[row, 0]

    height, width = size * of(lead.wide), of(lead.wide_width)
    canvas.add(row, time, width, height)
    canvas.add(row, time - 1.7 * width, 0.8 * width, height * of(lead.wide_first))
    canvas.add(row, time + 2.1 * width, 1.1 * width, height * of(lead.wide_second))
    canvas.add(row, time + 0.34 * pace, 0.06 * pace, height * of(lead.wide_t))


def _dissociated_p(canvas: Canvas, lead: _Lead, beats: Beats, pulses: Pulses, cfg: PopulationCfg) -> None:
    """Draw the P waves that go on at the sinus rate during ventricular tachycardia."""
    rows = np.flatnonzero(beats.rhythm[:, 0] == VT)
    count = int((cfg.seg_len + 3) / float(beats.sinus_interval.min())) + 1
    interval = beats.sinus_interval[rows]
    times = np.mod(pulses.p_wave[rows] + 2, interval) - 2 + interval * np.arange(count, dtype=np.float32)
    row, which = np.nonzero(_next_kind(beats, rows, times) == VT)
    canvas.add(rows[row], times[row, which], lead.p_width[rows[row], 0], lead.p[rows[row], 0])


def _f_waves(rng: Random, ecg: np.ndarray, beats: Beats, time: np.ndarray, cfg: PopulationCfg) -> None:
    """Add fibrillatory waves where there is AF: a slightly irregular 4 to 9 Hz and its second harmonic."""
    frequency, size = uniform(rng, (4.0, 9.0), BLOCK), log_uniform(rng, cfg.ecg.f_waves, BLOCK)
    phase, slow = uniform(rng, (0, 6.28), BLOCK), uniform(rng, (0.2, 1.0), BLOCK)
    depth, harmonic = uniform(rng, (0.2, 1.0), BLOCK), uniform(rng, (0.1, 0.5), BLOCK)
    rows = np.flatnonzero(beats.rhythm[:, 0] == AF)
    if not len(rows):
        return
    wander = depth[rows] * np.sin(2 * np.pi * slow[rows] * time + phase[rows])
    angle = 2 * np.pi * frequency[rows] * time + phase[rows] + 2 * wander
    wave = size[rows] * (1 + 0.4 * wander) * (np.sin(angle) + harmonic[rows] * np.sin(2 * angle + phase[rows]))
    partly = np.flatnonzero((beats.kind[rows] != AF).any(1))
    wave[partly] *= _next_kind(beats, rows[partly], time) == AF
    ecg[rows] += wave


def _next_kind(beats: Beats, rows: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The kind of the first beat that is not before each of the times; `time` is [rows, times] or [1, times]."""
    number = (beats.time[rows][:, :, None] < time[:, None, :]).sum(1)
    return np.take_along_axis(beats.kind[rows], np.minimum(number, beats.kind.shape[1] - 1), 1)
