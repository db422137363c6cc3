"""Statistics as pure functions on arrays: shapes in the docstrings, randomness only from the
Generator given.

Runs come in tasks (an architecture, a data set, a timing ...) and in seeds. A *difference* is
taken between two runs of the same task and seed, which share initial weights, data order and dense
phase. Differences are an array [tasks, seeds], NaN where a pair is missing. Tasks are fixed, seeds
are a sample, and a seed's differences may be correlated across tasks: intervals speak about new
seeds of these tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import special, stats

LEVEL = 0.95
RESAMPLES = 9999
POWER = 0.8
"""The chance with which a study detects an effect that is called detectable."""
LARGEST_RATIO = 30.0
"""Of an effect to its error: the power is 1 from here on, and scipy's is NaN far beyond."""
LEAST_P = 1e-9
"""The smallest p-value that is given."""

Interval = tuple[float, float]


class Estimate(NamedTuple):
    """A mean over tasks of means over seeds."""

    effect: float
    error: float
    """Its standard error; NaN where a task has fewer than two seeds."""
    freedom: int
    """Degrees of freedom of the error."""

    def interval(self) -> Interval | None:
        """The t interval; None without an error."""
        if np.isnan(self.error):
            return None
        half = float(special.stdtrit(self.freedom, (1 + LEVEL) / 2)) * self.error
        return self.effect - half, self.effect + half

    def p(self) -> float | None:
        """Two-sided p-value of the effect being 0, which is below 1 - level if and only if the
        interval leaves 0 out; at least `LEAST_P`. None without an error."""
        if np.isnan(self.error):
            return None
        if self.error == 0:
            return LEAST_P if self.effect else 1.0
        tail = float(stats.t.sf(abs(self.effect) / self.error, self.freedom))
        return max(2 * tail, LEAST_P)

    def power(self) -> float | None:
        """The chance that the interval of a study with this error lies on the same side of 0, if
        the true effect is the one of this study (noncentral t). None without an error, or if the
        error is 0."""
        if np.isnan(self.error) or self.error == 0:
            return None
        least = special.stdtrit(self.freedom, (1 + LEVEL) / 2)
        ratio = min(abs(self.effect) / self.error, LARGEST_RATIO)
        return float(stats.nct.sf(least, self.freedom, ratio))

    def smallest(self) -> float | None:
        """The smallest effect that a study with this error detects with the chance `POWER`. None
        without an error."""
        return None if np.isnan(self.error) else self.error * _errors(self.freedom)


@cache
def _errors(freedom: int) -> float:
    """How many standard errors an effect has that is detected with the chance `POWER`
    (statsmodels)."""
    from statsmodels.stats.power import TTestPower  # here, because it takes its time

    found = TTestPower().solve_power(
        nobs=freedom + 1, alpha=(1 - LEVEL) / 2, power=POWER, alternative="larger"
    )
    return float(found) * (freedom + 1) ** 0.5


def estimate(differences: np.ndarray) -> Estimate:
    """The mean over tasks of the mean over seeds, of differences [tasks, seeds]; each task counts
    once.

    The error is cluster-robust by seed: with deviations e[k, s] from the mean of task k, which has
    n[k] seeds, it is the root of sum_s (sum_k sqrt(n[k] / (n[k] - 1)) e[k, s] / n[k])^2 over the
    number of tasks. Where all tasks have the same seeds, this is the standard error of the seeds'
    means over tasks, and the interval is Student's over seeds; else the degrees of freedom are
    those of the task with the fewest seeds. Source: Cameron & Miller, J. Human Resources 50 (2015).
    """
    differences = np.asarray(differences, dtype=float)
    seeds = np.isfinite(differences).sum(axis=1)
    means = np.nanmean(differences, axis=1)
    if seeds.min() < 2:
        return Estimate(float(means.mean()), np.nan, 0)
    weights = np.sqrt(seeds / (seeds - 1)) / seeds / len(seeds)
    scores = np.nansum((differences - means[:, None]) * weights[:, None], axis=0)
    return Estimate(float(means.mean()), float(np.sqrt((scores**2).sum())), int(seeds.min() - 1))


def mean_interval(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Student's interval of the mean over seeds of [seeds, ...]: (low, high), each [...]; None with
    fewer than two seeds."""
    sample = np.asarray(sample, dtype=float)
    seeds = len(sample)
    if seeds < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * sample.std(axis=0, ddof=1) / np.sqrt(seeds)
    return sample.mean(axis=0) - half, sample.mean(axis=0) + half


def bounded_interval(
    values: Sequence[float], low: float = -np.inf, high: float = np.inf
) -> Interval:
    """`mean_interval` of numbers [seeds] that lie between `low` and `high`; NaN for fewer than
    two."""
    found = mean_interval(np.asarray(values, dtype=float))
    return (np.nan, np.nan) if found is None else tuple(np.clip(found, low, high).tolist())


def seed_correlation(differences: np.ndarray) -> float:
    """How far a seed's differences [tasks, seeds] go together across tasks, from -1 / (tasks - 1)
    to 1: the mean covariance of two tasks over the mean variance of one.

    Of the seeds that all tasks have; NaN for fewer than two tasks or seeds, or where nothing
    varies.
    """
    whole = differences[:, np.isfinite(differences).all(axis=0)]
    tasks, seeds = whole.shape
    if tasks < 2 or seeds < 2:
        return float("nan")
    covariances = np.cov(whole)
    own = np.trace(covariances) / tasks
    shared = (covariances.sum() - np.trace(covariances)) / (tasks * (tasks - 1))
    return float(shared / own) if own > 0 else float("nan")


def spread(differences: np.ndarray) -> float:
    """Standard deviation between the tasks' means, of differences [tasks, seeds]; NaN for one
    task."""
    means = np.nanmean(differences, axis=1)
    return float(means.std(ddof=1)) if len(means) > 1 else float("nan")


def signed_rank_p(differences: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank statistic, ranked within tasks and summed over
    them, of differences [tasks, seeds].

    Its distribution is that of seeds whose differences all change their sign together, so that
    seeds may be correlated across tasks (scipy's permutation test; exact up to 13 seeds).
    """
    sizes = np.where(differences == 0, np.nan, np.abs(differences))
    ranks = stats.rankdata(sizes, axis=1, nan_policy="omit")
    sums = np.nansum(np.sign(differences) * ranks, axis=0)
    sums = sums[np.isfinite(differences).any(axis=0)]
    if len(sums) < 2 or not sums.any():
        return 1.0
    found = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES,
        rng=rng,
    )  # fmt: skip
    return float(found.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method (statsmodels), in the same
    order.

    Each is below a level if and only if its hypothesis is rejected with that probability of any
    false rejection.
    """
    from statsmodels.stats.multitest import multipletests  # here, because it takes its time

    return [float(value) for value in multipletests(p, method="holm")[1]] if len(p) else []


def win_probability(differences: np.ndarray, sign: int) -> tuple[float, Interval]:
    """Probability of improvement: how often a pair's difference has this sign (+1 or -1).

    Ties count half. Of differences [settings, seeds], NaN where a pair is missing, it is the share
    of the pairs; [seeds] are those of one setting. The interval is Jeffreys'
    (the beta posterior under the prior beta(1/2, 1/2)) for as many draws as there are seeds, which
    are the sample: it needs no resampling and stays honest when every pair agrees.
    """
    table = np.atleast_2d(np.asarray(differences, dtype=float))
    seeds = int(np.isfinite(table).any(axis=0).sum())
    share = float(np.nanmean((np.sign(table) * sign + 1) / 2))
    low, high = stats.beta.interval(LEVEL, share * seeds + 0.5, (1 - share) * seeds + 0.5)
    return share, (float(low), float(high))


def effect_size(differences: np.ndarray) -> float:
    """Standardised mean difference, of differences [tasks, seeds]: the mean over tasks over the
    pooled standard deviation of seeds within tasks; NaN where no task has two seeds or nothing
    varies."""
    means = np.nanmean(differences, axis=1, keepdims=True)
    freedom = (np.isfinite(differences).sum(axis=1) - 1).sum()
    if freedom == 0:
        return float("nan")
    pooled = np.sqrt(np.nansum((differences - means) ** 2) / freedom)
    return float(means.mean() / pooled) if pooled > 0 else float("nan")
