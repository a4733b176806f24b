"""The study of runtimes that share a process calls both in turns, and times ours alone."""

from __future__ import annotations

import torch

from benchmarks.studies.neighbours import milliseconds


def test_each_call_of_ours_follows_one_of_the_neighbour():
    calls = []

    def neighbour(ppg):
        calls.append("neighbour")

    def ours(ppg):
        calls.append("ours")

    times = milliseconds(neighbour, ours, torch.zeros(1), 0.0, 3)
    assert calls == ["neighbour", "ours"] * 8  # five rounds are not timed
    assert len(times) == 3
