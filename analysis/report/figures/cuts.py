"""What a cut does: to the loss, to the gradient, and what scores said about it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.report import style
from analysis.report.bands import band
from analysis.report.figures.dots import DOTS, dots
from analysis.report.figures.plot import BAND, COLUMNS, drawn, figure, legend, new_canvas
from analysis.report.figures.scale import signed_scale
from analysis.runs.frames import AGREEMENT, Frames
from analysis.settings import DENSE, settings_of


@figure(
    "Predicted and actual change at the cut",
    "Change of the probe loss and of |g|² when filters are removed: first-order prediction (-θ_p·g_p and "
    "-2 θ_p·(Hg)_p, θ_p the removed parameters) against what the cut did. On the diagonal the prediction is exact. One "
    "marker per run and cut; axes are linear inside the shaded band around 0 and logarithmic outside, and differ "
    "between panels.",
)
def cut_changes(frames: Frames) -> Figure | None:
    """Loss and |g|^2 at the cut, predicted against actual, a marker per run and cut."""
    runs = drawn(frames)
    cuts = frames.cuts.merge(runs[["run_id", "setting", "measure"]], on="run_id")
    cuts = cuts[cuts["measure"] != DENSE]
    if cuts.empty:
        return None
    panels, measures = settings_of(runs), style.in_order(set(cuts["measure"]))
    cells = dict(iter(cuts.groupby(["setting", "measure"])))
    kinds = {
        "loss_change": "change of loss (nats)",
        "grad_norm_sq_change": "change of |g|² (nats²)",
    }
    canvas, blocks = new_canvas(panels, len(kinds), height=2.2, sharey=False)
    for row, (key, label) in enumerate(kinds.items()):
        for panel, axes in zip(panels, blocks, strict=True):
            ax, here = axes[row], cuts[cuts["setting"] == panel]
            signed_scale(here[[f"predicted.{key}", f"actual.{key}"]].to_numpy()).apply(ax)
            for measure in measures:
                if (panel, measure) not in cells:
                    continue
                points, look = cells[panel, measure], style.look(measure)
                ax.plot(
                    points[f"predicted.{key}"], points[f"actual.{key}"], look.marker, color=look.color,
                    markersize=5, alpha=0.85, markeredgecolor="white", markeredgewidth=0.4,
                )  # fmt: skip
            ax.set_xlabel(f"predicted {label}")
    for axes in blocks[::COLUMNS]:
        for ax, label in zip(axes, kinds.values(), strict=True):
            ax.set_ylabel(f"actual {label}")
    legend(canvas, measures, line=False)
    return canvas


@figure(
    "Gradient norm across the cut",
    "Change of log10 |g| on the probe set at a cut (mean over the cuts of a run): 1 means ten times the gradient norm, "
    f"0 that it is preserved. {DOTS}.",
)
def gradient_change(frames: Frames) -> Figure | None:
    """Change of log10 |g| at the cut by measure."""
    return dots(frames, "grad_norm_change", "change of log10 |g| (decades)")


@figure(
    "Change of the loss at a cut",
    "Change of the probe loss, summed over the cuts of a run: 0 means that the loss is preserved. Axes differ "
    f"between panels; where the numbers are of several orders they are linear near 0 and logarithmic beyond. {DOTS}.",
)
def loss_change(frames: Frames) -> Figure | None:
    """Change of the loss at the cut by measure."""
    return dots(frames, "loss_change", "change of loss (nats)", signed=True)


@figure(
    "Scores and movement",
    "Spearman correlation, over the filters that stay, of the score that a run was cut by with the change of their "
    "squared norm in the epoch after the cut (mean over the cuts of a run): the statistic (a) of C2. Above 0, filters "
    f"with low scores move least. {DOTS}.",
)
def movement(frames: Frames) -> Figure | None:
    """How well a score tells how far its filter will move, by measure."""
    return dots(frames, "moved", "rank correlation", bounds=(-1, 1))


REFERENCES = ("magnitude", "loss", "grad_preservation", "grasp", "oracle")
"""Measures that the others are compared with: one of each kind."""


@figure(
    "Rank correlation between measures",
    "Spearman correlation of the scores of two measures over all live filters at the first cut, by the epochs "
    f"trained before it. Each panel compares all measures with one. Lines are means over seeds, bars {BAND}. Runs "
    "that recorded several measures count, whichever cut them.",
)
def agreement(frames: Frames) -> Figure | None:
    """Rank correlation of each measure with one of each kind, by the epoch of the cut."""
    runs = drawn(frames).set_index("run_id")
    first = frames.cuts[(frames.cuts["round"] == 1) & frames.cuts["run_id"].isin(runs.index)]
    pairs = [name for name in first if name.startswith(AGREEMENT) and first[name].notna().any()]
    if not pairs:
        return None
    seeds = (
        first.assign(seed=first["run_id"].map(runs["seed"]))
        .groupby(["epoch", "seed"])[pairs]
        .mean()
    )
    named = {
        frozenset(pair.removeprefix(AGREEMENT).split("|")): seeds[pair].unstack("seed")
        for pair in pairs
    }
    measures = style.in_order(set().union(*named))
    panels = [name for name in REFERENCES if name in measures]
    epochs = sorted(first["epoch"].unique())
    canvas, blocks = new_canvas([f"with {style.name(name)}" for name in panels], 1, height=2.0)
    for number, (reference, (ax,)) in enumerate(zip(panels, blocks, strict=True)):
        shown = [name for name in measures if frozenset((name, reference)) in named]
        for place, name in enumerate(shown):
            shift = 0.3 * (place / max(len(shown) - 1, 1) - 0.5)
            _points(
                ax, named[frozenset((name, reference))].reindex(epochs), shift, style.look(name)
            )
        ax.axhline(0, color="#555555", linewidth=0.9, zorder=1)
        ax.set(xlabel="epochs before the cut", ylim=(-1.05, 1.05), xticks=range(len(epochs)))
        ax.set_xticklabels([str(int(epoch)) for epoch in epochs])
        if number % COLUMNS == 0:
            ax.set_ylabel("rank correlation")
    legend(canvas, measures)
    return canvas


def _points(ax: Axes, values: pd.DataFrame, shift: float, look: style.Look) -> None:
    """Means over seeds [epochs, seeds] at equal distances, with their intervals."""
    places = np.arange(len(values)) + shift
    ax.plot(places, values.mean(axis=1), **look.curve())
    for place, row in zip(places, values.to_numpy(), strict=True):
        interval = band(row[np.isfinite(row), None])
        if interval is not None:
            ax.plot((place, place), np.clip(interval, -1, 1)[:, 0], color=look.color, linewidth=0.8)


@figure(
    "Second order against first",
    "θ·Hg against θ·g on the probe set in dense training, a dot per seed and epoch, coloured by the epoch. Axes are "
    "linear inside the shaded band around 0 and logarithmic outside.",
)
def order_products(frames: Frames) -> Figure | None:
    """theta.Hg against theta.g along dense training."""
    runs = drawn(frames)
    rows = frames.history[
        frames.history["run_id"].isin(runs.loc[runs["measure"] == DENSE, "run_id"])
    ]
    rows = rows.dropna(subset=["flow/theta_g", "flow/theta_hg"])
    if rows.empty:
        return None
    canvas, ((ax,),) = new_canvas(["dense training"], 1, height=2.4)
    first, second = rows["flow/theta_g"].to_numpy(), rows["flow/theta_hg"].to_numpy()
    signed_scale(first).along(ax.xaxis)
    signed_scale(second).along(ax.yaxis)
    dots = ax.scatter(first, second, c=rows["epoch"], cmap="viridis", s=10, linewidth=0)
    for line in (ax.axhline, ax.axvline):
        line(0, color="#555555", linewidth=0.9, zorder=1)
    ax.set(xlabel="θ·g (nats)", ylabel="θ·Hg (nats)")
    bar = canvas.colorbar(dots, ax=ax, pad=0.02)
    bar.set_label("epoch")
    bar.outline.set_visible(False)
    return canvas
