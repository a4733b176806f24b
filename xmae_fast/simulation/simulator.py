"""Synchronised ECG and PPG of known timing: R peaks, pulse feet and pulse arrival times come with the signals.

sim = simulate(num_subjects=50, segments_per_subject=20, seed=77)
sim.ecg, sim.ppg        # (1000, 1000) float32 in [-1, 1]
sim.r_times, sim.pat    # (1000, max_beats) seconds, NaN-padded
"""

import os
import re
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from xmae_fast._files import atomic_path, check_replaceable
from xmae_fast.data.formats.shards import open_shard, write_shard
from xmae_fast.simulation.config import SimulationCfg
from xmae_fast.simulation.rhythm import BLOCK, Rhythm, draw, make_rhythm
from xmae_fast.simulation.waveforms import disturbances, ecg_waveform, ppg_waveform

_SEGMENTS_PER_CHUNK = 256


@dataclass(frozen=True, eq=False)
class Simulation:
    """S segments of L samples with their truth, ordered by subject, then segment. Times are seconds from the first
    sample of the segment; beats are those whose R peak lies in [0, seg_len), in order, NaN (False) after the last.

    The foot of a beat near the end may lie after the last sample, and the first pulse in a segment may belong to an
    R peak before it. Qualities are P / (P + D), P the power of the clean signal and D that of noise and motion: a
    stand-in for the published template match with the same threshold, 0.9 being a signal-to-noise ratio of 9.5 dB."""

    cfg: SimulationCfg
    seed: int
    ppg: np.ndarray  # (S, L) float32, [-1, 1] per segment
    ecg: np.ndarray  # (S, L) float32, [-1, 1] per segment
    time: np.ndarray  # (L,) s
    subject: np.ndarray  # (S,) int64
    r_times: np.ndarray  # (S, max_beats) s
    foot_times: np.ndarray  # (S, max_beats) s: r_times + pat, intersecting-tangent foot (waveforms.ppg_waveform)
    pat: np.ndarray  # (S, max_beats) s: R peak to PPG foot
    is_pvc: np.ndarray  # (S, max_beats) bool
    heart_rate: np.ndarray  # (S,) bpm, 60 / mean interval between the R peaks
    pat_mean: np.ndarray  # (S,) s
    has_pvc: np.ndarray  # (S,) bool
    respiration_rate: np.ndarray  # (S,) breaths per minute
    motion: np.ndarray  # (S,) fraction of the segment under a motion burst
    ppg_quality: np.ndarray  # (S,) [0, 1]
    ecg_quality: np.ndarray  # (S,) [0, 1]
    subject_pat: np.ndarray  # (num_subjects,) s, the subject's own PAT, before within-subject variation

    def save_truth(self, path: str | os.PathLike, segments: slice = slice(None), **extra: np.ndarray) -> None:
        """Everything but the signals to an .npz file, atomically; `segments` selects rows, `extra` adds arrays.
        FileExistsError where another file than such a one is there."""
        check_replaceable(path, _is_truth, "the truth of a simulation", "path")
        truth = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("cfg", "seed", "ppg", "ecg")}
        rows = {name: value if name in ("time", "subject_pat") else value[segments] for name, value in truth.items()}
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, seed=self.seed, cfg=repr(asdict(self.cfg)), **rows, **extra)

    def write_shards(
        self,
        folder: str | os.PathLike,
        *,
        dataset: str = "sim",
        segments_per_shard: int = 20_000,
        overwrite: bool = False,
    ) -> list[Path]:
        """Shards in the published layout, `<folder>/<dataset>_0000.h5` and so on, each with its truth beside it in
        `<dataset>_0000.truth.npz`: one row per record, array `key` holding `<group>/<key>`. Returns the shards.

        FileExistsError where the folder holds shards of that data set already; `overwrite` replaces those of an earlier
        simulation, which are known by their truth, and no others."""
        if segments_per_shard < 1:
            raise ValueError(f"segments_per_shard: expected at least 1, got {segments_per_shard}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder, dataset, overwrite)
        in_subject = np.arange(len(self.subject)) - np.searchsorted(self.subject, self.subject)
        paths = []
        for number, start in enumerate(range(0, len(self.subject), segments_per_shard)):
            rows = slice(start, start + segments_per_shard)
            path = folder / f"{dataset}_{number:04d}.h5"
            names = write_shard(
                path,
                self.ppg[rows],
                self.ecg[rows],
                [f"{dataset}_{subject:06d}" for subject in self.subject[rows]],
                ppg_quality=self.ppg_quality[rows],
                ecg_quality=self.ecg_quality[rows],
                sampling_freq=self.cfg.sampling_freq,
                index=in_subject[rows],
            )
            self.save_truth(path.with_suffix(".truth.npz"), rows, key=np.array(names))
            paths.append(path)
        return paths


def simulate(
    num_subjects: int = 100, segments_per_subject: int = 10, *, seed: int = 77, cfg: SimulationCfg | None = None
) -> Simulation:
    """Simulate `num_subjects * segments_per_subject` segments. The same arguments give the same bits on the same numpy
    build, and segment j of subject i is the same whatever num_subjects and segments_per_subject are.

    PAT of a subject is drawn independently of every other property, so neither signal alone tells it: only their
    relation does, unless `cfg.pat_coupling` lets the pulse's shape tell part of it. ValueError if a count is below 1 or
    seed is not in [0, 2^64)."""
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
    subject_pat = result.pop("subject_pat")[::segments_per_subject]
    time = np.arange(cfg.seq_len) / cfg.sampling_freq
    return Simulation(cfg=cfg, seed=seed, time=time, subject_pat=subject_pat, **result)


def _make_room(folder: Path, dataset: str, overwrite: bool) -> None:
    """No shards of `dataset` are left in `folder`: those of an earlier simulation would mix with the new ones."""
    name = re.compile(re.escape(dataset) + r"_\d{4,}(\.h5|\.truth\.npz)")
    found = sorted(path for path in folder.iterdir() if name.fullmatch(path.name))
    if found and not overwrite:
        raise FileExistsError(f"output: {found[0]} is there already (overwrite replaces an earlier simulation)")
    for path in found:
        if path.suffix == ".h5":
            check_replaceable(path, _is_simulated, "a simulated shard with its truth beside it")
        else:
            check_replaceable(path, _is_truth, "the truth of a simulation")
    for path in found:
        path.unlink()


def _is_truth(path: Path) -> bool:
    """Whether a file is one of `save_truth`."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {"seed", "cfg", "pat"} <= set(stored.files)
    except (OSError, ValueError, AttributeError, EOFError, BadZipFile):
        return False


def _is_simulated(shard: Path) -> bool:
    """Whether a shard holds just the records of which the truth is beside it."""
    truth = shard.with_suffix(".truth.npz")
    if not _is_truth(truth):
        return False
    try:
        with open_shard(str(shard)) as file, np.load(truth, allow_pickle=False) as stored:
            return {f"{group}/{key}" for group in file for key in file[group]} == set(stored["key"].tolist())
    except (OSError, ValueError, RuntimeError, TypeError, KeyError):
        return False


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
        "has_pvc": is_pvc.any(1),
    }


def _quality(clean: np.ndarray, noise: np.ndarray) -> np.ndarray:
    power, disturbance = clean.var(1, dtype=np.float64), np.square(noise, dtype=np.float64).mean(1)
    return power / (power + disturbance)


def _min_max(x: np.ndarray) -> np.ndarray:
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    return (2 * (x - low) / (high - low) - 1).astype(np.float32)
