"""Trajectories by epoch: training, and the gradient flow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis.report import style
from analysis.report.bands import band
from analysis.report.figures.plot import (
    BAND,
    COLUMNS,
    PANEL_HEIGHT,
    drawn,
    figure,
    legend,
    new_canvas,
)
from analysis.runs.frames import Frames
from analysis.settings import DENSE, settings_of

SHARED = (
    "Before the cut all runs share the dense control's training (the dashed black line, which ends there if no dense "
    "control was run)"
)


@figure(
    "Convergence",
    "Training loss (cross-entropy of logits / T, log scale) and test accuracy by epoch. Lines are means over seeds "
    f"(geometric on log scales), bands {BAND}; dotted vertical lines mark cuts. {SHARED}. A curve ends where one of "
    "its runs diverged or collapsed.",
)
def convergence(frames: Frames) -> Figure | None:
    """Training loss and test accuracy by epoch and measure."""
    rows = [
        _Curve("train/loss", "training loss (nats)", log=True),
        _Curve("test/accuracy", "test accuracy (%)", 100, top=100),
    ]
    return _curves(frames, rows)


@figure(
    "Gradient-flow trajectories",
    "Gradient norm |g|, speed of the squared parameter norm as gradient flow has it, |d|θ|²/dt| = 2|θ·g|, both on "
    "the probe set, and its change over an epoch divided by the learning rate (which momentum, weight decay and "
    "minibatches also move; epochs that began with a cut are left out), by epoch (log scales). Lines are geometric "
    f"means over seeds, bands {BAND}; dotted vertical lines mark cuts. {SHARED}. A value at the epoch of a cut was "
    "taken before the cut.",
)
def gradient_flow(frames: Frames) -> Figure | None:
    """|g|, 2 |theta.g| and the discrete change of |theta|^2 by epoch and measure."""
    history = frames.history
    change = history.groupby("run_id")["flow/weight_norm_sq"].diff().abs() / history["lr"]
    after = frames.cuts[["run_id"]].assign(epoch=frames.cuts["epoch"] + 1, pruned=True)
    pruned = history[["run_id", "epoch"]].merge(after, how="left")["pruned"].notna()
    # the change over an epoch that began with a cut holds what was cut off
    history = history.assign(
        speed=2 * history["flow/theta_g"].abs(), change=change.mask(pruned.to_numpy())
    )
    rows = [
        _Curve("flow/grad_norm", "|g| (nats)", log=True),
        _Curve("speed", "2|θ·g| (nats)", log=True),
        _Curve("change", "|Δ|θ|²| / lr", log=True, gaps=True),
    ]
    return _curves(replace(frames, history=history), rows)


@dataclass(frozen=True)
class _Curve:
    key: str
    label: str
    scale: float = 1
    top: float = np.inf
    log: bool = False
    gaps: bool = False
    """Whether epochs without a value interrupt the curve, which begins after the cut."""


def _curves(frames: Frames, rows: list[_Curve]) -> Figure | None:
    """A row of panels per quantity, a line per measure."""
    runs = drawn(frames)
    panels = settings_of(runs)
    measures = style.in_order(set(runs["measure"]))
    tables = frames.history.pivot(index="run_id", columns="epoch", values=[row.key for row in rows])
    if runs.empty or tables.isna().to_numpy().all():
        return None
    cut_epochs = (
        frames.cuts.merge(runs[["run_id", "setting"]], on="run_id")
        .groupby("setting")["epoch"]
        .unique()
    )
    members = {panel: list(_members(runs, panel, measures)) for panel in panels}
    canvas, blocks = new_canvas(panels, len(rows), height=PANEL_HEIGHT, sharex=True)
    for index, row in enumerate(rows):
        table, limits = tables[row.key] * row.scale, []
        table = np.log10(table.where(table > 0)) if row.log else table
        for panel, axes in zip(panels, blocks, strict=True):
            ax, bands = axes[index], []
            for measure, ids, first, last in members[panel]:
                values, epochs = table.loc[ids].to_numpy(), table.columns.to_numpy()
                first += row.gaps and measure != DENSE
                known = np.isfinite(values).all(axis=0) & (first <= epochs) & (epochs <= last)
                for part in _stretches(known) if row.gaps else [known]:
                    if part.any():
                        limits.append(
                            _line(ax, epochs[part], values[:, part], style.look(measure), row)
                        )
                        bands += _band(epochs[part], values[:, part], style.look(measure), row)
            areas, colors = zip(*bands, strict=True) if bands else ((), ())
            ax.add_collection(
                PolyCollection(areas, facecolors=colors, alpha=0.1, linewidths=0), autolim=False
            )
            _mark_cuts(ax, cut_epochs.get(panel, []))
        _share_limits([axes[index] for axes in blocks], limits, log=row.log)
    blocks[0][0].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for number, axes in enumerate(blocks):
        axes[-1].set_xlabel("epoch")
        for ax, row in zip(axes, rows, strict=True):
            if number % COLUMNS == 0:
                ax.set_ylabel(row.label)
    legend(canvas, style.in_order({measure for panel in panels for measure, *_ in members[panel]}))
    return canvas


def _members(
    runs: pd.DataFrame, panel: str, measures: list[str]
) -> Iterator[tuple[str, list[str], float, float]]:
    """The curves of a panel: measure, runs, first and last epoch. Those of measures begin at the
    cut.

    The dense control's runs are those that the pruned runs would have been, or else these up to the
    cut.
    """
    here = runs[runs["setting"] == panel]
    cut, dense = here["first_cut"].min(), here["dense_id"].drop_duplicates()
    for measure in measures:
        own = here.loc[here["measure"] == measure, "run_id"].tolist()
        if own and measure != DENSE:
            yield measure, own, cut, np.inf
    if (ran := dense.isin(runs["run_id"])).any():
        yield DENSE, dense[ran].tolist(), 0, np.inf
    elif cut > 0:
        yield DENSE, here.loc[dense.index, "run_id"].tolist(), 0, cut


def _stretches(known: np.ndarray) -> Iterator[np.ndarray]:
    """Masks of the runs of neighbours in a mask."""
    edges = np.flatnonzero(np.diff(np.r_[False, known, False]))
    for first, after in edges.reshape(-1, 2):
        stretch = np.zeros_like(known)
        stretch[first:after] = True
        yield stretch


def _line(
    ax: Axes, epochs: np.ndarray, values: np.ndarray, look: style.Look, row: _Curve
) -> tuple[float, float]:
    """Draw the mean of values [seeds, epochs], logarithms on log scales; returns its range."""
    mean = values.mean(axis=0)
    mean = np.power(10, mean) if row.log else mean
    ax.plot(epochs, mean, markevery=max(1, len(epochs) // 8), **look.curve())
    return mean.min(), mean.max()


def _band(
    epochs: np.ndarray, values: np.ndarray, look: style.Look, row: _Curve
) -> list[tuple[np.ndarray, str]]:
    """The corners of the interval of the same mean, and its colour; nothing for one seed."""
    interval = band(values)
    if interval is None:
        return []
    low, high = np.power(10, interval) if row.log else np.clip(interval, 0, row.top)
    return [(np.column_stack([np.r_[epochs, epochs[::-1]], np.r_[low, high[::-1]]]), look.color)]


def _share_limits(axes: list[Axes], limits: list[tuple[float, float]], *, log: bool) -> None:
    """The same y range in all panels, from the means: a wide band of one measure must not flatten
    the others."""
    numbers = np.array(limits)
    if not np.isfinite(numbers).any():
        return
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    for ax in axes:
        if log:
            ax.set_yscale("log")
            margin = max(1.03, (high / low) ** 0.08)
            ax.set_ylim(low / margin, high * margin)
            if high / low < 50:
                ax.yaxis.set_major_locator(FixedLocator(_round_ticks(low / margin, high * margin)))
                ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_locator(NullLocator())
        else:
            margin = 0.06 * (high - low or 1)
            ax.set_ylim(low - margin, high + margin)


def _round_ticks(low: float, high: float) -> list[float]:
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


def _mark_cuts(ax: Axes, epochs: np.ndarray | list) -> None:
    """Dotted lines at the cuts; of more than two, at the first and the last, with a tint
    between."""
    if len(epochs) > 2:
        ax.axvspan(min(epochs), max(epochs), color="#000000", alpha=0.05, linewidth=0)
        epochs = [min(epochs), max(epochs)]
    for epoch in epochs:
        ax.axvline(epoch, color="#555555", linestyle=":", linewidth=0.9, zorder=1)
