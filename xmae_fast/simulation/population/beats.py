"""Draws the beats of the simulated population: their kinds and their times."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xmae_fast.simulation.population.config import RHYTHMS, SHORTEST_RR, PopulationCfg
from xmae_fast.simulation.population.random import (
    BLOCK,
    Random,
    choose,
    happens,
    log_uniform,
    normal,
    uniform,
)
from xmae_fast.simulation.population.ranges import RhythmCfg
from xmae_fast.simulation.population.subjects import Subjects

LEAD = 2.0  # s before the segment whose beats are drawn
TAIL = 1.6  # s after it
SINUS, PVC, PAC, VT, SVT, AF = range(len(RHYTHMS))  # kinds of beats, and the rhythms that are named after them
_LONGEST_RR = 2.4  # s


class Beats(NamedTuple):
    """The beats of the segments of a block, from before the first sample to after the last; n is 256.

    Args:
        rhythm: [n, 1] int, the number in `RHYTHMS`.
        time: [n, beats] float32, the R peaks in s from the first sample, rising.
        interval: [n, beats] float32, the RR interval before each beat in s.
        kind: [n, beats] int8: SINUS, PVC, PAC, VT, SVT or AF.
        sinus_interval: [n, 1] float32, the mean interval of the sinus node in s.
        breathing: [n, 1] float32, breaths per s.
        breathing_phase: [n, 1] float32, radians at the first sample.
    """

    rhythm: np.ndarray
    time: np.ndarray
    interval: np.ndarray
    kind: np.ndarray
    sinus_interval: np.ndarray
    breathing: np.ndarray
    breathing_phase: np.ndarray


def draw_beats(rng: Random, subjects: Subjects, cfg: PopulationCfg) -> Beats:
    """Draw the beats of a block.

    Beats are numbered from an anchor: the first premature beat of a pattern, or the first beat of a run. The time of
    the anchor is drawn so that the segment shows what its rhythm is named for: at least one premature beat, or at least
    1.5 s of a run.
    """
    r = cfg.rhythm
    span = math.ceil((cfg.seg_len + LEAD + TAIL) / SHORTEST_RR)
    number = np.arange(-span, span + 1)[None]
    rhythm = choose(rng, cfg.shares, BLOCK)
    run, second = _runs(rng, rhythm, r)
    kind = _kinds(rng, rhythm, number, run, second, r)
    rate = r.sinus_rate[0] + r.sinus_rate[1] * (0.8 * subjects.rate + 0.6 * normal(rng, BLOCK, 1))
    sinus = 60 / np.clip(rate, 42, 125)
    breathing = subjects.breathing_rate * np.exp(0.1 * normal(rng, BLOCK, 1))
    phase = uniform(rng, (0, 2 * math.pi), BLOCK)
    restless = np.where((rhythm == PVC) | (rhythm == PAC), uniform(rng, (1.0, 5.0), BLOCK), 1)
    base = sinus * (1 + restless * _variability(rng, number * sinus, breathing, phase, subjects.age, r))
    interval = _intervals(rng, kind, base, r)
    elapsed = np.cumsum(interval, axis=1, dtype=np.float64)
    elapsed -= elapsed[:, span, None]
    late = cfg.seg_len - 0.4
    start = uniform(rng, (0.3, late), BLOCK)
    length = np.take_along_axis(elapsed, np.minimum(span + run - 1, 2 * span), 1)
    earliest = np.maximum(1.5 - length, -cfg.seg_len * 2)
    of_run = earliest + (cfg.seg_len - 1.5 - earliest) * rng.random((BLOCK, 1))
    time = elapsed + np.where((rhythm >= VT) & (kind[:, :1] != AF), np.where(length < 1.5, start, of_run), start)
    time += np.maximum(cfg.seg_len + TAIL - time[:, -1:], 0)  # beats must not end before the segment does
    phase = phase - 2 * math.pi * breathing * (time[:, span, None])  # the modulation was drawn from the anchor on
    return Beats(rhythm, time.astype(np.float32), interval, kind, sinus, breathing, phase.astype(np.float32))


def _runs(rng: Random, rhythm: np.ndarray, r: RhythmCfg) -> tuple[np.ndarray, np.ndarray]:
    """How many beats a run has, and after how many beats of sinus rhythm the next one begins (0: never); [n, 1]."""
    vt, svt = log_uniform(rng, r.vt_beats, BLOCK), log_uniform(rng, r.svt_beats, BLOCK)
    run = np.rint(np.where(rhythm == SVT, svt, vt)).astype(int)
    gap = rng.integers(1, 8, (BLOCK, 1))
    return run, np.where(happens(rng, r.second_run, BLOCK), gap, 0)


def _kinds(
    rng: Random, rhythm: np.ndarray, number: np.ndarray, run: np.ndarray, second: np.ndarray, r: RhythmCfg
) -> np.ndarray:
    """The kinds of beats, [n, beats] int8."""
    shape = (BLOCK, number.shape[1])
    pattern = choose(rng, r.pattern, BLOCK)
    short = rng.integers(3, 6, (BLOCK, 1))
    length = rng.integers(3, 40, (BLOCK, 1))  # beats of an episode of bigeminy or trigeminy
    chance = uniform(rng, r.extra_ectopics, BLOCK) ** 2
    early = rng.random(shape, np.float32) < chance
    early[:, 1:] &= ~early[:, :-1]
    episode = (number >= -length // 2) & (number < length)
    group = np.select([pattern == 3, pattern == 4], [2, short], 1)
    planned = (number >= 0) & (number < group)
    far = np.abs(number - 1) > 4
    planned |= episode & np.where(pattern == 1, number % 2 == 0, (pattern == 2) & (number % 3 == 0))
    premature = planned | (early & far & (pattern != 1) & (pattern != 2))
    step = np.where(second > 0, run + second, 10**6)
    # runs repeat after the anchor; before it, the rhythm is that of the sinus node
    running = (number >= 0) & (number % step < run)
    pvcs = early & ~running & happens(rng, 0.4, BLOCK)
    onset = happens(rng, r.af_paroxysm, BLOCK)
    fibrillating = np.where(onset, running, True)
    kind = np.zeros(shape, np.int8)
    for name, where in ((PVC, premature), (PAC, premature), (VT, running), (SVT, running), (AF, fibrillating)):
        kind[(rhythm == name) & where] = name
    kind[(rhythm == VT) & pvcs] = PVC
    kind[(rhythm == SVT) & pvcs] = PAC
    return kind


def _variability(
    rng: Random, time: np.ndarray, breathing: np.ndarray, phase: np.ndarray, age: np.ndarray, r: RhythmCfg
) -> np.ndarray:
    """Relative changes of the sinus interval at `time`: breathing, Mayer wave, two slower waves and jitter."""
    calm = np.exp(-r.ageing * (age - 20))
    change = log_uniform(rng, r.hf, BLOCK) * calm * np.sin(2 * math.pi * breathing * time + phase)
    waves = ((r.lf, (0.07, 0.13)), (r.vlf, (0.01, 0.03)), (r.vlf, (0.02, 0.05)))
    for size, frequency in waves:
        angle = 2 * math.pi * (uniform(rng, frequency, BLOCK) * time + rng.random((BLOCK, 1), np.float32))
        change += log_uniform(rng, size, BLOCK) * calm * np.sin(angle)
    return change + log_uniform(rng, r.rr_jitter, BLOCK) * normal(rng, *time.shape)


def _intervals(rng: Random, kind: np.ndarray, base: np.ndarray, r: RhythmCfg) -> np.ndarray:
    """The interval before each beat in s, from the kinds and the intervals of the sinus node; [n, beats] float32."""
    shape = kind.shape
    before = np.concatenate([kind[:, :1], kind[:, :-1]], 1)
    spread = 1 + 0.03 * normal(rng, *shape)
    jitter = normal(rng, *shape)
    coupling = uniform(rng, r.pvc_coupling, BLOCK) * spread
    atrial = uniform(rng, r.pac_coupling, BLOCK) * spread
    couplet = uniform(rng, (0.32, 0.55), BLOCK) * spread  # s between premature beats that follow each other
    sinus_was = np.concatenate([base[:, :1], base[:, :-1]], 1)
    used = np.concatenate([coupling[:, :1], coupling[:, :-1]], 1)
    full = 2 - used
    pause = sinus_was * np.where(happens(rng, r.interpolated, BLOCK), np.maximum(1.02 - used, 0.45), full)
    reset = base * uniform(rng, r.pac_pause, BLOCK)
    vt = 60 / uniform(rng, r.vt_rate, BLOCK) * (1 + log_uniform(rng, r.vt_jitter, BLOCK) * jitter)
    svt = 60 / uniform(rng, r.svt_rate, BLOCK) * (1 + log_uniform(rng, r.svt_jitter, BLOCK) * jitter)
    recovery = base * uniform(rng, (1.0, 1.6), BLOCK)
    # Intervals of AF are close to white noise; none is shorter than the AV node allows.
    rate, width = uniform(rng, r.af_rate, BLOCK), uniform(rng, r.af_spread, BLOCK)
    af = 60 / rate * np.exp(width * jitter - width**2 / 2)
    ectopic = (kind == PVC) | (kind == PAC)
    again = ectopic & (before == kind)
    after = kind == SINUS
    cases = [
        (kind == AF, af),
        ((kind == VT) & (before == VT), vt),
        ((kind == SVT) & (before == SVT), svt),
        (again, couplet),
        ((kind == PVC) | (kind == VT), base * coupling),
        ((kind == PAC) | (kind == SVT), base * atrial),
        (after & (before == PVC), pause),
        (after & (before == PAC), reset),
        (after & (before != SINUS), recovery),
    ]
    interval = np.select([case for case, _ in cases], [value for _, value in cases], base)
    return np.clip(interval, SHORTEST_RR, _LONGEST_RR).astype(np.float32)
