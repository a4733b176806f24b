"""Draws the subjects of the simulated population: what stays the same over their segments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xmae_fast.simulation.population.config import PopulationCfg
from xmae_fast.simulation.population.random import BLOCK, Random, choose, log_uniform, normal, uniform

_PTT_PER_YEAR, _PTT_PER_MMHG = 0.0008, 0.001  # s
_WAY = np.array([1.0, 0.92, 0.62], np.float32)  # transit time relative to the finger: finger, wrist, ear


class Subjects(NamedTuple):
    """The subjects of the segments of a block; each array is [256, 1] float32 unless stated.

    Args:
        age: years.
        stiffness: 0 (elastic) to 1 (stiff); it follows age and pressure.
        site: 0 finger, 1 wrist, 2 ear; int.
        pressure: mean arterial pressure in mmHg.
        rate: standard normal, the subject's part of the heart rate.
        pep: pre-ejection period at 70 beats per minute, in s.
        transit: pulse transit time to the site plus the delay of the recorder, in s.
        breathing_rate: breaths per second.
    """

    age: np.ndarray
    stiffness: np.ndarray
    site: np.ndarray
    pressure: np.ndarray
    rate: np.ndarray
    pep: np.ndarray
    transit: np.ndarray
    breathing_rate: np.ndarray


def draw_subjects(rng: Random, cfg: PopulationCfg) -> Subjects:
    """Draw the subjects of a block.

    The transit time is that of age 25 and 90 mmHg, less 0.8 ms per year and 1 ms per mmHg: pulse wave velocity about
    doubles between 25 and 75 years (Charlton et al., 2019).
    """
    count, c = BLOCK // cfg.segments_per_subject, cfg.circulation
    age, pressure = uniform(rng, c.age, count), uniform(rng, c.pressure, count)
    stiffness = (age - 20) / 65 * 0.75 + (pressure - 65) / 60 * 0.25 + 0.15 * normal(rng, count, 1)
    stiffness = np.clip(stiffness, 0, 1)
    site = choose(rng, cfg.ppg.site, count)
    transit = uniform(rng, c.ptt, count) - _PTT_PER_YEAR * (age - 25) - _PTT_PER_MMHG * (pressure - 90)
    transit = np.clip(transit, 0.05, 0.4) * _WAY[site]
    delay = uniform(rng, c.monitor_delay, count)
    transit += np.where(rng.random((count, 1)) < 0.5, delay, 0)
    subjects = Subjects(
        age=age,
        stiffness=stiffness,
        site=site,
        pressure=pressure,
        rate=normal(rng, count, 1),
        pep=uniform(rng, c.pep, count),
        transit=transit,
        breathing_rate=log_uniform(rng, cfg.rhythm.breathing_rate, count) / 60,
    )
    return Subjects(*(repeat(x, cfg) for x in subjects))


def repeat(of_subjects: np.ndarray, cfg: PopulationCfg) -> np.ndarray:
    """Give each segment of a block the row of its subject."""
    return np.repeat(of_subjects, cfg.segments_per_subject, axis=0)
