"""Intervals cover what they should, for few seeds too."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp, wilcoxon

from analysis import stats


def drawn(rng, tasks, seeds, rho=0.0, worlds=2000):
    """Differences [worlds, tasks, seeds] of mean 0, correlated by seed across tasks."""
    common = rng.normal(size=(worlds, 1, seeds)) * np.sqrt(rho)
    return common + rng.normal(size=(worlds, tasks, seeds)) * np.sqrt(1 - rho)


@pytest.mark.parametrize(("tasks", "seeds"), [(1, 5), (6, 5), (2, 10)])
@pytest.mark.parametrize("rho", [0.0, 0.15, 0.8])
def test_intervals_cover_the_truth_at_their_level(tasks, seeds, rho):
    worlds = drawn(np.random.default_rng(1), tasks, seeds, rho)
    covered = np.mean([np.prod(stats.estimate(world).interval()) <= 0 for world in worlds])
    assert covered == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / len(worlds)))


def test_intervals_of_unequal_seeds_cover_the_truth():
    worlds = drawn(np.random.default_rng(2), 4, 10, 0.15)
    worlds[:, 2:, 5:] = np.nan
    covered = np.mean([np.prod(stats.estimate(world).interval()) <= 0 for world in worlds])
    assert covered >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / len(worlds))


def test_with_equal_seeds_it_is_student_s_interval_over_the_means_of_seeds():
    data = np.random.default_rng(0).normal(1, 1, size=(3, 6))
    found, wanted = stats.estimate(data), ttest_1samp(data.mean(axis=0), 0)
    assert found.effect == pytest.approx(data.mean())
    assert found.interval() == pytest.approx(tuple(wanted.confidence_interval(0.95)))
    assert found.p() == pytest.approx(wanted.pvalue)


def test_a_missing_pair_costs_its_task_that_seed_alone():
    data = np.random.default_rng(0).normal(size=(3, 6))
    hole = data.copy()
    hole[1, 2] = np.nan
    found = stats.estimate(hole)
    assert found.effect == pytest.approx(np.mean([np.nanmean(task) for task in hole]))
    assert found.freedom == 4
    assert found.error == pytest.approx(stats.estimate(data).error, rel=0.3)


def test_spread_between_tasks_does_not_widen_the_interval():
    near = np.random.default_rng(0).normal(size=(2, 5))
    far = near + np.array([[0.0], [100.0]])
    assert stats.estimate(near).error == pytest.approx(stats.estimate(far).error)
    assert stats.spread(far) > 50 > stats.spread(near)
    assert np.isnan(stats.spread(near[:1]))


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_the_smallest_detectable_effect_is_found_in_four_of_five_studies(seeds):
    unit = stats.Estimate(0.0, seeds**-0.5, seeds - 1)  # the error of a standard deviation of 1
    worlds = drawn(np.random.default_rng(3), 1, seeds, worlds=4000) + unit.smallest()
    found = np.mean([stats.estimate(world).interval()[0] > 0 for world in worlds])
    assert found == pytest.approx(0.8, abs=3 * np.sqrt(0.8 * 0.2 / len(worlds)))
    assert unit._replace(effect=-unit.smallest()).power() == pytest.approx(0.8)
    assert unit.power() == pytest.approx(0.025)


def test_without_spread_every_effect_is_detectable():
    assert stats.estimate(np.ones((1, 3))).smallest() == 0
    assert stats.estimate(np.ones((1, 3))).power() is None
    assert stats.Estimate(1.0, 1e-17, 4).power() == pytest.approx(1)
    assert stats.estimate(np.ones((1, 1))).smallest() is None


def test_p_values_of_what_does_not_vary():
    assert stats.estimate(np.zeros((1, 3))).p() == 1.0
    assert stats.estimate(np.ones((1, 3))).p() == stats.LEAST_P
    assert stats.estimate(np.ones((1, 1))).p() is None
    assert stats.estimate(np.ones((1, 1))).interval() is None
    assert stats.estimate(np.ones((2, 3))).interval() == (1.0, 1.0)


def test_the_correlation_of_seeds_is_found():
    rng = np.random.default_rng(3)
    for rho in (0.0, 0.15, 0.9):
        worlds = drawn(rng, 6, 400, rho, worlds=1)
        assert stats.seed_correlation(worlds[0]) == pytest.approx(rho, abs=0.08)
    assert stats.seed_correlation(np.array([[1.0, 2.0], [3.0, 4.0]])) == pytest.approx(1.0)
    for unknown in (np.zeros((2, 5)), rng.normal(size=(1, 5)), rng.normal(size=(3, 1))):
        assert np.isnan(stats.seed_correlation(unknown))


def test_the_signed_rank_test_of_one_task_is_wilcoxon_s():
    rng = np.random.default_rng(0)
    for _ in range(5):
        data = rng.normal(0.5, 1, size=8)
        assert stats.signed_rank_p(data[None], rng) == pytest.approx(wilcoxon(data).pvalue)


def test_the_signed_rank_test_keeps_its_level_with_seeds_shared_by_tasks():
    rng = np.random.default_rng(4)
    worlds = drawn(rng, 4, 7, 0.8, worlds=400)
    share = np.mean([stats.signed_rank_p(world, rng) < 0.05 for world in worlds])
    assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(worlds))
    shifted = worlds[0] + 5
    shifted[2, 3] = np.nan
    assert stats.signed_rank_p(shifted, rng) == pytest.approx(2 / 2**7)
    assert stats.signed_rank_p(np.zeros((2, 5)), rng) == 1.0


def test_holm_steps_down():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


def test_the_interval_of_a_curve_is_that_of_each_point():
    sample = np.random.default_rng(0).normal(size=(4, 7))
    low, high = stats.mean_interval(sample)
    for point, bounds in enumerate(zip(low, high, strict=True)):
        wanted = ttest_1samp(sample[:, point], 0).confidence_interval(0.95)
        assert bounds == pytest.approx(tuple(wanted))
    assert stats.mean_interval(sample[:1]) is None


def test_win_probability_counts_ties_half_and_is_unsure_of_few():
    share, (low, high) = stats.win_probability(np.array([-1.0, -2.0, 0.0, 3.0]), sign=-1)
    assert share == 2.5 / 4
    assert 0 < low < share < high < 1
    share, (low, high) = stats.win_probability(np.full(3, 0.1), sign=+1)
    assert share == 1
    assert low < 0.5


def test_effect_size_pools_the_spread_within_tasks():
    tasks = np.array([[1.0, 3.0], [11.0, 13.0]])
    assert stats.effect_size(tasks) == pytest.approx(7 / np.sqrt(2))
    assert np.isnan(stats.effect_size(np.array([[1.0]])))
    assert np.isnan(stats.effect_size(np.array([[1.0, 1.0]])))


def test_seeds_are_the_sample_of_a_win_probability():
    """However many settings there are."""
    one = stats.win_probability(np.array([1.0, 1.0, 1.0, -1.0]), +1)
    many = stats.win_probability(np.tile([1.0, 1.0, 1.0, -1.0], (12, 1)), +1)
    assert one == many
    uneven = np.array([[1.0, -1.0, np.nan], [1.0, 1.0, np.nan]])
    assert stats.win_probability(uneven, +1)[0] == 0.75
    uneven = np.array([[1.0, 1.0, 1.0], [np.nan, np.nan, -1.0]])
    assert stats.win_probability(uneven, +1)[0] == 0.75
