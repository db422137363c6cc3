"""How many filters each layer has left."""

from __future__ import annotations

import pandas as pd
import seaborn
from matplotlib.figure import Figure

from analysis.quantities import DENSITY
from analysis.report import style
from analysis.report.figures.plot import add_colorbar, figure, new_canvas, sample_size
from analysis.runs.frames import Frames
from analysis.settings import settings_of

NUMBERED = 12
"""Layers up to which there is room for the number in each cell, and for a tick at each layer."""


@figure(
    "Layer-wise density",
    "Percentage of each conv layer's filters that is left after the last cut, convs in the order "
    "of the net: mean over seeds (95 % intervals: tables/densities.csv).",
    size=lambda frames: sample_size(frames, layer_densities(frames)["run_id"]),
)
def densities(frames: Frames) -> Figure | None:
    """Filters left per measure and conv, after the last cut."""
    table = layer_densities(frames)
    if table.empty:
        return None
    cut = set(table["setting"])
    panels = [setting for setting in settings_of(frames.drawn()) if setting in cut]
    measures = style.in_order(set(table["measure"]))
    canvas, blocks = new_canvas(panels, 1, height=0.75 + 0.22 * len(measures))
    for panel, (ax,) in zip(panels, blocks, strict=True):
        here = table[table["setting"] == panel].assign(layer=lambda rows: rows["layer"] + 1)
        means = here.pivot_table(index="measure", columns="layer", values="density")
        layers = len(means.columns)
        seaborn.heatmap(
            means.reindex(measures).rename(index=style.name),
            vmin=0,
            vmax=100,
            cmap="cividis",
            cbar=False,
            annot=layers <= NUMBERED,
            fmt=".0f",
            annot_kws={"fontsize": 6.5},
            xticklabels=1 if layers <= NUMBERED else -(-layers // 8),
            ax=ax,
        )
        ax.set(xlabel="conv layer, input to output", ylabel="")
        ax.tick_params(length=0, axis="both", rotation=0)
    add_colorbar(canvas, ax.collections[0], [ax for (ax,) in blocks], DENSITY.axis)
    return canvas


def layer_densities(frames: Frames) -> pd.DataFrame:
    """A row per drawn run and conv: `run_id`, `group`, `setting`, `measure`, `seed`, `layer`,
    `conv`, `density` (%)."""
    names = ["run_id", "group", "setting", "measure", "seed"]
    rows = frames.kept.merge(frames.drawn()[[*names, "rounds"]], on="run_id")
    rows = rows[rows["round"] == rows["rounds"]]  # a run that collapsed before has none
    rows["density"] = 100 * rows["kept"] / rows["original"]
    return rows[[*names, "layer", "conv", "density"]]
