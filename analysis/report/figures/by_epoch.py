"""Numbers by epoch: training, and the gradient flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.quantities import GRADIENT_NORM, SPEED, TEST_ACCURACY, TRAINING_LOSS, Quantity
from analysis.report import style
from analysis.report.figures.plot import BAND, COLUMNS, figure, legend, new_canvas
from analysis.report.figures.scale import share_limits
from analysis.report.lines import Line, cut_epochs, lines
from analysis.runs.frames import Frames
from analysis.settings import DENSE, settings_of
from analysis.stats import mean_interval

SHARED = (
    "Before the cut all runs share the dense control's training (the dashed black line, which ends "
    "there if no dense control was run)"
)
PANEL_HEIGHT = 1.75
CHANGE = Quantity("change", "|Δ|θ|²| / lr", log=True)


@figure(
    "Convergence",
    "Training loss (cross-entropy of logits / T, log scale) and test accuracy by epoch. Lines are "
    f"means over seeds (geometric on log scales), bands {BAND}; dotted vertical lines mark cuts. "
    f"{SHARED}. A curve ends where one of its runs diverged or collapsed.",
)
def convergence(frames: Frames) -> Figure | None:
    """Training loss and test accuracy by epoch and measure."""
    return _by_epoch(frames, [TRAINING_LOSS, TEST_ACCURACY])


@figure(
    "Gradient-flow trajectories",
    "Gradient norm |g|, speed of the squared parameter norm as gradient flow has it, "
    "|d|θ|²/dt| = 2|θ·g|, both on the probe set, and its change between epochs at which it is "
    "measured, divided by the learning rates between them (momentum, weight decay and minibatches "
    "also move it; where a cut lies between, it is left out), by epoch (log scales). Lines are "
    f"geometric means over seeds, bands {BAND}; dotted vertical lines mark cuts. {SHARED}. A value "
    "at the epoch of a cut was taken before the cut.",
)
def gradient_flow(frames: Frames) -> Figure | None:
    """|g|, 2 |theta.g| and the discrete change of |theta|^2 by epoch and measure."""
    history = frames.history
    after = frames.cuts[["run_id"]].assign(epoch=frames.cuts["epoch"] + 1, pruned=True)
    began = history[["run_id", "epoch"]].merge(after, how="left")["pruned"].notna().to_numpy()
    table = history.assign(
        lr=history.groupby("run_id")["lr"].cumsum(),
        cuts=pd.Series(began, history.index).groupby(history["run_id"]).cumsum(),
    )
    there = history["flow/weight_norm_sq"].notna()
    measured = table[there].groupby("run_id")
    # the change over an epoch that began with a cut holds what was cut off
    whole = measured["cuts"].diff() == 0
    change = (measured["flow/weight_norm_sq"].diff().abs() / measured["lr"].diff()).where(whole)
    history = history.assign(change=change)[there]
    return _by_epoch(replace(frames, history=history), [GRADIENT_NORM, SPEED, CHANGE])


def _by_epoch(frames: Frames, quantities: Sequence[Quantity]) -> Figure | None:
    """A row of panels per quantity, a line per measure."""
    runs, keys = frames.drawn(), [quantity.key for quantity in quantities]
    tables = frames.history.pivot(index="run_id", columns="epoch", values=keys)
    if runs.empty or tables.isna().to_numpy().all():
        return None
    panels, cuts = settings_of(runs), cut_epochs(runs, frames.cuts)
    shown = {panel: lines(runs, panel) for panel in panels}
    canvas, blocks = new_canvas(panels, len(quantities), height=PANEL_HEIGHT)
    for row, quantity in enumerate(quantities):
        means = []
        for panel, axes in zip(panels, blocks, strict=True):
            means += [
                _line(axes[row], tables[quantity.key], line, quantity) for line in shown[panel]
            ]
            _mark_cuts(axes[row], cuts.get(panel, []))
        share_limits([axes[row] for axes in blocks], np.concatenate(means), log=quantity.log)
    for axes in blocks:  # settings can end at different epochs
        for ax in axes[:-1]:
            ax.sharex(axes[-1])
            ax.tick_params(labelbottom=False)
        axes[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes[-1].set_xlabel("epoch")
    for axes in blocks[::COLUMNS]:
        for ax, quantity in zip(axes, quantities, strict=True):
            ax.set_ylabel(quantity.axis)
    legend(canvas, style.in_order({line.measure for panel in panels for line in shown[panel]}))
    return canvas


def _line(ax: Axes, table: pd.DataFrame, line: Line, quantity: Quantity) -> np.ndarray:
    """Draw the mean of a quantity over runs, with its band; returns the means that are drawn.

    Only epochs at which every run has a value are drawn. `CHANGE` begins after the cut, and its
    line is interrupted where values are missing.
    """
    values, epochs = quantity.averaged(table.loc[list(line.run_ids)].to_numpy()), table.columns
    interrupted = quantity is CHANGE
    begin = line.first + (interrupted and line.measure != DENSE)
    known = np.isfinite(values).all(axis=0) & (begin <= epochs) & (epochs <= line.last)
    if not known.any():
        return np.empty(0)
    places = np.flatnonzero(known)
    drawn = np.arange(places[0], places[-1] + 1) if interrupted else places
    epochs, values = epochs[drawn], np.where(known, values, np.nan)[:, drawn]
    look = style.look(line.measure)
    mean = quantity.shown(values.mean(axis=0))
    ax.plot(epochs, mean, markevery=max(1, len(epochs) // 8), **look.curve())
    if interval := mean_interval(values):
        low, high = quantity.shown(interval)
        ax.fill_between(epochs, low, high, color=look.color, alpha=0.1, linewidth=0)
    return mean


def _mark_cuts(ax: Axes, epochs: Sequence[int]) -> None:
    """Dotted lines at the cuts; of more than two, at the first and the last, with a tint
    between."""
    if len(epochs) > 2:
        epochs = [epochs[0], epochs[-1]]
        ax.axvspan(*epochs, color="#000000", alpha=0.05, linewidth=0)
    for epoch in epochs:
        ax.axvline(epoch, color="#555555", linestyle=":", linewidth=0.9, zorder=1)
