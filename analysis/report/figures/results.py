"""Results of runs: accuracy, loss, epochs to a threshold, and the cost of the net."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.outcomes import SIZES, outcomes, share_left
from analysis.quantities import EPOCHS_TO_THRESHOLD, FINAL_ACCURACY, LOSS_AFTER_CUT
from analysis.report import style
from analysis.report.figures.dots import DOTS, dots
from analysis.report.figures.plot import BAND, COLUMNS, figure, legend, new_canvas, size_of
from analysis.report.figures.scale import log_axis
from analysis.runs.frames import Frames
from analysis.settings import DENSE, SHARED
from analysis.stats import bounded_interval


@figure(
    "Final test accuracy",
    f"Test accuracy after the last epoch. {DOTS}; the dashed line is the dense control's mean and "
    "the grey band its interval.",
    size=size_of(FINAL_ACCURACY),
)
def final_accuracy(frames: Frames) -> Figure | None:
    """Final test accuracy by measure, the dense control as reference."""
    return dots(frames, FINAL_ACCURACY)


@figure(
    "Training loss after the cut",
    "Training loss (cross-entropy of logits / T), averaged over the epochs after the last cut: the "
    f"statistic of C1. {DOTS}.",
    size=size_of(LOSS_AFTER_CUT),
)
def loss_after_cut(frames: Frames) -> Figure | None:
    """Mean training loss after the last cut by measure."""
    return dots(frames, LOSS_AFTER_CUT)


@figure(
    "Epochs to a threshold",
    "Epochs after the last cut until the training loss is down to the dense control's (of the same "
    f"seed) after half of its epochs. {DOTS}. Open dots are runs that never got there: they count "
    "with all epochs that remain, so their mean is a lower bound.",
    size=size_of(EPOCHS_TO_THRESHOLD),
)
def epochs_to_threshold(frames: Frames) -> Figure | None:
    """Epochs until the loss is down to the dense control's, by measure."""
    return dots(frames, EPOCHS_TO_THRESHOLD, full="reached")


@figure(
    "Accuracy against cost",
    "Final test accuracy against what is left of the parameters, of the multiply-accumulates of a "
    "forward pass, and against the time that training takes per image (median over the epochs "
    "after the last cut, measured during the run, so other work on the machine counts too). A "
    "marker per measure and setting, a mean over seeds (intervals: the figure of final accuracy); "
    "the dense control is a cross. Panels are costs (parameters and MACs on log scales), and hold "
    "all settings.",
    size=size_of(FINAL_ACCURACY),
)
def cost(frames: Frames) -> Figure | None:
    """Final accuracy against parameters, MACs and training time."""
    table = outcomes(frames)
    table = table[(table["ablation"] == "none") & table["final_accuracy"].notna()]
    if (table["measure"] == DENSE).all():
        return None
    shares = {size: 100 * share_left(table, size) for size in SIZES}
    costs = {
        "params": "parameters left (%)",
        "macs": "MACs left (%)",
        "train_ms": "training time per image (ms)",
    }
    table = table.assign(**shares, accuracy=FINAL_ACCURACY.scale * table["final_accuracy"])
    means = table.groupby(["measure", "setting"])[["accuracy", *costs]].mean().reset_index()
    measures, dense = style.in_order(set(means["measure"])), means["measure"] == DENSE
    canvas, blocks = new_canvas(["parameters", "computation", "time"], 1, height=2.3)
    for (key, label), (ax,) in zip(costs.items(), blocks, strict=True):
        seaborn.scatterplot(
            means[~dense], x=key, y="accuracy", alpha=0.9, ax=ax, **style.points(measures)
        )
        ax.scatter(means.loc[dense, key], means.loc[dense, "accuracy"], **style.CROSS)
        ax.set(xlabel=label, ylabel="")
        if key in SIZES:
            log_axis(ax.xaxis)
    blocks[0][0].set_ylabel(FINAL_ACCURACY.axis)
    legend(canvas, measures, line=False)
    return canvas


COSTS = {
    "macs": "MACs left (%)",
    "params": "parameters left (%)",
    "latency": "time per image (% of dense)",
}
"""What a net costs, as a share of the dense net's, and the label of its axis."""


@figure(
    "Accuracy at several ratios",
    "Final test accuracy against what is left of a forward pass's multiply-accumulates, of the "
    "parameters, and of the time per image (in batches, measured at the end of each run on its "
    "device), log scales; a line per measure over the ratios of one budget, a column per setting "
    f"that has several ratios. Markers are means over seeds, bars {BAND}. Rings mark the front: no "
    "other mean is at least as accurate at the same or a lower cost. The dashed line is the dense "
    "control.",
    size=size_of(FINAL_ACCURACY),
)
def accuracy_by_cost(frames: Frames) -> Figure | None:
    """Final accuracy against the costs of the net, over several ratios of one budget."""
    table = outcomes(frames)
    latency = table["latency/batch/after"] / table["latency/batch/before"]
    costs = {size: share_left(table, size) for size in SIZES} | {"latency": latency}
    table = table.assign(
        accuracy=FINAL_ACCURACY.scale * table["final_accuracy"],
        **{name: 100 * share for name, share in costs.items()},
    )
    table = table[(table["ablation"] == "none") & table["accuracy"].notna()]
    pruned = table[(table["measure"] != DENSE) & table["macs"].notna()]
    rest = [name for name in SHARED if name != "ratio"]
    pruned = pruned[pruned.groupby(rest)["ratio"].transform("nunique") > 1]
    if pruned.empty:
        return None
    pruned = pruned.assign(panel=pruned["setting"].map(_without_ratio))
    panels, measures = list(pruned["panel"].unique()), style.in_order(set(pruned["measure"]))
    shown = [cost for cost in COSTS if pruned[cost].notna().any()]
    canvas, blocks = new_canvas(panels, len(shown), height=2.3)
    for panel, axes in zip(panels, blocks, strict=True):
        here = pruned[pruned["panel"] == panel]
        dense = table.loc[table.index.isin(here["control"]), "accuracy"]
        for cost, ax in zip(shown, axes, strict=True):
            _over_ratios(ax, here, cost)
            if len(dense):
                look = style.look(DENSE)
                ax.axhline(dense.mean(), color=look.color, linestyle=look.line, lw=1, zorder=1)
            _cost_axis(ax, cost, pruned[cost])
    for axes in blocks[::COLUMNS]:
        for ax in axes:
            ax.set_ylabel(FINAL_ACCURACY.axis)
    controls = [DENSE] if table.index.isin(pruned["control"]).any() else []
    legend(canvas, [*measures, *controls])
    return canvas


def _cost_axis(ax: Axes, cost: str, values: pd.Series) -> None:
    """A logarithmic axis, the same for all panels."""
    low, high = 0.95 * values.min(), 1.05 * values.max()
    ax.set(xlim=(low, high), xlabel=COSTS[cost])
    log_axis(ax.xaxis)


def _without_ratio(setting: str) -> str:
    return re.sub(r", ratio [^,]+", "", setting)


def _over_ratios(ax: Axes, runs: pd.DataFrame, cost: str) -> None:
    """The means of each measure at each ratio, with their intervals, and the front."""
    for measure in style.in_order(set(runs["measure"])):
        ratios = runs[runs["measure"] == measure].groupby("ratio")
        means, look = ratios[[cost, "accuracy"]].mean(), style.look(measure)
        ax.plot(means[cost], means["accuracy"], **look.curve())
        spans = [bounded_interval(part["accuracy"], *FINAL_ACCURACY.bounds) for _, part in ratios]
        low, high = np.array(spans).T
        ax.vlines(means[cost], low, high, color=look.color, linewidth=0.8)
    front = _front(runs.groupby(["measure", "ratio"])[[cost, "accuracy"]].mean(), cost)
    ax.plot(
        front[cost], front["accuracy"], "o", markersize=8, markerfacecolor="none",
        markeredgecolor="black", markeredgewidth=0.8,
    )  # fmt: skip


def _front(means: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The rows that no other one beats: at less cost as much `accuracy`, or at as much more."""
    ordered = means.sort_values([cost, "accuracy"], ascending=[True, False])
    best = ordered["accuracy"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["accuracy"] > best]
