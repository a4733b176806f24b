"""How the mask ratio and the learning rate change in a run."""

from __future__ import annotations

import math

import pytest

from xmae_fast.training.curriculum import Constant, Ladder, Schedule, make_curriculum
from xmae_fast.training.schedule import lr_factor, progress


def climb(ladder: Ladder, losses: list[float]) -> list[float]:
    ratios = []
    for loss in losses:
        ladder.validated(loss)
        ratios.append(ladder.ratio(0))
    return ratios


def test_the_ladder_waits_for_a_loss_below_its_threshold():
    ladder = make_curriculum({}, 0.5)
    assert climb(ladder, [0.3, 0.09, 0.0899]) == [0.5, 0.5, 0.8]


def test_the_ladder_steps_up_when_the_average_has_improved_enough():
    ladder = Ladder(0.8)
    assert climb(ladder, [0.08]) == [0.8]
    assert climb(ladder, [0.04, 0.04]) == [0.8, 0.8]  # 0.072, 0.0656: 10 % better, but only two epochs
    assert climb(ladder, [0.04]) == [0.85]
    assert ladder.entry == pytest.approx(0.8**3 * 0.08 + (1 - 0.8**3) * 0.04)
    assert climb(ladder, [ladder.entry * 0.99] * 8) == [0.85] * 8  # never 10 % better
    assert climb(ladder, [0.0] * 4) == [0.9] * 4
    assert climb(ladder, [0.0] * 9) == [0.9] * 9  # the last rung


def test_the_ladder_says_what_changes():
    ladder = Ladder(0.8, min_epochs=0)
    assert "begins at mask ratio 0.8" in ladder.validated(0.05)
    assert ladder.validated(0.05) == ""
    assert "mask ratio 0.85: averaged validation loss 0.05 -> 0.04" in ladder.validated(0.0)


def test_a_resumed_ladder_goes_on():
    losses = [0.1, 0.08, 0.05, 0.05, 0.05, 0.04, 0.02, 0.01, 0.01]
    whole = climb(Ladder(0.8), losses)
    for cut in range(len(losses)):
        first, second = Ladder(0.8), Ladder(0.8)
        begun = climb(first, losses[:cut])
        second.load_state_dict(first.state_dict())
        assert begun + climb(second, losses[cut:]) == whole
    assert len(set(whole)) == 3
    with pytest.raises(ValueError, match="curriculum: the state is on rung 2, this ladder has 1"):
        Ladder(0.8, [0.8]).load_state_dict({"level": 2})


def test_schedules():
    points = [[10, 0.5], [20, 0.7], [40, 0.9]]
    linear, steps = (make_curriculum({"schedule": points, "interpolation": how}, 0.8) for how in ("linear", "steps"))
    assert [linear.ratio(s) for s in (0, 10, 15, 20, 30, 40, 99)] == pytest.approx([0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9])
    assert [steps.ratio(s) for s in (0, 10, 15, 20, 39, 40, 99)] == [0.5, 0.5, 0.5, 0.7, 0.7, 0.9, 0.9]
    assert Schedule([(0, 0.3)]).ratio(7) == 0.3
    assert linear.validated(0.0) == ""


def test_without_a_curriculum_the_ratio_is_constant():
    assert make_curriculum(None, 0.6) == Constant(0.6)
    assert Constant(0.6).ratio(10**6) == 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": []}, "curriculum.schedule: expected \\[step, ratio\\] pairs"),
        ({"schedule": [[0, 0.5], [0, 0.6]]}, "steps rising"),
        ({"schedule": [[0, 50]]}, "ratios in \\[0, 1\\]"),
        ({"schedule": [0.5]}, "curriculum.schedule: expected"),
        ({"schedule": 0.5}, "curriculum.schedule: expected a list"),
        ({"schedule": [[0, 0.5]], "interpolation": "cubic"}, "curriculum.interpolation: expected 'linear'"),
        ({"schedule": [[0, 0.5]], "beta": 0.5}, "unknown key 'beta'; known keys are schedule, interpolation"),
        ({"ladder": []}, "curriculum.ladder: expected ratios"),
        ({"ladder": [80]}, "curriculum.ladder: expected ratios"),
        ({"beta": 1.0}, "curriculum.beta: expected a number"),
        ({"start_below": "x"}, "curriculum.start_below: expected a number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make_curriculum(options, 0.8)


def test_the_learning_rate_rises_for_a_tenth_and_falls_to_nothing():
    factors = [lr_factor(progress(step, 100), 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 0.5) / 10 for step in range(10)])
    assert factors == sorted(factors[:10]) + sorted(factors[10:], reverse=True)
    assert factors[10] > 0.999
    assert factors[-1] < 1e-4
    assert factors[54] == pytest.approx(0.5 * (1 + math.cos(math.pi * (0.545 - 0.1) / 0.9)))
    assert lr_factor(0.3, 0.0) < 1
    assert lr_factor(1.0, 1.0) == 1.0


def test_the_schedule_ends_with_the_time():
    assert progress(9, 1000, 300.0, 600.0) == 0.5
    assert progress(899, 1000, 300.0, 600.0) == 0.8995
    assert progress(9, 1000, 700.0, 600.0) == 1.0
    assert lr_factor(progress(9, 1000, 600.0, 600.0), 0.1) == 0.0
