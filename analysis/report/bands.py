"""95 % intervals of means over seeds, as figures and tables have them: `stats.mean_interval`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.stats import Interval, mean_interval


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Interval of the mean over seeds at each point: values [seeds, points] give (low, high), each
    [points]; None with fewer than two seeds."""
    return mean_interval(values)


def interval(values: Sequence[float], low: float = -np.inf, high: float = np.inf) -> Interval:
    """Interval of the mean of numbers that lie between `low` and `high`; NaN for fewer than two."""
    found = mean_interval(np.asarray(values, dtype=float))
    return (np.nan, np.nan) if found is None else tuple(np.clip(found, low, high).tolist())
