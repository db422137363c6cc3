"""What came of it: accuracy, loss, time to a threshold, and what the net costs."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.outcomes import outcomes
from analysis.report import style
from analysis.report.figures.dots import DOTS, dots
from analysis.report.figures.plot import figure, legend, new_canvas
from analysis.runs.frames import Frames
from analysis.settings import DENSE


@figure(
    "Final test accuracy",
    f"Test accuracy after the last epoch. {DOTS}; the dashed line is the dense control's mean and the grey band its "
    "interval.",
)
def final_accuracy(frames: Frames) -> Figure | None:
    """Final test accuracy by measure, the dense control as reference."""
    return dots(frames, "final_accuracy", "test accuracy (%)", scale=100, bounds=(0, 100))


@figure(
    "Training loss after the cut",
    "Training loss (cross-entropy of logits / T), averaged over the epochs after the last cut: the statistic of C1. "
    f"{DOTS}.",
)
def loss_after_cut(frames: Frames) -> Figure | None:
    """Mean training loss after the last cut by measure."""
    return dots(frames, "loss_after_cut", "mean training loss (nats)", bounds=(0, np.inf))


@figure(
    "Epochs to a threshold",
    "Epochs after the last cut until the training loss is down to the dense control's (of the same seed) after half "
    f"of its epochs. {DOTS}. Open dots are runs that never got there: they count with all epochs that remain, so "
    "their mean is a lower bound.",
)
def epochs_to_threshold(frames: Frames) -> Figure | None:
    """Epochs until the loss is down to the dense control's, by measure."""
    return dots(
        frames,
        "epochs_to_threshold",
        "epochs after the last cut",
        bounds=(0, np.inf),
        full="reached",
    )


@figure(
    "Accuracy against cost",
    "Final test accuracy against what is left of the parameters, of the multiply-accumulates of a forward pass, and "
    "against the time that training takes per image (median over the epochs after the last cut, on the machine of "
    "the run and beside whatever else it did). A marker per measure and setting, a mean over seeds (intervals: the "
    "figure of final accuracy); the dense control is a cross. Panels are costs (parameters and MACs on log scales), "
    "and hold all settings.",
)
def cost(frames: Frames) -> Figure | None:
    """Final accuracy against parameters, MACs and training time."""
    table = outcomes(frames)
    table = table[(table["ablation"] == "none") & table["final_accuracy"].notna()]
    for size in ("params", "macs"):
        table = table.assign(
            **{size: 100 * table[f"net/{size}/after"] / table[f"net/{size}/before"]}
        )
    if (table["measure"] == DENSE).all():
        return None
    costs = {
        "params": "parameters left (%)",
        "macs": "MACs left (%)",
        "train_ms": "training time per image (ms)",
    }
    means = table.groupby(["measure", "setting"])[["final_accuracy", *costs]].mean().reset_index()
    measures = style.in_order(set(means["measure"]))
    canvas, blocks = new_canvas(["parameters", "computation", "time"], 1, height=2.3)
    for (key, label), (ax,) in zip(costs.items(), blocks, strict=True):
        for measure in measures:
            here, look = means[means["measure"] == measure], style.look(measure)
            ax.plot(
                here[key], 100 * here["final_accuracy"], look.marker or "x", color=look.color, markersize=5,
                markeredgecolor="white" if look.marker else look.color, markeredgewidth=0.5 if look.marker else 1.5,
                alpha=0.9,
            )  # fmt: skip
        ax.set_xlabel(label)
        if key in ("params", "macs"):
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_locator(NullLocator())
    blocks[0][0].set_ylabel("test accuracy (%)")
    legend(canvas, measures, line=False)
    return canvas
