"""Segments for calibration and checks, from shards or simulated, and the inputs of a graph that are made of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from xmae_fast.config import ModelCfg
from xmae_fast.data.index.segment_index import Paths
from xmae_fast.export.graphs import Graph
from xmae_fast.export.runtimes import Arrays
from xmae_fast.ops.random_masking import random_masking


class Signals(NamedTuple):
    """Segments, scaled to [-1, 1] each.

    Attributes:
        ppg, ecg: [S, L] float32.
        source: where they come from, for reports.
    """

    ppg: np.ndarray
    ecg: np.ndarray
    source: str

    def __getitem__(self, rows) -> Signals:
        return Signals(self.ppg[rows], self.ecg[rows], self.source)

    def evenly(self, count: int) -> Signals:
        """At most `count` of them, evenly spaced."""
        return self[_evenly(len(self.ppg), count)]


def simulated(cfg: ModelCfg, count: int) -> Signals:
    """`count` simulated segments of the length that the model takes, each of another subject."""
    from xmae_fast.data import SimulationCfg, simulate

    fs = min(max(round(cfg.sampling_freq), 40), 2000)
    seconds = max(math.ceil(cfg.seq_len / fs), 5)
    simulation = simulate(count, 1, seed=77, cfg=SimulationCfg(sampling_freq=fs, seg_len=seconds))
    ppg, ecg = (_scaled(x[:, : cfg.seq_len]) for x in (simulation.ppg, simulation.ecg))
    return Signals(ppg, ecg, "simulated")


def of_shards(paths: Paths, cfg: ModelCfg, count: int, quality: float = 0.9) -> Signals:
    """Segments of shards.

    Args:
        paths: as for `SegmentLoader`.
        cfg: of the model.
        count: at most so many are taken, evenly spaced.
        quality: that both signals of a segment reach.

    Raises:
        ValueError: the segments have another length than the model takes, or what reading shards raises.
    """
    from xmae_fast.data.segments import Segments

    segments = Segments(paths, quality=quality)
    if segments.seq_len != cfg.seq_len:
        raise ValueError(f"data: expected segments of {cfg.seq_len} samples, got {segments.seq_len}")
    items = _evenly(len(segments), count)
    ppg, ecg = np.empty((2, len(items), cfg.seq_len), np.float32)
    good = segments.read(items, 0, ppg, ecg)
    names = ", ".join(sorted({shard.path.replace("\\", "/").rsplit("/", 1)[-1] for shard in segments.index.shards}))
    return Signals(ppg[good], ecg[good], names)


def visible_counts(graph: Graph, cfg: ModelCfg) -> tuple[int, ...]:
    """Numbers of visible patches to check: a fifth of all, as in the published pretraining, one, and all."""
    N = cfg.num_patches
    return tuple(dict.fromkeys((max(N // 5, 1), 1, N))) if "ids_keep" in graph.inputs else (N,)


def feed(graph: Graph, cfg: ModelCfg, signals: Signals, visible: int, seed: int = 0) -> Arrays:
    """The inputs of a graph by name, in its order.

    Args:
        graph: the graph.
        cfg: of the model.
        signals: the segments.
        visible: how many patches of the ECG an anchor mask leaves visible.
        seed: of the mask.
    """
    P, N, B = cfg.patch_len, cfg.num_patches, len(signals.ppg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ids_keep = random_masking(B, N, (N - visible) / N, impl="reference").ids_keep.numpy()
    patches = np.take_along_axis(signals.ecg.reshape(B, N, P), ids_keep[:, :, None], 1)
    known = {"ppg": signals.ppg, "ecg_visible": patches, "ids_keep": ids_keep}
    return {name: np.ascontiguousarray(known[name]) for name in graph.inputs}


def _evenly(available: int, count: int) -> np.ndarray:
    return np.linspace(0, available - 1, min(count, available)).round().astype(np.int64)


def _scaled(x: np.ndarray) -> np.ndarray:
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    return (2 * (x - low) / np.maximum(high - low, 1e-6) - 1).astype(np.float32)
