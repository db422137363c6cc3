"""Where in the net the filters that are left lie."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis.report import style
from analysis.report.figures.plot import COLUMNS, drawn, figure, new_canvas
from analysis.runs.frames import Frames
from analysis.settings import settings_of


@figure(
    "Layer-wise density",
    "Percentage of each conv layer's filters that is left after the last cut, convs in the order of the net: mean over "
    "seeds (95 % intervals: tables/densities.csv).",
)
def densities(frames: Frames) -> Figure | None:
    """Filters left per measure and conv, after the last cut."""
    table = layer_densities(frames)
    if table.empty:
        return None
    panels, measures = settings_of(drawn(frames)), style.in_order(set(table["measure"]))
    canvas, blocks = new_canvas(panels, 1, height=0.75 + 0.22 * len(measures), sharey=True)
    for panel, (ax,) in zip(panels, blocks, strict=True):
        means = table[table["setting"] == panel].pivot_table(
            index="measure", columns="layer", values="density"
        )
        image = _heat(ax, means.reindex(measures).to_numpy())
        ax.set_xlabel("conv layer, input to output")
    for (ax,) in blocks[::COLUMNS]:
        ax.set_yticks(range(len(measures)), [style.name(measure) for measure in measures])
    bar = canvas.colorbar(image, ax=[ax for (ax,) in blocks], shrink=0.9, aspect=12, pad=0.02)
    bar.set_label("filters left (%)")
    bar.outline.set_visible(False)
    return canvas


def layer_densities(frames: Frames) -> pd.DataFrame:
    """A row per drawn run and conv: `run_id`, `group`, `setting`, `measure`, `seed`, `layer`,
    `conv`, `density` (%)."""
    names = ["run_id", "group", "setting", "measure", "seed"]
    rows = frames.kept.merge(drawn(frames)[[*names, "rounds"]], on="run_id")
    rows = rows[rows["round"] == rows["rounds"]]  # a run that collapsed before has none
    rows["density"] = 100 * rows["kept"] / rows["original"]
    return rows[[*names, "layer", "conv", "density"]]


def _heat(ax: Axes, percent: np.ndarray) -> AxesImage:
    """A cell per measure and layer, with its number where there is room."""
    image = ax.imshow(percent, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    layers = percent.shape[1]
    step = max(1, -(-layers // (12 if layers <= 12 else 8)))
    ax.set_xticks(range(0, layers, step), [str(layer + 1) for layer in range(0, layers, step)])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if layers <= 12:
        for (row, layer), value in np.ndenumerate(percent):
            if np.isfinite(value):
                ink = "white" if value < 55 else "black"
                ax.text(
                    layer, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=ink
                )
    return image
