"""Results of runs: accuracy, loss, epochs to a threshold, and the cost of the net."""

from __future__ import annotations

import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.outcomes import SIZES, outcomes, share_left
from analysis.quantities import EPOCHS_TO_THRESHOLD, FINAL_ACCURACY, LOSS_AFTER_CUT
from analysis.report import style
from analysis.report.figures.dots import DOTS, dots
from analysis.report.figures.plot import figure, legend, new_canvas
from analysis.runs.frames import Frames
from analysis.settings import DENSE


@figure(
    "Final test accuracy",
    f"Test accuracy after the last epoch. {DOTS}; the dashed line is the dense control's mean and "
    "the grey band its interval.",
)
def final_accuracy(frames: Frames) -> Figure | None:
    """Final test accuracy by measure, the dense control as reference."""
    return dots(frames, FINAL_ACCURACY)


@figure(
    "Training loss after the cut",
    "Training loss (cross-entropy of logits / T), averaged over the epochs after the last cut: the "
    f"statistic of C1. {DOTS}.",
)
def loss_after_cut(frames: Frames) -> Figure | None:
    """Mean training loss after the last cut by measure."""
    return dots(frames, LOSS_AFTER_CUT)


@figure(
    "Epochs to a threshold",
    "Epochs after the last cut until the training loss is down to the dense control's (of the same "
    f"seed) after half of its epochs. {DOTS}. Open dots are runs that never got there: they count "
    "with all epochs that remain, so their mean is a lower bound.",
)
def epochs_to_threshold(frames: Frames) -> Figure | None:
    """Epochs until the loss is down to the dense control's, by measure."""
    return dots(frames, EPOCHS_TO_THRESHOLD, full="reached")


@figure(
    "Accuracy against cost",
    "Final test accuracy against what is left of the parameters, of the multiply-accumulates of a "
    "forward pass, and against the time that training takes per image (median over the epochs "
    "after the last cut, on the machine of the run and beside whatever else it did). A marker per "
    "measure and setting, a mean over seeds (intervals: the figure of final accuracy); the dense "
    "control is a cross. Panels are costs (parameters and MACs on log scales), and hold all "
    "settings.",
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
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_locator(NullLocator())
    blocks[0][0].set_ylabel(FINAL_ACCURACY.axis)
    legend(canvas, measures, line=False)
    return canvas
