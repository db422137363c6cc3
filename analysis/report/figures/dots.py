"""A row of dots per measure: runs, their mean and its interval, in a panel per setting."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.outcomes import outcomes
from analysis.report import style
from analysis.report.bands import band
from analysis.report.figures.plot import COLUMNS, new_canvas
from analysis.report.figures.scale import signed_scale
from analysis.runs.frames import Frames
from analysis.settings import DENSE, settings_of

DOTS = "Small dots are runs, markers means over seeds, bars their 95 % bootstrap intervals (widened for few seeds)"

WIDE = 100
"""Times the smallest numbers that the largest must be for a logarithmic axis."""


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
    """A row per measure: runs, mean and interval (inside `bounds`) of a number of
    `outcomes.outcomes`.

    signed: each panel has an axis of its own, logarithmic away from 0 where its numbers are of
    several orders. full: the column that is 0 for runs whose dots are open.
    """
    table = outcomes(frames)
    table = table[table["ablation"] == "none"].assign(value=lambda rows: rows[key] * scale)
    pruned = table[(table["measure"] != DENSE) & table["value"].notna()]
    if pruned.empty:
        return None
    panels = settings_of(table)
    measures = style.in_order(set(table["measure"]) - {DENSE})
    canvas, blocks = new_canvas(
        panels, 1, height=0.75 + 0.22 * len(measures), sharex=not signed, sharey=True
    )
    cells = dict(iter(pruned.groupby(["setting", "measure"])))
    dense = {panel: set(runs["dense_id"]) for panel, runs in pruned.groupby("setting")}
    for panel, (ax,) in zip(panels, blocks, strict=True):
        _rows(ax, [cells.get((panel, measure)) for measure in measures], measures, bounds, full)
        _reference(
            ax,
            table.loc[table.index.isin(dense.get(panel, ())), "value"].dropna().to_numpy(),
            bounds,
        )
        if bounds[0] < 0:
            ax.axvline(0, color="#555555", linewidth=0.9, zorder=1)
        ax.set_xlabel(label)
        ax.grid(visible=False, axis="y")
        if signed:
            values = pruned.loc[pruned["setting"] == panel, "value"].abs()
            if values.max() > WIDE * values.quantile(0.1):
                signed_scale(values.to_numpy()).along(ax.xaxis)
            else:
                ax.xaxis.set_major_locator(MaxNLocator(4))
    if not signed:
        ax.xaxis.set_major_locator(MaxNLocator(6))
    for (ax,) in blocks[::COLUMNS]:
        ax.set(ylim=(len(measures) - 0.5, -0.5), yticks=range(len(measures)))
        ax.set_yticklabels([style.name(measure) for measure in measures])
    return canvas


def _rows(
    ax: Axes,
    rows: list[pd.DataFrame | None],
    measures: list[str],
    bounds: tuple[float, float],
    full: str | None,
) -> None:
    """The runs of each measure (None: it has none here), their mean and its interval, one row below
    the other."""
    places, colors, faces, values, bars, ink = [], [], [], [], [], []
    for place, (runs, measure) in enumerate(zip(rows, measures, strict=True)):
        if runs is None:
            continue
        look, mine = style.look(measure), runs["value"].to_numpy()
        opened = runs[full].to_numpy() == 0 if full else np.zeros(len(mine), dtype=bool)
        places += [place + 0.26] * len(mine)
        colors += [look.color] * len(mine)
        faces += ["white" if open_ else look.color for open_ in opened]
        values += mine.tolist()
        interval = band(mine[:, None])
        if interval is not None:
            low, high = np.clip(interval, *bounds)[:, 0]
            bars.append([(low, place), (high, place)])
            ink.append(look.color)
        ax.plot(mine.mean(), place, look.marker, color=look.color, markersize=6, markeredgecolor="white",
                markeredgewidth=0.5, zorder=4)  # fmt: skip
    ax.scatter(
        values, places, s=2.6**2, c=faces, edgecolors=colors, linewidths=0.6, alpha=0.55, zorder=2
    )
    ax.add_collection(LineCollection(bars, colors=ink, linewidths=1.6, capstyle="butt", zorder=3))


def _reference(ax: Axes, values: np.ndarray, bounds: tuple[float, float]) -> None:
    if not len(values):
        return
    ax.axvline(
        values.mean(),
        color=style.look(DENSE).color,
        linestyle=style.look(DENSE).line,
        linewidth=1,
        zorder=1,
    )
    interval = band(values[:, None])
    if interval is not None:
        ax.axvspan(
            *np.clip(interval, *bounds)[:, 0], color="#000000", alpha=0.06, linewidth=0, zorder=0
        )
