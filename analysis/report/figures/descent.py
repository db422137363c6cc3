"""The figures of `descent.json` (see `benchmark.descent`): gradient flow against gradient descent.
They are about one net, so that they are no part of a report of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from scipy.stats import spearmanr

from analysis.report import style
from analysis.report.figures.plot import add_colorbar, new_canvas
from analysis.report.figures.scale import signed_axis

QUANTITIES = {
    "loss": ("L: -|g|²", "#D55E00", "^"),
    "weight_norm_sq": ("|θ|²: -2 θ·g", "#0072B2", "o"),
    "filter_norm_sq": ("|w|² of a filter: -2 w·g", "#56B4E9", "s"),
    "grad_norm_sq": ("|g|²: -2 g·Hg", "#009E73", "D"),
}
"""The quantities by their key in `error`: label (with the rate of change), colour and marker."""
GREY = "#999999"


@dataclass(frozen=True)
class Sheet:
    """A drawn figure with its caption."""

    name: str
    title: str
    caption: str
    canvas: Figure


def sheets(record: dict) -> list[Sheet]:
    """All figures of a record."""
    with matplotlib.rc_context(style.RC):
        return [errors(record), training_mode(record), filters(record)]


def errors(record: dict) -> Sheet:
    """The error of each identity against the step size."""
    followed, single = record["followed"], record["single"]
    time = followed[0]["time"]
    canvas, ((left,), (right,)) = new_canvas([f"over the time {time:g}", "one step"], 1, height=2.4)
    for ax, rows in ((left, followed), (right, single)):
        steps = np.array([row["time"] / row["steps"] for row in rows])
        kinks = np.array([row["kinks"] > 0 for row in rows])
        for key, (_, color, marker) in QUANTITIES.items():
            found = np.array([row["error"][key] for row in rows], dtype=float)
            ax.plot(steps, found, color=color, linewidth=1)
            for mask, face in ((~kinks, color), (kinks, "white")):
                ax.plot(
                    steps[mask], found[mask], marker, color=color, markerfacecolor=face, zorder=3
                )
        _log_axes(ax)
        _slope(ax)
        ax.set_xlabel("step")
    left.set_xticks(ticks := [row["time"] / row["steps"] for row in followed])
    left.set_xticklabels([f"{tick:.3g}" for tick in ticks])
    left.set_ylabel("error, relative to the change")
    handles = [
        Line2D([], [], color=color, marker=marker, label=label)
        for label, color, marker in QUANTITIES.values()
    ]
    handles.append(Line2D([], [], color=GREY, linestyle="--", label="slope 1"))
    canvas.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    caption = (
        "Gradient descent in evaluation mode (float64, statistics of batch norm held): error of "
        "the sum of step times rate of change, relative to the change. Left: over the time "
        f"{time:g} in {', '.join(str(row['steps']) for row in followed)} steps; right: one step. "
        "Markers are open where an input of a rectifier changed its sign or a max-pool its choice "
        f"on the way (left: {_span([row['kinks'] for row in followed], ',')} of them). The errors "
        "of the loss and of the squared norms fall in proportion to the step. That of |g|² does so "
        f"only while nothing changes sides. {_failure([*followed, *single])} The rounding of "
        "float64 shows in the smallest steps."
    )
    return Sheet("descent_errors", "Gradient flow and gradient descent", caption, canvas)


def training_mode(record: dict) -> Sheet:
    """What SGD in training mode does to the squared norm of the filters."""
    training = record["training_mode"]
    steps = pd.DataFrame(training["steps"])
    canvas, ((left,), (right,)) = new_canvas(
        ["one step", f"an epoch at the step {training['lr']:g}"], 1, height=2.4, sharey=False
    )
    blue, orange = QUANTITIES["weight_norm_sq"][1], QUANTITIES["loss"][1]
    left.plot(steps["step"], steps["second_order"], color=blue, label="step² |g|²")
    left.plot(
        steps["step"], steps["evaluation_mode"].abs(), color=orange, linestyle="--",
        label="2 step |w·g|, evaluation mode",
    )  # fmt: skip
    left.plot(steps["step"], steps["change"].abs(), "o", color="black", label="measured")
    _log_axes(left)
    left.set(xlabel="step", ylabel="change of |w|² of all filters")
    left.legend(loc="upper left")
    for course, color in zip(training["courses"], (blue, orange), strict=True):
        number = 1 + np.arange(len(course["change"]))
        decay = course["weight_decay"]
        right.plot(number, course["law"], color=color)
        right.plot(number, course["change"], "o", color=color, label=f"weight decay {decay:g}")
    right.axhline(0, color="#555555", linewidth=0.9, zorder=1)
    right.set_xlabel("steps of SGD")
    right.legend(loc="best")
    cosine = training["cosine"]
    caption = (
        "SGD without momentum, batch norm in training mode (float64). A filter's length does not "
        f"matter to the net there: |cos(w, g)| is at most {cosine['training']:.1e} over all "
        f"filters, against up to {cosine['evaluation']:.2f} in evaluation mode. So |w|² does not "
        "follow -2 w·g of evaluation mode (dashed), but grows by step² |g|² in each step (left), "
        "and shrinks by weight decay alone (right: dots are measured, lines the sum of both)."
    )
    return Sheet("descent_training_mode", "SGD in training mode", caption, canvas)


def filters(record: dict) -> Sheet:
    """theta.Hg against theta.g of each filter."""
    table = pd.DataFrame(record["filters"])
    canvas, ((ax,),) = new_canvas(["filters"], 1, height=2.6)
    for key, axis in (("theta_g", ax.xaxis), ("theta_hg", ax.yaxis)):
        signed_axis(axis, table[key].to_numpy(dtype=float), ticks=5)
    drawn = ax.scatter(
        table["theta_g"], table["theta_hg"], c=table["layer"] + 1, cmap="viridis", s=9, linewidth=0,
        alpha=0.85,
    )  # fmt: skip
    for line in (ax.axhline, ax.axvline):
        line(0, color="#555555", linewidth=0.9, zorder=1)
    ax.set(xlabel="θ·g of a filter (nats)", ylabel="θ·Hg of a filter (nats)")
    add_colorbar(canvas, drawn, [ax], "conv layer, input to output")
    canvas.axes[-1].yaxis.set_major_locator(MaxNLocator(10, integer=True))
    ranked = table[table["prunable"]]
    within = [_rho(part) for _, part in ranked.groupby("layer") if len(part) > 2]
    caption = (
        f"θ·Hg against θ·g of each of {len(table)} filters in evaluation mode, with batch-norm "
        "statistics of the images. Spearman's correlation is "
        f"{_rho(ranked):.2f} over the prunable filters, and within a layer "
        f"{np.nanmedian(within):.2f} (median of {len(within)}; {np.nanmin(within):.2f} to "
        f"{np.nanmax(within):.2f}). n = 1 net. Where numbers are of several "
        "orders, axes are linear near 0 and logarithmic beyond."
    )
    return Sheet("descent_filters", "Second order against first, filter by filter", caption, canvas)


def _rho(table: pd.DataFrame) -> float:
    return float(spearmanr(table["theta_g"], table["theta_hg"]).statistic)


def _failure(rows: Sequence[dict]) -> str:
    """How far the prediction of |g|^2 is off once something changed sides."""
    missed = [row["error"]["grad_norm_sq"] for row in rows if row["kinks"]]
    if not missed:
        return "Nothing did here."
    return (
        "Where something did, g jumps, which Hg does not contain: -2 g·Hg then misses the change "
        f"of |g|² by {_span(missed, '.2g')} times its size, and smaller steps over the same "
        "time do not help."
    )


def _span(numbers: Sequence[float], form: str) -> str:
    low, high = (format(number, form) for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def _log_axes(ax: Axes) -> None:
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(numticks=7))
        axis.set_minor_locator(NullLocator())


def _slope(ax: Axes) -> None:
    """A reference line of slope 1 through the lower right of a panel with log axes."""
    (left, right), (low, _) = ax.get_xlim(), ax.get_ylim()
    ax.autoscale(False)
    ends = np.array([left, right])
    ax.plot(ends, 2 * low * ends / left, color=GREY, linestyle="--", zorder=1)
