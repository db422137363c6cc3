"""Statistics as pure functions on arrays: shapes in the docstrings, randomness only from the
Generator given.

Runs come in tasks (an architecture, a data set, a timing ...) and, within a task, in seeds. A
*difference* is taken between two runs of the same task and seed, which share initial weights, data
order and dense phase; so the unit of every statement is such a pair. Tasks are fixed, seeds are a
sample: intervals speak about new seeds of these tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, special, stats

LEVEL = 0.95
RESAMPLES = 4999
LEAST_P = 1e-9
"""The smallest p-value that is given: resamples cannot tell smaller ones apart."""

Interval = tuple[float, float]
Bounds = tuple[np.ndarray, np.ndarray]


def mean_interval(
    samples: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Bounds | None:
    """Bootstrap interval of the mean over tasks of the mean over seeds.

    samples: one array [seeds, ...] per task, the trailing axes the same for all; returns (low,
    high) of shape [...], or None where there is nothing to resample (a task with fewer than two
    seeds).

    Seeds are resampled within tasks (stratified), and the percentile interval is widened about the
    mean by t / z * sqrt(n / (n - 1)), n the (harmonic mean of the) seeds per task: the plain
    percentile interval of three seeds covers the truth in 75 % of cases instead of 95 %. Source:
    Hesterberg, The American Statistician 69 (2015), section 3 (the expanded percentile interval),
    applied to the half-widths so that few distinct resamples suffice. The degrees of freedom of t
    are Welch and Satterthwaite's: a task in which nothing varies adds none.
    """
    bounds = _bounds(samples, rng, resamples)
    return None if bounds is None else bounds(level)


def paired_test(
    differences: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[Interval, float] | None:
    """`mean_interval` of paired differences, one array [seeds] per task, and the two-sided p-value
    that belongs to it.

    The p-value is 1 minus the highest level at which the interval leaves 0 out: it is below 1 -
    LEVEL if and only if the interval does. At least `LEAST_P`; 1 where no interval leaves 0 out.
    None as for `mean_interval`.
    """
    bounds = _bounds(differences, rng, RESAMPLES)
    if bounds is None:
        return None
    low, high = (float(bound) for bound in bounds(LEVEL))
    side = 0 if stratified_mean(differences) > 0 else 1

    def margin(log_p: float) -> float:
        bound = float(bounds(1 - np.exp(log_p))[side])
        return -bound if side else bound

    least, most = np.log(LEAST_P), -1e-6
    if not margin(most) > 0:
        return (low, high), 1.0
    p = (
        LEAST_P
        if margin(least) > 0
        else float(np.exp(optimize.brentq(margin, least, most, xtol=1e-6)))
    )
    return (low, high), p


def _bounds(
    samples: Sequence[np.ndarray], rng: np.random.Generator, resamples: int
) -> Callable[[float], Bounds] | None:
    """The interval of `mean_interval` as a function of its level, from one set of resamples."""
    samples = [np.asarray(sample, dtype=float) for sample in samples]
    seeds = np.array([len(sample) for sample in samples])
    if len(seeds) == 0 or seeds.min() < 2:
        return None
    center = sum(sample.mean(axis=0) for sample in samples) / len(samples)
    drawn = np.sort(
        sum(_resampled_means(sample, rng, resamples) for sample in samples) / len(samples), axis=0
    )
    freedom, n = _freedom(samples), stats.hmean(seeds)

    def bounds(level: float) -> Bounds:
        tail = (1 + level) / 2
        low, high = _quantile(drawn, 1 - tail), _quantile(drawn, tail)
        widen = widening(freedom, n, tail)
        return center - widen * (center - low), center + widen * (high - center)

    return bounds


def widening(freedom: np.ndarray | float, seeds: float, tail: float) -> np.ndarray:
    """The factor on half-widths that `mean_interval` explains, [...] as `freedom`; tail: 0.975 for
    a 95 % interval."""
    return special.stdtrit(freedom, tail) / special.ndtri(tail) * np.sqrt(seeds / (seeds - 1))


def _freedom(samples: list[np.ndarray]) -> np.ndarray:
    """Degrees of freedom [...] of the mean over tasks of [seeds, ...], whose variances need not be
    equal."""
    more = np.array([len(sample) - 1 for sample in samples])
    errors = np.array([sample.var(axis=0, ddof=1) / len(sample) for sample in samples])
    total, most = errors.sum(axis=0), errors.max(axis=0)
    shares = np.divide(
        errors, most, out=np.ones_like(errors), where=most > 0
    )  # squares of tiny numbers would be 0
    return np.where(
        total > 0, shares.sum(axis=0) ** 2 / np.tensordot(1 / more, shares**2, axes=1), more.sum()
    )


def _quantile(ordered: np.ndarray, share: float) -> np.ndarray:
    """What `np.quantile` gives along the first axis of an array that is sorted along it, without
    sorting it again."""
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2)
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])


def _resampled_means(sample: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Means of bootstrap resamples of [seeds, ...]: [resamples, ...]; how often each seed is drawn
    is multinomial."""
    n = len(sample)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    return np.tensordot(weights, sample, axes=1)


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method (statsmodels), in the same
    order.

    Each is below a level if and only if its hypothesis is rejected with that probability of any
    false rejection.
    """
    from statsmodels.stats.multitest import multipletests  # here, because it takes its time

    return [float(value) for value in multipletests(p, method="holm")[1]] if len(p) else []


def stratified_mean(differences: Sequence[np.ndarray]) -> float:
    """Mean over tasks of the mean over seeds, one array [seeds] per task: each task counts once."""
    return float(np.mean([np.mean(task) for task in differences]))


def win_probability(
    differences: np.ndarray, sign: int, *, level: float = LEVEL
) -> tuple[float, Interval]:
    """Probability of improvement: how often a pair's difference [n] has this sign (+1 or -1); ties
    count half.

    The interval is Jeffreys' (the beta posterior under the prior beta(1/2, 1/2)), which needs no
    resampling and stays honest when every pair agrees.
    """
    differences = np.asarray(differences, dtype=float)
    n, wins = len(differences), np.sum(np.sign(differences) == sign) + np.sum(differences == 0) / 2
    low, high = stats.beta.interval(level, wins + 0.5, n - wins + 0.5)
    return float(wins / n), (float(low), float(high))


def effect_size(differences: Sequence[np.ndarray]) -> float:
    """Standardised mean difference: `stratified_mean` over the pooled standard deviation within
    tasks.

    differences: one array [seeds] per task; NaN where no task has two seeds or nothing varies.
    """
    freedom = sum(len(task) - 1 for task in differences)
    if freedom == 0:
        return float("nan")
    pooled = np.sqrt(sum(np.sum((task - np.mean(task)) ** 2) for task in differences) / freedom)
    return stratified_mean(differences) / pooled if pooled > 0 else float("nan")
