"""Simulates segments of the population by their number: as arrays, or as an endless stream of batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xmae_fast._config_checks import expect, is_whole
from xmae_fast.simulation.population.beats import Beats, draw_beats
from xmae_fast.simulation.population.circulation import Pulses, draw_pulses
from xmae_fast.simulation.population.config import PopulationCfg
from xmae_fast.simulation.population.ecg import draw_ecg
from xmae_fast.simulation.population.ppg import draw_ppg
from xmae_fast.simulation.population.preparation import prepare
from xmae_fast.simulation.population.random import BLOCK, stream
from xmae_fast.simulation.population.subjects import draw_subjects

Batch = dict[str, np.ndarray]


def simulate_population(count: int, *, seed: int = 77, start: int = 0, cfg: PopulationCfg | None = None) -> Batch:
    """Simulate the segments `start` to `start + count - 1` of the population.

    A segment depends only on `seed`, on its number and on `cfg`: 256 segments are always simulated together, and their
    numbers choose the random streams. The same arguments give the same bits with the same builds of NumPy and SciPy.
    Segments of a subject follow each other, `cfg.segments_per_subject` of them.

    Args:
        count: how many segments; at least 1.
        seed: in [0, 2^64).
        start: the number of the first segment; at least 0.
        cfg: the settings; by default `PopulationCfg()`.

    Returns:
        Arrays by name. n is `count`; times are in s from the first sample of the segment. Arrays of beats are padded
        with NaN, -1 or 0 after the last R peak in [0, seg_len).

        - `ppg`, `ecg`: [n, L] float32, each segment scaled to [-1, 1].
        - `rhythm`: [n] int8, the number in `RHYTHMS`.
        - `index`, `subject`: [n] int64.
        - `r_times`: [n, max_beats] float32, the R peaks; of wide beats the middle of the main wave.
        - `foot_times`: [n, max_beats] float32, the feet of the pulses (intersecting tangents); NaN without a pulse.
        - `pulse_size`: [n, max_beats] float32, relative to a sinus beat; 0 where the beat has no pulse.
        - `beat_kind`: [n, max_beats] int8, as `rhythm`; -1 for padding.
        - `heart_rate`: [n] float32, 60 / mean RR interval; `respiration_rate`: [n] float32, per minute.
        - `ppg_faults`, `ecg_faults`: [n] float32, the share of the segment under motion or lost contact.
        - `age`: [n] float32 in years; `pressure`: [n] float32, mean arterial pressure in mmHg; `site`: [n] int8, 0
          finger, 1 wrist, 2 ear.

    Raises:
        ValueError: an argument is out of range.
        ImportError: SciPy is missing and `cfg.clean` is True.
    """
    cfg = cfg or PopulationCfg()
    expect(is_whole(count) and count > 0, "count", "a whole number, at least 1", count)
    expect(is_whole(start) and start >= 0, "start", "a whole number, at least 0", start)
    expect(is_whole(seed) and 0 <= seed < 2**64, "seed", "an integer in [0, 2^64)", seed)
    result: Batch = {}
    done = 0
    while done < count:
        block, first = divmod(start + done, BLOCK)
        rows = min(BLOCK - first, count - done)
        for name, values in simulate_block(seed, block, cfg).items():
            if name not in result:
                result[name] = np.empty((count, *values.shape[1:]), values.dtype)
            result[name][done : done + rows] = values[first : first + rows]
        done += rows
    return result


class PopulationStream:
    """An endless stream of batches of simulated segments, for pretraining without files.

    Args:
        seed: in [0, 2^64).
        batch_size: segments of a batch.
        start: the number of the first segment; the stream goes on at any segment, for example at `position` of a stream
            that was stopped.
        step: from one batch of this stream to the next, in batches; `workers` streams with the starts
            0, batch_size, 2 * batch_size, ... and this step share the segments among them.
        cfg: the settings; by default `PopulationCfg()`.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, seed: int, batch_size: int, *, start: int = 0, step: int = 1, cfg: PopulationCfg | None = None
    ) -> None:
        expect(is_whole(seed) and 0 <= seed < 2**64, "seed", "an integer in [0, 2^64)", seed)
        expect(is_whole(batch_size) and batch_size > 0, "batch_size", "a whole number, at least 1", batch_size)
        expect(is_whole(start) and start >= 0, "start", "a whole number, at least 0", start)
        expect(is_whole(step) and step > 0, "step", "a whole number, at least 1", step)
        self.seed, self.batch_size, self.step = seed, batch_size, step
        self.cfg = cfg or PopulationCfg()
        self.position = start
        self._block: tuple[int, Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch, with the arrays of `simulate_population`."""
        parts = []
        at, stop = self.position, self.position + self.batch_size
        while at < stop:
            block, first = divmod(at, BLOCK)
            rows = min(BLOCK - first, stop - at)
            parts.append({name: values[first : first + rows] for name, values in self._simulated(block).items()})
            at += rows
        self.position += self.step * self.batch_size
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _simulated(self, block: int) -> Batch:
        if self._block is None or self._block[0] != block:
            self._block = block, simulate_block(self.seed, block, self.cfg)
        return self._block[1]


def simulate_block(seed: int, block: int, cfg: PopulationCfg) -> Batch:
    """The segments 256 * block to 256 * block + 255, as `simulate_population` gives them."""
    streams = [stream(seed, block, purpose) for purpose in range(8)]
    of_subjects, of_beats, of_pulses, ppg_shape, of_ppg, ecg_shape, of_ecg, of_preparation = streams
    subjects = draw_subjects(of_subjects, cfg)
    beats = draw_beats(of_beats, subjects, cfg)
    pulses = draw_pulses(of_pulses, beats, subjects, cfg)
    ppg, ppg_faults = draw_ppg(ppg_shape, of_ppg, beats, pulses, subjects, cfg)
    ecg, ecg_faults = draw_ecg(ecg_shape, of_ecg, beats, pulses, cfg)
    ecg *= np.where(of_ecg.random((BLOCK, 1)) < cfg.ecg.inverted, np.float32(-1), np.float32(1))
    ppg, ecg = prepare(of_preparation, ppg, ecg, cfg)
    index = block * BLOCK + np.arange(BLOCK)
    return {
        "ppg": ppg,
        "ecg": ecg,
        "rhythm": beats.rhythm[:, 0].astype(np.int8),
        "index": index,
        "subject": index // cfg.segments_per_subject,
        **_truth(beats, pulses, cfg),
        "respiration_rate": 60 * beats.breathing[:, 0].astype(np.float32),
        "ppg_faults": ppg_faults,
        "ecg_faults": ecg_faults,
        "age": subjects.age[:, 0].astype(np.float32),
        "pressure": subjects.pressure[:, 0].astype(np.float32),
        "site": subjects.site[:, 0].astype(np.int8),
    }


def _truth(beats: Beats, pulses: Pulses, cfg: PopulationCfg) -> Batch:
    inside = (beats.time >= 0) & (beats.time < cfg.seg_len)
    first = inside.argmax(1)[:, None]
    at = np.minimum(first + np.arange(cfg.max_beats), beats.time.shape[1] - 1)
    there = np.take_along_axis(inside, at, 1) & (np.arange(cfg.max_beats) < inside.sum(1)[:, None])
    r, foot, size, kind = (np.take_along_axis(x, at, 1) for x in (beats.time, pulses.foot, pulses.size, beats.kind))
    count = there.sum(1)
    span = np.where(there, r, -np.inf).max(1) - r[:, 0]
    missing = np.float32(np.nan)
    return {
        "r_times": np.where(there, r, missing),
        "foot_times": np.where(there & (size > 0), foot, missing),
        "pulse_size": np.where(there, size, 0).astype(np.float32),
        "beat_kind": np.where(there, kind, -1).astype(np.int8),
        "heart_rate": (60 * (count - 1) / np.maximum(span, 1e-3)).astype(np.float32),
    }
