from fractions import Fraction

import pytest

from benchmark.config import RunConfig
from benchmark.schedule import kept_fraction, schedule, step_lr


def test_learning_rate_steps():
    rates = [step_lr(0.1, epoch, 160) for epoch in range(160)]
    assert [rates.count(rate) for rate in (0.1, 0.01, 0.001)] == [80, 40, 40]
    assert rates == sorted(rates, reverse=True)


def test_budget_holds_everything():
    timetable = schedule(RunConfig(prune_epoch=40, rounds=5))
    assert (timetable.dense, timetable.cuts, timetable.total) == (40, (40, 41, 42, 43, 44), 160)
    assert [timetable.lr(epoch) for epoch in (0, 79, 80, 120)] == [0.1, 0.1, 0.01, 0.001]


def test_rounds_train_at_the_initial_rate():
    timetable = schedule(RunConfig(prune_epoch=130, rounds=3))
    assert [timetable.lr(epoch) for epoch in (129, 130, 131, 132)] == [0.001, 0.1, 0.1, 0.001]


def test_restart_starts_the_schedule_anew():
    timetable = schedule(RunConfig(prune_epoch="trained", rounds=2))
    assert (timetable.dense, timetable.cuts, timetable.total) == (160, (160, 161), 320)
    assert [timetable.lr(epoch) for epoch in (159, 160, 239, 240, 319)] == [
        0.001,
        0.1,
        0.1,
        0.01,
        0.001,
    ]


def test_dense_control_is_all_dense_phase():
    timetable = schedule(RunConfig(measure="none", epochs=20))
    assert (timetable.dense, timetable.cuts, timetable.total) == (20, (), 20)


@pytest.mark.parametrize(("percent", "rounds"), [(75, 1), (75, 5), (60, 25)])
def test_kept_fraction_is_the_product_of_the_authors_rounds(percent, rounds):
    p, left = Fraction(percent, 100), Fraction(1)
    for k in range(1, rounds + 1):
        left *= 1 - p / (k * p + rounds * (1 - p))
        assert kept_fraction(float(p), k, rounds) == pytest.approx(float(left), rel=1e-12)
    assert left == 1 - p
