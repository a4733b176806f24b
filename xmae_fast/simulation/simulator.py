"""Simulates synchronised ECG and PPG with known R peaks, pulse feet and pulse arrival times.

sim = simulate(num_subjects=50, segments_per_subject=20, seed=77)
sim.ecg, sim.ppg        # [1000, 1000] float32 in [-1, 1]
sim.r_times, sim.pat    # [1000, max_beats] seconds, padded with NaN
"""

import os
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from xmae_fast._files import Lock, atomic_path, check_replaceable
from xmae_fast.data.formats.shards import write_shard
from xmae_fast.simulation.config import SimulationCfg
from xmae_fast.simulation.replacing import all_or_none, is_truth, make_room
from xmae_fast.simulation.rhythm import BLOCK, Rhythm, draw, make_rhythm
from xmae_fast.simulation.waveforms import disturbances, ecg_waveform, ppg_waveform
from xmae_fast.workers.progress import Progress

_SEGMENTS_PER_CHUNK = 256  # simulated at a time, which limits the memory


@dataclass(frozen=True, eq=False)
class Simulation:
    """n segments of L samples and their truth, in the order of the subjects and of the segments of each.

    Times are in seconds from the first sample of the segment. The beats of a segment are those whose R peak lies in
    [0, seg_len), in order; after the last one arrays hold NaN or False. The foot of a beat near the end may lie after
    the last sample, and the first pulse in a segment may belong to an R peak before it.

    Args:
        cfg: the settings.
        seed: of the random numbers.
        ppg: [n, L] float32, each segment in [-1, 1].
        ecg: [n, L] float32, each segment in [-1, 1].
        time: [L], in seconds.
        subject: [n] int64.
        r_times: [n, max_beats], the times of the R peaks.
        foot_times: [n, max_beats], the times of the PPG feet, r_times + pat; the foot is the intersecting-tangent point
            (see `ppg_waveform`).
        pat: [n, max_beats], from the R peak to the foot of the PPG, in seconds.
        is_pvc: [n, max_beats] bool.
        heart_rate: [n], beats per minute: 60 / mean interval between the R peaks.
        pat_mean: [n], in seconds.
        has_pvc: [n] bool.
        respiration_rate: [n], breaths per minute.
        motion: [n], the share of the segment under a burst of motion.
        ppg_quality: [n], in [0, 1]: P / (P + D), where P is the power of the clean signal and D that of noise and
            motion. It stands in for the published template match and has the same threshold; 0.9 is a signal-to-noise
            ratio of 9.5 dB.
        ecg_quality: [n], the same.
        subject_pat: [num_subjects], the subjects' own PAT in seconds, without variation within the subject.
    """

    cfg: SimulationCfg
    seed: int
    ppg: np.ndarray
    ecg: np.ndarray
    time: np.ndarray
    subject: np.ndarray
    r_times: np.ndarray
    foot_times: np.ndarray
    pat: np.ndarray
    is_pvc: np.ndarray
    heart_rate: np.ndarray
    pat_mean: np.ndarray
    has_pvc: np.ndarray
    respiration_rate: np.ndarray
    motion: np.ndarray
    ppg_quality: np.ndarray
    ecg_quality: np.ndarray
    subject_pat: np.ndarray

    def save_truth(self, path: str | os.PathLike, segments: slice = slice(None), **extra: np.ndarray) -> None:
        """Write everything but the signals to an .npz file, which appears whole or not at all.

        Args:
            path: the file; an earlier truth is replaced.
            segments: which segments are written.
            extra: further arrays, by name.

        Raises:
            FileExistsError: a file of another kind is there.
        """
        check_replaceable(path, is_truth, "the truth of a simulation", "path")
        truth = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("cfg", "seed", "ppg", "ecg")}
        rows: dict[str, Any] = {
            name: value if name in ("time", "subject_pat") else value[segments] for name, value in truth.items()
        }
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            further: dict[str, Any] = extra  # in numpy's types a name might be that of an option
            np.savez(file, seed=self.seed, cfg=repr(asdict(self.cfg)), **rows, **further)

    def write_shards(
        self,
        folder: str | os.PathLike,
        *,
        dataset: str = "sim",
        segments_per_shard: int = 20_000,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write shards of the published layout, `<dataset>_0000.h5` and so on.

        Beside each shard is its truth, `<dataset>_0000.truth.npz`, with a row for each record; its array `key` holds
        `<group>/<key>`.

        Args:
            folder: is made if it is missing.
            dataset: the first part of the names of files and groups.
            segments_per_shard: how many segments a shard has at most.
            overwrite: replace the shards of an earlier simulation, which are recognised by their truth; no other file
                is replaced.

        Returns:
            The paths of the shards.

        Raises:
            FileExistsError: the folder holds shards of that data set, and they are not to be replaced.
            ValueError: `segments_per_shard` is below 1.
        """
        if segments_per_shard < 1:
            raise ValueError(f"segments_per_shard: expected at least 1, got {segments_per_shard}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with Lock(folder):
            make_room(folder, dataset, overwrite)
            return self._write(folder, dataset, segments_per_shard)

    def _write(self, folder: Path, dataset: str, segments_per_shard: int) -> list[Path]:
        """Write all shards; if one cannot be written, the others are removed."""
        in_subject = np.arange(len(self.subject)) - np.searchsorted(self.subject, self.subject)
        with all_or_none() as paths:
            for number, start in enumerate(range(0, len(self.subject), segments_per_shard)):
                paths.append(folder / f"{dataset}_{number:04d}.h5")
                rows = slice(start, start + segments_per_shard)
                names = [f"{dataset}_{subject:06d}" for subject in self.subject[rows]]
                records = write_shard(
                    paths[-1], self.ppg[rows], self.ecg[rows], names, ppg_quality=self.ppg_quality[rows],
                    ecg_quality=self.ecg_quality[rows], sampling_freq=self.cfg.sampling_freq, index=in_subject[rows],
                )  # fmt: skip
                self.save_truth(paths[-1].with_suffix(".truth.npz"), rows, key=np.array(records))
        return paths


def simulate(
    num_subjects: int = 100,
    segments_per_subject: int = 10,
    *,
    seed: int = 77,
    cfg: SimulationCfg | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Simulate `num_subjects * segments_per_subject` segments.

    The same arguments give the same bits with the same build of NumPy. Segment j of subject i does not depend on
    `num_subjects` and `segments_per_subject`. A subject's PAT is drawn independently of all its other properties, so
    that neither signal alone tells it but only the relation between them, unless `cfg.pat_coupling` lets the shape of
    the pulse tell a part of it.

    Args:
        num_subjects: at least 1.
        segments_per_subject: at least 1.
        seed: in [0, 2^64).
        cfg: the settings; by default `SimulationCfg()`.
        progress: is called with ("simulate", segments that are done, segments in all).

    Raises:
        ValueError: a count is below 1, or `seed` is out of range.
    """
    cfg = cfg or SimulationCfg()
    for name, count in (("num_subjects", num_subjects), ("segments_per_subject", segments_per_subject)):
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}: expected a whole number, at least 1, got {count!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected an integer in [0, 2^64), got {seed}")
    total = num_subjects * segments_per_subject
    blocks = (
        (subject, start // BLOCK, min(BLOCK, segments_per_subject - start))
        for subject in range(num_subjects)
        for start in range(0, segments_per_subject, BLOCK)
    )
    blocks_per_chunk = -(-_SEGMENTS_PER_CHUNK // min(BLOCK, segments_per_subject))
    result: dict[str, np.ndarray] = {}
    done = 0
    while done < total:
        rows = _simulate_chunk(seed, list(islice(blocks, blocks_per_chunk)), cfg)
        count = len(rows["subject"])
        for name, value in rows.items():
            if name not in result:
                result[name] = np.empty((total, *value.shape[1:]), value.dtype)
            result[name][done : done + count] = value
        done += count
        if progress is not None:
            progress("simulate", done, total)
    subject_pat = result.pop("subject_pat")[::segments_per_subject]
    time = np.arange(cfg.seq_len) / cfg.sampling_freq
    return Simulation(cfg=cfg, seed=seed, time=time, subject_pat=subject_pat, **result)


def _simulate_chunk(seed: int, blocks: list[tuple[int, int, int]], cfg: SimulationCfg) -> dict[str, np.ndarray]:
    draws = draw(seed, blocks, cfg)
    rhythm = make_rhythm(draws, cfg)
    ecg, ppg = ecg_waveform(rhythm, draws, cfg), ppg_waveform(rhythm, draws, cfg)
    ppg_wander, ecg_wander, ppg_noise, ecg_noise, motion = disturbances(rhythm, draws, cfg)
    return {
        "ppg": _min_max(ppg + ppg_wander + ppg_noise),
        "ecg": _min_max(ecg + ecg_wander + ecg_noise),
        "subject": draws.subject,
        "ppg_quality": _quality(ppg, ppg_noise),
        "ecg_quality": _quality(ecg, ecg_noise),
        "motion": motion,
        "respiration_rate": 60 * rhythm.respiration,
        "subject_pat": rhythm.subject_pat,
        **_truth(rhythm, cfg),
    }


def _truth(rhythm: Rhythm, cfg: SimulationCfg) -> dict[str, np.ndarray]:
    inside = (rhythm.r_times >= 0) & (rhythm.r_times < cfg.seg_len)
    beats = np.argsort(~inside, axis=1, kind="stable")[:, : cfg.max_beats]
    inside = np.take_along_axis(inside, beats, 1)
    r_times, pat = (np.where(inside, np.take_along_axis(x, beats, 1), np.nan) for x in (rhythm.r_times, rhythm.pat))
    is_pvc = inside & np.take_along_axis(rhythm.is_pvc, beats, 1)
    return {
        "r_times": r_times,
        "foot_times": r_times + pat,
        "pat": pat,
        "is_pvc": is_pvc,
        "heart_rate": 60 * (inside.sum(1) - 1) / (np.nanmax(r_times, 1) - np.nanmin(r_times, 1)),
        "pat_mean": np.nanmean(pat, 1),
        "has_pvc": np.asarray(is_pvc.any(1)),
    }


def _quality(clean: np.ndarray, noise: np.ndarray) -> np.ndarray:
    power, disturbance = clean.var(1, dtype=np.float64), np.square(noise, dtype=np.float64).mean(1)
    return power / (power + disturbance)


def _min_max(x: np.ndarray) -> np.ndarray:
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    return (2 * (x - low) / (high - low) - 1).astype(np.float32)
