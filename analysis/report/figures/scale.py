"""Axes: for numbers of both signs and several orders of magnitude, and shared between panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

WIDE = 100
"""Sizes differ widely if the largest is so many times the smallest tenth."""


@dataclass(frozen=True)
class SignedScale:
    """A scale that is linear up to `linear` and logarithmic beyond, on both sides of 0."""

    linear: float
    top: float
    ticks: list[float]

    def apply(self, ax: Axes) -> None:
        """Give both axes this scale, the band in which it is linear, and the diagonal."""
        for axis in (ax.xaxis, ax.yaxis):
            self.along(axis)
        ends = (-self.top, self.top)
        ax.set(xlim=ends, ylim=ends)
        ax.plot(ends, ends, color="#999999", linewidth=0.8, zorder=1)
        for span in (ax.axvspan, ax.axhspan):
            span(-self.linear, self.linear, color="#000000", alpha=0.035, linewidth=0, zorder=0)

    def along(self, axis: Axis) -> None:
        """Give one axis this scale. A vertical one with few ticks gets those at which the scale
        changes too; side by side their labels would touch."""
        upright, ticks = axis.axis_name == "y", self.ticks
        set_scale = axis.axes.set_yscale if upright else axis.axes.set_xscale
        set_scale("symlog", linthresh=self.linear, linscale=0.8)
        if upright and len(ticks) < 5:
            ticks = sorted({*ticks, -self.linear, self.linear})
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(_tick))


def signed_scale(values: np.ndarray) -> SignedScale:
    """A scale that shows at most four decades on each side, from the largest value down."""
    sizes = np.abs(values[np.isfinite(values)])
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return SignedScale(1.0, 10.0, [-10.0, -1.0, 0.0, 1.0, 10.0])
    high = int(np.ceil(np.log10(sizes.max())))
    low = max(high - 4, min(int(np.floor(np.log10(np.quantile(sizes, 0.1)))), high - 1))
    every = 1 if high - low < 3 and abs(high) < 3 else 2  # so that numbers do not touch
    powers = range(int(np.floor(np.log10(sizes.max()))), low, -every)
    decades = [10.0**power for power in powers or [low]]
    ticks = [*(-tick for tick in decades), 0.0, *reversed(decades)]
    return SignedScale(10.0**low, 1.6 * 10.0**high, ticks)


def signed_axis(axis: Axis, values: np.ndarray, *, ticks: int) -> float | None:
    """Give an axis the scale of `signed_scale` if sizes differ widely, and return its linear part;
    else a linear scale with at most so many ticks."""
    sizes = np.abs(values[np.isfinite(values)])
    if len(sizes) and sizes.max() > WIDE * np.quantile(sizes, 0.1):
        scale = signed_scale(values)
        scale.along(axis)
        return scale.linear
    axis.set_major_locator(MaxNLocator(ticks))
    return None


def log_axis(axis: Axis) -> None:
    """Give a horizontal axis a logarithmic scale and few round ticks."""
    axis.axes.set_xscale("log")
    axis.set_ticks(round_ticks(*axis.axes.get_xlim()))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _tick(value: float, _: int) -> str:
    """A power of ten of either sign, or 0, in few letters."""
    if value == 0 or 0.005 < abs(value) < 500:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    return f"${'-' if value < 0 else ''}10^{{{round(np.log10(abs(value)))}}}$"


def share_limits(axes: Sequence[Axes], means: np.ndarray, *, log: bool) -> None:
    """The same y range in all panels, from the means: a wide band of one measure must not flatten
    the others."""
    if not np.isfinite(means).any():
        return
    low, high = np.nanmin(means), np.nanmax(means)
    margin = max(1.03, (high / low) ** 0.08) if log else 0.06 * (high - low or 1)
    limits = (low / margin, high * margin) if log else (low - margin, high + margin)
    for ax in axes:
        ax.set(yscale="log" if log else "linear", ylim=limits)
        if log:
            ax.yaxis.set_minor_locator(NullLocator())
        if log and high / low < 50:
            ax.yaxis.set_major_locator(FixedLocator(round_ticks(*limits)))
            ax.yaxis.set_major_formatter("{x:g}")


def round_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in a range, or evenly spaced numbers where this gives fewer
    than three."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for ticks in (
        [step * 10.0**decade for decade in decades for step in (1, 2, 5)],
        MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3).tick_values(low, high),
    ):
        inside = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            break
    return inside
