"""A row of dots per measure: runs, their mean and its interval, in a panel per setting."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.outcomes import outcomes
from analysis.quantities import Quantity
from analysis.report import style
from analysis.report.figures.plot import COLUMNS, new_canvas
from analysis.report.figures.scale import signed_axis
from analysis.runs.frames import Frames
from analysis.settings import DENSE, settings_of
from analysis.stats import bounded_interval

DOTS = "Small dots are runs, markers means over seeds, bars their 95 % t intervals"


def dots(
    frames: Frames, quantity: Quantity, *, signed: bool = False, full: str | None = None
) -> Figure | None:
    """A row per measure: runs, mean and interval of a quantity of `outcomes.outcomes`.

    signed: each panel has an axis of its own, logarithmic away from 0 where its numbers are of
    several orders. full: the column that is 0 for runs whose dots are open.
    """
    table = outcomes(frames)
    table = table[(table["ablation"] == "none") & table[quantity.key].notna()]
    table = table.assign(value=table[quantity.key] * quantity.scale)
    pruned = table[table["measure"] != DENSE]
    if pruned.empty:
        return None
    runs = frames.drawn()
    panels, measures = settings_of(runs), style.in_order(set(runs["measure"]) - {DENSE})
    height = 0.75 + 0.22 * len(measures)
    canvas, blocks = new_canvas(panels, 1, height=height, sharex=not signed)
    for panel, (ax,) in zip(panels, blocks, strict=True):
        here = pruned[pruned["setting"] == panel]
        _rows(ax, here, measures, quantity, full)
        _reference(ax, table.loc[table.index.isin(here["control"]), "value"], quantity)
        if quantity.low < 0:
            ax.axvline(0, color="#555555", linewidth=0.9, zorder=1)
        ax.set(xlabel=textwrap.fill(quantity.axis, 30), ylabel="")
        ax.grid(visible=False, axis="y")
        if signed:
            signed_axis(ax.xaxis, here["value"].to_numpy(), ticks=4)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(6))
    for (ax,) in blocks[::COLUMNS]:
        ax.set(ylim=(len(measures) - 0.5, -0.5), yticks=range(len(measures)))
        ax.set_yticklabels([style.name(measure) for measure in measures])
    return canvas


def _rows(
    ax: Axes, runs: pd.DataFrame, measures: list[str], quantity: Quantity, full: str | None
) -> None:
    """The runs of each measure, their mean and its interval, one row below the other."""
    runs = runs.dropna(subset=["value"])
    if runs.empty:
        return
    colors = runs["measure"].map(lambda measure: style.look(measure).color)
    faces = colors if full is None else colors.mask(runs[full] == 0, "white")
    places = runs["measure"].map(measures.index) + 0.26
    ax.scatter(
        runs["value"], places, s=2.6**2, c=faces, edgecolors=colors, linewidths=0.6, alpha=0.55
    )
    for measure, values in runs.groupby("measure")["value"]:
        mean, look = values.mean(), style.look(measure)
        low, high = bounded_interval(values, *quantity.bounds)
        bar = np.maximum([[mean - low], [high - mean]], 0)  # rounding can put a bound past the mean
        ax.errorbar(
            mean, measures.index(measure), xerr=bar, color=look.color, marker=look.marker,
            elinewidth=1.6, markersize=6, markeredgecolor="white", markeredgewidth=0.5,
        )  # fmt: skip


def _reference(ax: Axes, values: pd.Series, quantity: Quantity) -> None:
    """The mean of the dense controls and its interval."""
    if len(values):
        look = style.look(DENSE)
        ax.axvline(values.mean(), color=look.color, linestyle=look.line, linewidth=1, zorder=1)
    if len(values) > 1:
        span = bounded_interval(values, *quantity.bounds)
        ax.axvspan(*span, color="#000000", alpha=0.06, linewidth=0, zorder=0)
