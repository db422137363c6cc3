"""What all figures share: their declaration, panels, legend, and how they are written."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from analysis.outcomes import lost_text, outcomes
from analysis.quantities import Quantity
from analysis.report import style
from analysis.runs.frames import Frames
from analysis.settings import DENSE

matplotlib.use("Agg")

COLUMNS = 3
"""Panels beside each other."""
PAGE_COLOURS = 80
"""Colours of a figure in the page."""
BAND = "95 % t intervals over seeds"


@dataclass(frozen=True)
class Plot:
    """A figure, before any data."""

    name: str
    title: str
    caption: str
    draw: Callable[[Frames], Figure | None]
    """None where the frames hold nothing to draw."""
    size: Callable[[Frames], str]
    """How many runs stand behind what is drawn, in words."""

    def caption_for(self, frames: Frames) -> str:
        """The caption, with the number of runs behind what is drawn."""
        return f"{self.caption} {self.size(frames)}"


FIGURES: dict[str, Plot] = {}


def sample_size(frames: Frames, shown: Iterable[str] | None = None) -> str:
    """How many seeds stand behind each mean, in words: of all pruned runs, or of those whose run_id
    is among these."""
    runs = frames.drawn()
    pruned = runs[runs["measure"] != DENSE]
    if shown is not None:
        pruned = pruned[pruned["run_id"].isin(shown)]
    if pruned.empty:
        return "No pruned run."
    seeds = pruned.groupby(["setting", "measure"], sort=False).size()
    lost = lost_text(runs["outcome"])
    return seeds_text(
        seeds, f"{len(runs)} runs{', of which ' * bool(lost)}{lost}", " per measure and panel"
    )


def size_of(quantity: Quantity) -> Callable[[Frames], str]:
    """`sample_size` of the runs that have a quantity of `outcomes.outcomes`."""
    return lambda frames: sample_size(frames, outcomes(frames)[quantity.key].dropna().index)


def seeds_text(seeds: pd.Series, runs: str, per: str = "") -> str:
    """Numbers of seeds in words: one text, and the panels with others.

    seeds: numbers behind means, by panel (the first level of the index); runs: how many there are.
    """
    panels = seeds.groupby(level=0, sort=False).agg(["min", "max"])
    spans = pd.Series(
        [f"{low}" if low == high else f"{low} to {high}" for low, high in panels.to_numpy()],
        panels.index,
    )
    most, *others = spans.value_counts(sort=False).sort_values(ascending=False, kind="stable").index
    text = f"n = {most} {'seed' if most == '1' else 'seeds'}{per}"
    for span in others:
        text += f", but {span} in " + ", ".join(f"“{name}”" for name in spans.index[spans == span])
    text += f" ({runs})."
    return text if seeds.max() > 1 else f"{text} One seed gives no interval."


def figure(
    title: str, caption: str, *, size: Callable[[Frames], str] = sample_size
) -> Callable[[Callable[[Frames], Figure | None]], Plot]:
    """Declare a figure: its title and caption stand beside the code that draws it."""

    def declare(function: Callable[[Frames], Figure | None]) -> Plot:
        def draw(frames: Frames) -> Figure | None:
            with matplotlib.rc_context(style.RC):
                return function(frames)

        plot = Plot(function.__name__, title, caption, draw, size)
        FIGURES[plot.name] = plot
        return plot

    return declare


def save(canvas: Figure, stem: Path) -> str:
    """Write `<stem>.png` (256 colours, a third of the size) and `<stem>.svg`, reproducibly; returns
    the picture for the page, as a data URI (lossless WebP of fewer colours, half the size of the
    PNG)."""
    picture = io.BytesIO()
    with matplotlib.rc_context(style.RC):
        canvas.get_layout_engine().execute(canvas)
        canvas.set_layout_engine(None)  # the layout is made: writing two files must not repeat it
        canvas.savefig(stem.with_name(f"{stem.name}.svg"), metadata={"Date": None})
        canvas.set_dpi(style.RC["savefig.dpi"])
        agg = FigureCanvasAgg(canvas)
        agg.draw()
    drawn = Image.fromarray(np.asarray(agg.buffer_rgba())).convert("RGB")
    file = drawn.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    file.save(stem.with_name(f"{stem.name}.png"))
    page = drawn.quantize(
        PAGE_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )  # which keeps the colours of thin lines
    page.convert("RGB").save(picture, format="webp", lossless=True, method=2)
    return "data:image/webp;base64," + base64.b64encode(picture.getvalue()).decode()


def new_canvas(
    panels: list[str], rows: int, *, height: float, sharex: bool = False, sharey: bool = True
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one block of `rows` axes per panel, at most `COLUMNS` blocks beside each
    other."""
    columns = min(len(panels), COLUMNS)
    lines = -(-len(panels) // columns)
    width = style.FULL_WIDTH if columns > 1 else style.FULL_WIDTH * 0.56
    canvas = Figure(figsize=(width, lines * rows * height + 0.5), layout="constrained")
    shape = {"nrows": lines * rows, "ncols": columns, "squeeze": False}
    grid = canvas.subplots(**shape, sharex=sharex, sharey="row" if sharey else False)
    blocks = grid.reshape(lines, rows, columns).swapaxes(1, 2).reshape(-1, rows).tolist()
    for panel, block in zip(panels, blocks, strict=False):
        title = textwrap.fill(_unbroken(panel), width=26 if columns == COLUMNS else 34)
        block[0].set_title(title)
        block[-1].tick_params(labelbottom=True)
    for block in blocks[len(panels) :]:
        for ax in block:
            ax.set_axis_off()
    return canvas, blocks[: len(panels)]


def _unbroken(panel: str) -> str:
    """A panel's name that can be broken within its timing, but not between a field and its
    value."""
    timing, *fields = panel.split(", ")
    return ", ".join([timing, *(text.replace(" ", "\N{NO-BREAK SPACE}") for text in fields)])


def add_colorbar(canvas: Figure, drawn: ScalarMappable, axes: list[Axes], label: str) -> None:
    """A colour bar beside these axes."""
    bar = canvas.colorbar(drawn, ax=axes, shrink=0.9, aspect=12, pad=0.02, label=label)
    bar.outline.set_visible(False)


def legend(canvas: Figure, measures: list[str], *, line: bool = True) -> None:
    """One legend for all panels, above them."""
    handles = []
    for measure in measures:
        look = style.look(measure).curve()
        if not line and look["marker"]:
            look |= {"linestyle": ""}
        elif not line:
            look |= {"linestyle": "", "marker": "x", "markeredgecolor": look["color"]}
            look |= {"markeredgewidth": style.CROSS["linewidth"]}
        handles.append(Line2D([], [], label=style.name(measure), markersize=5, **look))
    fitting = 3 if canvas.get_figwidth() <= 5 else 6 if len(handles) <= 6 else 5
    canvas.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), fitting),
        handlelength=2.6,
    )
