"""95 % intervals of means over seeds, of numbers and of whole curves: those of
`stats.mean_interval` for one task, from the exact bootstrap distribution.

The mean of few seeds has few distinct resamples, so that enumerating them (each with its
probability) costs less than drawing a thousand, and thousands of curves get their bands in a
second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement
from math import factorial, prod

import numpy as np

from analysis.stats import LEVEL, Interval, widening

ENUMERATED = 5
"""Seeds up to which resamples are enumerated (126 distinct ones); for more, `DRAWN` are drawn."""
DRAWN = 999


def band(values: np.ndarray, *, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray] | None:
    """Interval of the mean over seeds at each point: values [seeds, points] give (low, high), each
    [points].

    None with fewer than two seeds. Percentiles of the bootstrap distribution of the mean, widened
    about the mean as in `stats.mean_interval`, which says why.
    """
    seeds = len(values)
    if seeds < 2:
        return None
    weights, chances = _resamples(seeds)
    tail = (1 - level) / 2
    means = weights @ values
    order = np.argsort(means, axis=0)
    means, reached = np.take_along_axis(means, order, axis=0), np.cumsum(chances[order], axis=0)
    rows = [(reached >= share - 1e-12).argmax(axis=0) for share in (tail, 1 - tail)]
    low, high = (np.take_along_axis(means, row[None], axis=0)[0] for row in rows)
    center, widen = values.mean(axis=0), widening(seeds - 1, seeds, 1 - tail)
    return center - widen * (center - low), center + widen * (high - center)


def interval(values: Sequence[float], low: float = -np.inf, high: float = np.inf) -> Interval:
    """Interval of the mean of numbers that lie between `low` and `high`; NaN for fewer than two."""
    found = band(np.asarray(values, dtype=float)[:, None])
    return (
        (np.nan, np.nan) if found is None else tuple(np.clip(np.ravel(found), low, high).tolist())
    )


@cache
def _resamples(seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Resamples as weights [resamples, seeds] of the seeds, and the probability [resamples] of
    each."""
    if seeds > ENUMERATED:
        counts = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWN)
        return counts / seeds, np.full(DRAWN, 1 / DRAWN)
    drawn = combinations_with_replacement(range(seeds), seeds)
    counts = np.array([np.bincount(draw, minlength=seeds) for draw in drawn])
    ways = np.array([factorial(seeds) // prod(map(factorial, row)) for row in counts.tolist()])
    return counts / seeds, ways / seeds**seeds
