"""Computes the strength and the arrival of the pulse of each beat from the intervals before it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xmae_fast.simulation.population.beats import AF, PVC, SINUS, SVT, VT, Beats
from xmae_fast.simulation.population.config import PopulationCfg
from xmae_fast.simulation.population.random import BLOCK, Random, log_uniform, normal, uniform
from xmae_fast.simulation.population.ranges import CirculationCfg
from xmae_fast.simulation.population.subjects import Subjects

_EJECTION = 0.3  # s of an interval of 1 s in which the ventricle does not fill (Weissler et al., 1968)


class Pulses(NamedTuple):
    """The pulses of the beats of a block.

    Args:
        size: [n, beats] float32, relative to a sinus beat; 0 where the valve stays closed.
        foot: [n, beats] float32, the time of the foot of the pulse at the sensor, in s.
        p_wave: [n, 1] float32, in ventricular tachycardia the time of one of the dissociated P waves, in s.
    """

    size: np.ndarray
    foot: np.ndarray
    p_wave: np.ndarray


def draw_pulses(rng: Random, beats: Beats, subjects: Subjects, cfg: PopulationCfg) -> Pulses:
    """Compute the pulses of the beats.

    The ventricle fills exponentially after ejection has ended, and its strength grows with the ratio of the interval
    before the beat to the one before that. What is above the pressure of the valve is ejected; that pressure is higher
    after a short interval, because the aorta has had less time to empty. The pulse arrives after the pre-ejection
    period, which is longer for a weak beat, and the transit time, which is longer after a pause, when the diastolic
    pressure is low.
    """
    c = cfg.circulation
    interval, kind, normal_interval = beats.interval, beats.kind, beats.sinus_interval
    # In AF there is no sinus interval; a beat is compared with one of 0.7 s.
    usual = np.where(beats.rhythm == AF, np.float32(0.7), normal_interval)
    before = np.concatenate([usual, interval[:, :-1]], 1)
    tau = uniform(rng, c.filling_time, BLOCK)
    filled = _filled(interval, before, tau) / _filled(usual, usual, tau)
    ratio = np.clip(interval / before, 0.4, 2.5)
    strength = filled * ratio ** uniform(rng, c.potentiation, BLOCK)
    strength *= _of_kind(rng, kind, c)
    first_p = beats.time[:, :1] + normal_interval * rng.random((BLOCK, 1), np.float32)
    to_p = np.mod(beats.time - first_p, normal_interval)
    kick = uniform(rng, c.atrial_kick, BLOCK) * np.exp(-0.5 * ((to_p - 0.16) / 0.06) ** 2)
    strength *= np.where(kind == VT, 1 + kick, 1)
    uneven = log_uniform(rng, c.beat_spread, BLOCK) * np.where(kind == VT, 2, 1)
    strength *= np.exp(uneven * normal(rng, *kind.shape))
    valve = uniform(rng, c.valve, BLOCK)
    closed = valve * np.exp(-np.clip(interval - _recent(interval), -0.6, 0.6) / 0.8)
    size = np.maximum(strength - closed, 0) / (1 - valve)

    rate = 60 / np.maximum(interval, 0.4)
    weak = np.clip(1 - strength, 0, 1)
    pep = subjects.pep - 0.0004 * (rate - 70) + 0.05 * weak + np.where((kind == PVC) | (kind == VT), 0.02, 0)
    pressure = 0.02 * np.clip(interval / usual - 1, -0.5, 1) * subjects.transit / 0.2
    drift = 0.008 * normal(rng, BLOCK, 1) + 0.003 * normal(rng, *kind.shape)
    angle = 2 * np.pi * beats.breathing * beats.time + beats.breathing_phase
    pat = pep + subjects.transit + pressure + drift + 0.004 * np.sin(angle + 1)
    foot = beats.time + np.maximum(pat, 0.08)
    return Pulses(size.astype(np.float32), foot.astype(np.float32), first_p)


def _filled(interval: np.ndarray, before: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """How full the ventricle is after an interval, 0 to 1; ejection takes longer after a long interval."""
    ejection = _EJECTION * np.clip(before, 0.35, 1.4) ** 0.4
    return 1 - np.exp(-np.maximum(interval - ejection, 0.01) / tau)


def _recent(interval: np.ndarray) -> np.ndarray:
    """The mean of each interval and the three before it: what the pressure in the aorta has adapted to."""
    padded = np.concatenate([interval[:, :1]] * 3 + [interval], 1)
    return (padded[:, 3:] + padded[:, 2:-1] + padded[:, 1:-2] + padded[:, :-3]) / 4


def _of_kind(rng: Random, kind: np.ndarray, c: CirculationCfg) -> np.ndarray:
    """The strength of each kind of beat relative to a sinus beat of the same filling."""
    pvc = uniform(rng, c.pvc_strength, BLOCK) * np.exp(0.15 * normal(rng, *kind.shape))
    vt, svt = log_uniform(rng, c.vt_strength, BLOCK), uniform(rng, c.svt_strength, BLOCK)
    return np.select([kind == PVC, kind == VT, kind == SVT, kind == SINUS], [pvc, vt, svt, 1], np.float32(1))
