"""What a cut does to the loss and to the gradient, and what the scores said about it."""

from __future__ import annotations

import pandas as pd
import seaborn
from matplotlib.figure import Figure

from analysis.quantities import CHANGES, GRADIENT_CHANGE, LOSS_CHANGE, RANK_CORRELATION
from analysis.report import style
from analysis.report.figures.dots import DOTS, dots
from analysis.report.figures.plot import (
    BAND,
    COLUMNS,
    add_colorbar,
    figure,
    legend,
    new_canvas,
    sample_size,
    seeds_text,
    size_of,
)
from analysis.report.figures.scale import signed_scale
from analysis.runs.frames import AGREEMENT, Frames
from analysis.settings import DENSE, settings_of
from analysis.stats import bounded_interval


@figure(
    "Predicted and actual change at the cut",
    (
        "Change of the probe loss and of |g|² when filters are removed: first-order prediction "
        "(-θ_p·g_p and -2 θ_p·(Hg)_p, θ_p the removed parameters) against what the cut did. On "
        "the diagonal the prediction is exact. One marker per run and cut; axes are linear "
        "inside the shaded band around 0 and logarithmic outside, and differ between panels."
    ),
    size=lambda frames: sample_size(frames, frames.cuts["run_id"]),
)
def cut_changes(frames: Frames) -> Figure | None:
    """Loss and |g|^2 at the cut, predicted against actual, a marker per run and cut."""
    runs = frames.drawn()
    cuts = frames.cuts.merge(runs[["run_id", "setting", "measure"]], on="run_id")
    if cuts.empty:
        return None
    panels = [setting for setting in settings_of(runs) if setting in set(cuts["setting"])]
    measures = style.in_order(set(cuts["measure"]))
    canvas, blocks = new_canvas(panels, len(CHANGES), height=2.2, sharey=False)
    for panel, axes in zip(panels, blocks, strict=True):
        here = cuts[cuts["setting"] == panel]
        for ax, item in zip(axes, CHANGES, strict=True):
            keys = [f"predicted.{item.key}", f"actual.{item.key}"]
            signed_scale(here[keys].to_numpy()).apply(ax)
            seaborn.scatterplot(
                here, x=keys[0], y=keys[1], alpha=0.85, ax=ax, **style.points(measures)
            )
            ax.set(xlabel=f"predicted {item.axis}", ylabel="")
    for axes in blocks[::COLUMNS]:
        for ax, item in zip(axes, CHANGES, strict=True):
            ax.set_ylabel(f"actual {item.axis}")
    legend(canvas, measures, line=False)
    return canvas


@figure(
    "Gradient norm across the cut",
    (
        "Change of log10 |g| on the probe set at a cut (mean over the cuts of a run): 1 means "
        f"ten times the gradient norm, 0 that it is preserved. {DOTS}."
    ),
    size=size_of(GRADIENT_CHANGE),
)
def gradient_change(frames: Frames) -> Figure | None:
    """Change of log10 |g| at the cut by measure."""
    return dots(frames, GRADIENT_CHANGE)


@figure(
    "Change of the loss at a cut",
    (
        "Change of the probe loss, summed over the cuts of a run: 0 means that the loss is "
        "preserved. Axes differ between panels; where the numbers are of several orders they "
        f"are linear near 0 and logarithmic beyond. {DOTS}."
    ),
    size=size_of(LOSS_CHANGE),
)
def loss_change(frames: Frames) -> Figure | None:
    """Change of the loss at the cut by measure."""
    return dots(frames, LOSS_CHANGE, signed=True)


def agreement_size(frames: Frames) -> str:
    """How many seeds stand behind each mean, in words."""
    first = _first_cuts(frames)
    first = first[first.filter(like=AGREEMENT).notna().any(axis=1)]
    seeds = first.groupby("epoch")["seed"].nunique()
    seeds.index = [f"epoch {epoch}" for epoch in seeds.index]
    return seeds_text(seeds, f"{first['run_id'].nunique()} runs")


def _first_cuts(frames: Frames) -> pd.DataFrame:
    """The rows of first cuts, with the `seed` of the run."""
    seeds = frames.drawn().set_index("run_id")["seed"]
    first = frames.cuts[(frames.cuts["round"] == 1) & frames.cuts["run_id"].isin(seeds.index)]
    return first.assign(seed=first["run_id"].map(seeds), epoch=first["epoch"].astype(int))


def _dense_runs(frames: Frames) -> pd.DataFrame:
    """The rows of the dense controls' histories at which the flow was measured."""
    runs = frames.drawn()
    dense = runs.loc[runs["measure"] == DENSE, "run_id"]
    rows = frames.history[frames.history["run_id"].isin(dense)]
    return rows.dropna(subset=["flow/theta_g", "flow/theta_hg"])


REFERENCES = ("magnitude", "loss", "grad_preservation", "grasp", "oracle")
"""Measures that the others are compared with: one of each kind."""


@figure(
    "Rank correlation between measures",
    (
        "Spearman correlation of the scores of two measures over all live filters at the first "
        "cut, by the epochs trained before it. Each panel compares all measures with one. Lines "
        f"are means over seeds, bars {BAND}. Runs that recorded several measures count, "
        "whichever cut them."
    ),
    size=agreement_size,
)
def agreement(frames: Frames) -> Figure | None:
    """Rank correlation of each measure with one of each kind, by the epoch of the cut."""
    first = _first_cuts(frames)
    pairs = [name for name in first if name.startswith(AGREEMENT) and first[name].notna().any()]
    if not pairs:
        return None
    means = first.groupby(["epoch", "seed"])[pairs].mean().reset_index()
    found = means.melt(["epoch", "seed"], var_name="pair", value_name="rho").dropna()
    sides = found["pair"].str.removeprefix(AGREEMENT).str.split("|", expand=True)
    found = pd.concat(
        [
            found.assign(reference=sides[0], measure=sides[1]),
            found.assign(reference=sides[1], measure=sides[0]),
        ]
    )
    measures = style.in_order(set(found["measure"]))
    panels = [name for name in REFERENCES if name in measures]
    canvas, blocks = new_canvas([f"with {style.name(name)}" for name in panels], 1, height=2.0)
    for reference, (ax,) in zip(panels, blocks, strict=True):
        here = found[found["reference"] == reference]
        shown = style.in_order(set(here["measure"]))
        seaborn.pointplot(
            here,
            x="epoch",
            y="rho",
            order=sorted(first["epoch"].unique()),
            hue="measure",
            dodge=0.3,
            errorbar=lambda values: bounded_interval(values, *RANK_CORRELATION.bounds),
            err_kws={"linewidth": 0.8},
            linewidth=1.3,
            linestyles=[style.look(name).line for name in shown],
            legend=False,
            ax=ax,
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            **style.looks(shown),
        )
        ax.axhline(0, color="#555555", linewidth=0.9, zorder=1)
        ax.set(xlabel="epochs before the cut", ylabel="", ylim=(-1.05, 1.05))
    for (ax,) in blocks[::COLUMNS]:
        ax.set_ylabel(RANK_CORRELATION.axis)
    legend(canvas, measures)
    return canvas


@figure(
    "Second order against first",
    (
        "θ·Hg against θ·g on the probe set in dense training, a dot per seed and epoch, "
        "coloured by the epoch. Axes are linear near 0 and logarithmic beyond."
    ),
    size=lambda frames: f"n = {_dense_runs(frames)['run_id'].nunique()} dense runs.",
)
def order_products(frames: Frames) -> Figure | None:
    """theta.Hg against theta.g along dense training."""
    rows = _dense_runs(frames)
    if rows.empty:
        return None
    canvas, ((ax,),) = new_canvas(["dense training"], 1, height=2.4)
    first, second = rows["flow/theta_g"].to_numpy(), rows["flow/theta_hg"].to_numpy()
    signed_scale(first).along(ax.xaxis)
    signed_scale(second).along(ax.yaxis)
    points = ax.scatter(first, second, c=rows["epoch"], cmap="viridis", s=10, linewidth=0)
    for line in (ax.axhline, ax.axvline):
        line(0, color="#555555", linewidth=0.9, zorder=1)
    ax.set(xlabel="θ·g (nats)", ylabel="θ·Hg (nats)")
    add_colorbar(canvas, points, [ax], "epoch")
    return canvas
