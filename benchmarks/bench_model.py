"""Inference and the training step under pytest-benchmark, without the compiled baselines."""

from __future__ import annotations

import pytest

from benchmarks.bench_ops import CPU, contestants, race
from benchmarks.suites import model, train


@pytest.mark.parametrize(("group", "contestant"), contestants(model.groups(CPU)))
def test_inference(benchmark, group, contestant):
    race(benchmark, group, contestant)


@pytest.mark.parametrize(("group", "contestant"), contestants(train.groups(CPU)))
def test_training_step(benchmark, group, contestant):
    race(benchmark, group, contestant)
