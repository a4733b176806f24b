"""Computes the PPG of the simulated population: the volume of the pulses, breathing, the sensor and its faults."""

from __future__ import annotations

import math

import numpy as np

from xmae_fast.simulation.population.beats import LEAD, TAIL, Beats
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
from xmae_fast.simulation.population.faults import bursts, contact_loss, quantise, saturate
from xmae_fast.simulation.population.random import BLOCK, Random, happens, log_uniform, uniform
from xmae_fast.simulation.population.subjects import Subjects, repeat

_FOOT = math.sqrt(math.pi / 2)  # where the tangent at the middle of an integrated Gaussian meets the level before it
_SMOOTHING = 0.0225  # s; an 8 Hz low-pass, both ways, makes a step as flat as a Gaussian of this width does


def draw_ppg(
    shape: Random, rng: Random, beats: Beats, pulses: Pulses, subjects: Subjects, cfg: PopulationCfg
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the PPG of a block.

    The volume under the sensor is a Windkessel: each beat lets blood in, as a Gaussian in time, and the volume runs off
    exponentially. So the level falls as long as a pause lasts, and weak early pulses are bumps on the falling slope.
    Reflected waves and the dicrotic wave are added as Gaussians of volume.

    Args:
        shape: the stream of what stays the same for a subject.
        rng: the stream of the rest.
        beats, pulses, subjects, cfg: of the block.

    Returns:
        [256, samples] float32 over the times of the canvas, not prepared; and [256] float32, the share of each segment
        that has a fault.
    """
    p = cfg.ppg
    canvas = Canvas(cfg)
    angle = 2 * np.pi * beats.breathing
    lag = uniform(rng, (0, 2 * np.pi), BLOCK)
    on_beats = np.sin(angle * beats.time + beats.breathing_phase + lag)
    size = pulses.size * (1 + log_uniform(rng, p.breathing, BLOCK) * on_beats)
    slow = 2 * np.pi * (log_uniform(rng, (0.02, 0.12), BLOCK) * beats.time + rng.random((BLOCK, 1), np.float32))
    size *= 1 + uniform(rng, p.vasomotion, BLOCK) * np.sin(slow)
    runoff = _draw_pulses(canvas, shape, beats, pulses._replace(size=size), subjects, cfg)

    f = frequencies(cfg)
    spectrum = canvas.spectrum() * (1 / (1 / runoff + (2j * np.pi) * f)).astype(np.complex64)
    spectrum += noise_spectrum(rng, cfg, log_uniform(rng, p.noise, BLOCK), log_uniform(rng, p.wander, BLOCK))
    spectrum *= low_pass(f, uniform(rng, p.low_pass, BLOCK))
    coupled = happens(rng, 0.5, BLOCK)
    spectrum *= high_pass(f, np.where(coupled, log_uniform(rng, p.high_pass, BLOCK), np.float32(1e-3)))
    ppg = in_time(spectrum, cfg)
    time = times(cfg)
    ppg += log_uniform(rng, p.breathing, BLOCK) * np.sin(angle * time + beats.breathing_phase)
    faulty = contact_loss(rng, ppg, p.contact_loss, cfg)
    faulty += bursts(rng, ppg, p.motion[0], p.motion[1], p.motion_size, (0.5, 6.0), cfg)
    saturate(rng, ppg, p.saturation)
    quantise(rng, ppg, p.levels)
    ppg *= np.where(happens(rng, p.inverted, BLOCK), np.float32(-1), np.float32(1))
    return ppg, np.minimum(faulty, 1)


def _draw_pulses(
    canvas: Canvas, shape: Random, beats: Beats, pulses: Pulses, subjects: Subjects, cfg: PopulationCfg
) -> np.ndarray:
    """Draw the inflow of all pulses; returns the time constants of the run-off, [256, 1] in s."""
    p, count = cfg.ppg, BLOCK // cfg.segments_per_subject

    def trait(limits: tuple[float, float]) -> np.ndarray:
        return repeat(uniform(shape, limits, count), cfg)

    stiff, (low, high) = subjects.stiffness, p.rise
    share = np.clip(0.55 * trait((0, 1)) + 0.45 * stiff, 0, 1)
    rise = low + (high - low) * share
    runoff = repeat(log_uniform(shape, p.runoff, count), cfg)
    early = trait(p.early_wave) * (1 - stiff)
    low, high = p.late_wave
    late = low + (high - low) * (0.5 * trait((0, 1)) + 0.5 * stiff)
    notch = trait(p.notch) * (1 - 0.8 * stiff) * np.where(subjects.site == 0, 1, 0.7)
    notch_at, notch_width = trait(p.notch_at), trait((0.035, 0.07))
    late_at, late_width, cut = trait(p.late_at), trait(p.late_width), trait((0.1, 0.6))

    row, beat = np.nonzero((pulses.size > 0) & (pulses.foot < cfg.seg_len + TAIL) & (pulses.foot > -LEAD - 1))
    size, foot = pulses.size[row, beat], pulses.foot[row, beat]
    # Systole is shorter at a high rate and after a short interval, about as the square root of the interval.
    pace = np.sqrt(np.clip(beats.interval[row, beat] / 0.8, 0.35, 1.6))
    quick = pace**0.7

    def of(values: np.ndarray) -> np.ndarray:
        return values[row, 0].astype(np.float32)

    width = of(rise) * quick
    # The foot is that of the cleaned PPG, which a detector finds.
    middle = foot + _FOOT * np.hypot(width, np.float32(_SMOOTHING))
    unit = size / of(1 + late) / math.sqrt(2 * math.pi)
    canvas.add(row, middle, width, unit / width)
    width_late = of(late_width) * quick
    canvas.add(row, middle + of(late_at) * quick, width_late, unit * of(late) * np.minimum(pace, 1) ** 4 / width_late)
    slope = 1 / of(runoff)
    canvas.add(row, middle + 0.07 * quick, 0.055 * quick, size * of(early), slope)
    width_notch = of(notch_width) * quick
    at = foot + of(notch_at) * pace
    canvas.add(row, at, width_notch, size * of(notch), slope)
    canvas.add(row, at - 1.9 * width_notch, width_notch, -size * of(notch * cut), slope)
    return runoff.astype(np.float32)
