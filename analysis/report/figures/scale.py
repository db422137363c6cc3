"""Axes for numbers of both signs and of several orders of magnitude."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator


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
        ax.set(xlim=(-self.top, self.top), ylim=(-self.top, self.top))
        ends = (-self.top, self.top)
        ax.plot(ends, ends, color="#999999", linewidth=0.8, zorder=1)
        for span in (ax.axvspan, ax.axhspan):
            span(-self.linear, self.linear, color="#000000", alpha=0.035, linewidth=0, zorder=0)

    def along(self, axis: Axis) -> None:
        """Give one axis this scale."""
        set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
        set_scale("symlog", linthresh=self.linear, linscale=0.8)
        axis.set_major_locator(FixedLocator(self.ticks))
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
    every = (
        1 if high - low < 3 and abs(high) < 3 else 2
    )  # so that the numbers at the axis do not touch
    decades = [10.0**power for power in range(int(np.floor(np.log10(sizes.max()))), low, -every)]
    return SignedScale(
        10.0**low, 1.6 * 10.0**high, [*(-tick for tick in decades), 0.0, *reversed(decades)]
    )


def _tick(value: float, _: int) -> str:
    """A power of ten of either sign, or 0, in few letters."""
    if value == 0 or 0.005 < abs(value) < 500:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    return f"${'-' if value < 0 else ''}10^{{{round(np.log10(abs(value)))}}}$"
