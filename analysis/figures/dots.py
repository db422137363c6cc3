"""A row of dots per measure: runs, their mean and its interval, in a panel per setting."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.figures.plot import new_canvas, panels_of
from analysis.figures.scale import signed_scale
from analysis.frame import DENSE
from analysis.outcomes import outcomes
from analysis.sources import Frames
from analysis.stats import mean_interval

DOTS = "Small dots are runs, markers means over seeds, bars their 95 % bootstrap intervals (widened for few seeds)"


def dots(
    frames: Frames,
    key: str,
    label: str,
    *,
    scale: float = 1,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    signed: bool = False,
    full: str | None = None,
) -> Figure | None:
    """A row per measure: runs, mean and interval (inside `bounds`) of a number of `outcomes.outcomes`.

    signed: the axis is logarithmic away from 0. full: the column that is 0 for runs whose dots are open.
    """
    table = outcomes(frames)
    table = table[table["ablation"] == "none"].assign(value=lambda rows: rows[key] * scale)
    pruned = table[(table["measure"] != DENSE) & table["value"].notna()]
    if pruned.empty:
        return None
    panels = panels_of(table)
    measures = style.in_order(set(table["measure"]) - {DENSE})
    canvas, blocks = new_canvas(panels, 1, height=0.75 + 0.22 * len(measures), sharex=True, sharey=True)
    for panel, (ax,) in zip(panels, blocks, strict=True):
        here = pruned[pruned["panel"] == panel]
        for place, measure in enumerate(measures):
            mine = here[here["measure"] == measure]
            opened = mine[full].to_numpy() == 0 if full else np.zeros(len(mine), dtype=bool)
            _dot(ax, mine["value"].to_numpy(), opened, place, style.look(measure), bounds)
        _reference(ax, table["value"][table.index.isin(here["dense_id"])].dropna().to_numpy(), bounds)
        if bounds[0] < 0:
            ax.axvline(0, color="#555555", linewidth=0.9, zorder=1)
        ax.set(xlabel=label, ylim=(len(measures) - 0.5, -0.5), yticks=range(len(measures)))
        ax.set_yticklabels([style.name(measure) for measure in measures])
        ax.grid(visible=False, axis="y")
        if signed:
            signed_scale(pruned["value"].to_numpy()).along(ax.xaxis)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(6))
    return canvas


def _dot(
    ax: Axes, values: np.ndarray, opened: np.ndarray, place: int, look: style.Look, bounds: tuple[float, float]
) -> None:
    if not len(values):
        return
    for chosen, fill in ((~opened, look.color), (opened, "white")):
        if not chosen.any():
            continue
        ax.plot(
            values[chosen], np.full(chosen.sum(), place + 0.26), "o", color=look.color, alpha=0.55, markersize=2.6,
            markerfacecolor=fill, markeredgewidth=0.6, zorder=2,
        )  # fmt: skip
    interval = mean_interval([values], np.random.default_rng(0))
    if interval is not None:
        ax.plot(
            np.clip(interval, *bounds), (place, place), color=look.color, linewidth=1.6, solid_capstyle="butt", zorder=3
        )
    ax.plot(values.mean(), place, look.marker, color=look.color, markersize=6, markeredgecolor="white",
            markeredgewidth=0.5, zorder=4)  # fmt: skip


def _reference(ax: Axes, values: np.ndarray, bounds: tuple[float, float]) -> None:
    if not len(values):
        return
    ax.axvline(values.mean(), color=style.look(DENSE).color, linestyle=style.look(DENSE).line, linewidth=1, zorder=1)
    interval = mean_interval([values], np.random.default_rng(0))
    if interval is not None:
        ax.axvspan(*np.clip(interval, *bounds), color="#000000", alpha=0.06, linewidth=0, zorder=0)
