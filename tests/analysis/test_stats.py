"""Intervals cover what they should, for few seeds too."""

import numpy as np
import pytest

from analysis import stats


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 3), (2, 3), (6, 3), (2, 5)])
def test_intervals_cover_the_truth_at_their_level(tasks, seeds):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        interval = stats.mean_interval(list(rng.normal(size=(tasks, seeds))), rng, resamples=499)
        covered += interval[0] <= 0 <= interval[1]
    assert covered / 300 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300)


@pytest.mark.parametrize("scales", [(1, 0, 0), (1, 0.1, 0.01), (3, 1, 1)])
def test_intervals_cover_the_truth_when_tasks_vary_unequally(scales):
    """A task in which nothing varies (a cut that changes nothing, say) must not make the others
    look surer."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(300):
        interval = stats.mean_interval(
            [rng.normal(0, scale, size=3) for scale in scales], rng, resamples=499
        )
        covered += interval[0] <= 0 <= interval[1]
    assert covered / 300 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 300)


@pytest.mark.parametrize("shift", [-1.5, -0.6, 0.0, 0.6, 1.5])
def test_the_p_value_is_the_interval_read_the_other_way_round(shift):
    for seed in range(20):
        data = list(np.random.default_rng(seed).normal(shift, 1, size=(2, 4)))
        interval, p = stats.paired_test(data, np.random.default_rng(0))
        assert interval == stats.mean_interval(data, np.random.default_rng(0))
        assert (p < 0.05) == (interval[0] > 0 or interval[1] < 0)
        if p < 1:
            at_p = stats.mean_interval(data, np.random.default_rng(0), level=1 - p)
            assert min(abs(at_p[0]), abs(at_p[1])) == pytest.approx(0, abs=1e-3)


def test_p_values_of_what_does_not_vary():
    assert stats.paired_test([np.zeros(3)], np.random.default_rng(0)) == ((0.0, 0.0), 1.0)
    assert stats.paired_test([np.ones(3)], np.random.default_rng(0)) == ((1.0, 1.0), stats.LEAST_P)
    assert stats.paired_test([np.ones(1)], np.random.default_rng(0)) is None


def test_holm_steps_down():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


def test_interval_approaches_the_normal_one_with_many_seeds():
    rng = np.random.default_rng(0)
    sample = rng.normal(2, 1, size=400)
    low, high = stats.mean_interval([sample], rng)
    half = 1.96 * sample.std(ddof=1) / 20
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.015)


def test_interval_is_the_same_for_the_same_generator():
    data = [np.array([0.1, 0.3, 0.2]), np.array([0.0, 0.5, 0.1])]
    once, again = (stats.mean_interval(data, np.random.default_rng(3)) for _ in range(2))
    assert once == again


def test_tasks_count_once_whatever_their_seeds():
    assert stats.stratified_mean([np.ones(2), np.zeros(6)]) == 0.5


def test_spread_between_tasks_does_not_widen_the_interval():
    near = [np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.1, 0.2])]
    far = [near[0], near[1] + 100]
    widths = [np.diff(stats.mean_interval(data, np.random.default_rng(0))) for data in (near, far)]
    assert widths[0] == pytest.approx(widths[1])


@pytest.mark.parametrize(
    "samples", [[], [np.array([1.0])], [np.array([1.0, 2.0]), np.array([1.0])]]
)
def test_one_seed_gives_no_interval(samples):
    assert stats.mean_interval(samples, np.random.default_rng(0)) is None


def test_trailing_axes_are_kept():
    samples = np.random.default_rng(0).normal(size=(4, 7))
    low, high = stats.mean_interval([samples], np.random.default_rng(0))
    assert low.shape == high.shape == (7,)
    assert np.all(low < samples.mean(axis=0))
    assert np.all(samples.mean(axis=0) < high)


def test_win_probability_counts_ties_half_and_is_unsure_of_few():
    share, (low, high) = stats.win_probability(np.array([-1.0, -2.0, 0.0, 3.0]), sign=-1)
    assert share == 2.5 / 4
    assert 0 < low < share < high < 1
    share, (low, high) = stats.win_probability(np.full(3, 0.1), sign=+1)
    assert share == 1
    assert low < 0.5


def test_effect_size_pools_the_spread_within_tasks():
    tasks = [np.array([1.0, 3.0]), np.array([11.0, 13.0])]
    assert stats.effect_size(tasks) == pytest.approx(7 / np.sqrt(2))
    assert np.isnan(stats.effect_size([np.array([1.0])]))
    assert np.isnan(stats.effect_size([np.array([1.0, 1.0])]))
