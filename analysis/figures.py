"""Figures: one function each, from the named frames of one architecture and data set to a matplotlib Figure.

A panel is a setting (when and how the cut is made). Lines and markers are means over seeds, bands and bars their 95 %
intervals (`stats.mean_interval`); with one seed there is none. Runs with an ablation are in no figure.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogFormatterSciNotation, MaxNLocator, NullLocator
from PIL import Image

from analysis import style
from analysis.frame import DENSE, outcomes
from analysis.sources import UNFINISHED, Frames
from analysis.stats import mean_interval

matplotlib.use("Agg")

COLUMNS = 3
"""Panels beside each other."""
PANEL_HEIGHT = 1.75
BAND = "95 % bootstrap intervals over seeds (widened for few seeds)"
SHARED = "Before the cut all runs share the dense control's training, which the dashed black line shows"
CURVE_RESAMPLES = 999


@dataclass(frozen=True)
class Plot:
    """A figure, before any data."""

    name: str
    title: str
    caption: str
    draw: Callable[[Frames], Figure | None]
    """None where the frames hold nothing to draw."""

    def caption_for(self, frames: Frames) -> str:
        """The caption, with the number of runs behind what is drawn."""
        return f"{self.caption} {sample_size(frames)}"


FIGURES: dict[str, Plot] = {}


def figure(title: str, caption: str) -> Callable[[Callable[[Frames], Figure | None]], Plot]:
    """Declare a figure: its title and caption stand beside the code that draws it."""

    def declare(function: Callable[[Frames], Figure | None]) -> Plot:
        def draw(frames: Frames) -> Figure | None:
            with matplotlib.rc_context(style.RC):
                return function(frames)

        FIGURES[function.__name__] = Plot(function.__name__, title, caption, draw)
        return FIGURES[function.__name__]

    return declare


@figure(
    "Convergence",
    "Training loss (cross-entropy of logits / T, log scale) and test accuracy by epoch. Lines are means over seeds "
    f"(geometric on log scales), bands {BAND}; dotted vertical lines mark cuts. {SHARED}. A curve ends where one of "
    "its runs diverged.",
)
def convergence(frames: Frames) -> Figure | None:
    """Training loss and test accuracy by epoch and measure."""
    rows = [
        _Curve("train/loss", "training loss (nats)", log=True),
        _Curve("test/accuracy", "test accuracy (%)", 100, top=100),
    ]
    return _curves(frames, rows)


@figure(
    "Gradient-flow trajectories",
    "Gradient norm |g| and speed of the squared parameter norm, |d|θ|²/dt| = 2|θ·g|, on the probe set by epoch "
    f"(log scales). Lines are geometric means over seeds, bands {BAND}; dotted vertical lines mark cuts. {SHARED}. A "
    "value at the epoch of a cut was taken before the cut.",
)
def gradient_flow(frames: Frames) -> Figure | None:
    """|g| and 2 |theta.g| by epoch and measure."""
    history = frames.history.assign(speed=2 * frames.history["flow/theta_g"].abs())
    frames = Frames(frames.source, frames.runs, history, frames.cuts, frames.kept)
    return _curves(
        frames, [_Curve("flow/grad_norm", "|g| (nats)", log=True), _Curve("speed", "2|θ·g| (nats)", log=True)]
    )


@figure(
    "Predicted and actual change at the cut",
    "Change of the probe loss and of |g|² when filters are removed: first-order prediction (-θ_p·g_p and "
    "-2 θ_p·(Hg)_p, θ_p the removed parameters) against what the cut did. On the diagonal the prediction is exact. One "
    "marker per run and cut; axes are linear inside the shaded band around 0 and logarithmic outside, and differ "
    "between panels.",
)
def cut_changes(frames: Frames) -> Figure | None:
    """Loss and |g|^2 at the cut, predicted against actual, a marker per run and cut."""
    runs = _drawn(frames)
    cuts = frames.cuts.merge(runs[["run_id", "panel", "measure"]], on="run_id")
    cuts = cuts[cuts["measure"] != DENSE]
    if cuts.empty:
        return None
    panels, measures = _panels(runs), style.in_order(set(cuts["measure"]))
    kinds = {"loss_change": "change of loss (nats)", "grad_norm_sq_change": "change of |g|² (nats²)"}
    canvas, blocks = _canvas(panels, len(kinds), height=2.2, sharey=False)
    for row, (key, label) in enumerate(kinds.items()):
        for panel, axes in zip(panels, blocks, strict=True):
            ax, here = axes[row], cuts[cuts["panel"] == panel]
            _signed_scale(here[[f"predicted.{key}", f"actual.{key}"]].to_numpy()).apply(ax)
            for measure in measures:
                points, look = here[here["measure"] == measure], style.look(measure)
                ax.plot(
                    points[f"predicted.{key}"], points[f"actual.{key}"], look.marker, color=look.color,
                    markersize=5, alpha=0.85, markeredgecolor="white", markeredgewidth=0.4,
                )  # fmt: skip
            ax.set_xlabel(f"predicted {label}")
    for axes in blocks[::COLUMNS]:
        for ax, label in zip(axes, kinds.values(), strict=True):
            ax.set_ylabel(f"actual {label}")
    _legend(canvas, measures, line=False)
    return canvas


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
    panels, measures = _panels(_drawn(frames)), style.in_order(set(table["measure"]))
    canvas, blocks = _canvas(panels, 1, height=0.75 + 0.22 * len(measures), sharey=True)
    for panel, (ax,) in zip(panels, blocks, strict=True):
        means = table[table["panel"] == panel].pivot_table(index="measure", columns="layer", values="density")
        image = _heat(ax, means.reindex(measures).to_numpy())
        ax.set(xlabel="conv layer, input to output", yticks=range(len(measures)))
        ax.set_yticklabels([style.name(measure) for measure in measures])
    bar = canvas.colorbar(image, ax=[ax for (ax,) in blocks], shrink=0.9, aspect=12, pad=0.02)
    bar.set_label("filters left (%)")
    bar.outline.set_visible(False)
    return canvas


def layer_densities(frames: Frames) -> pd.DataFrame:
    """A row per drawn run and conv: `run_id`, `group`, `panel`, `measure`, `seed`, `layer`, `conv`, `density` (%)."""
    last = frames.kept[frames.kept["round"] == frames.kept.groupby("run_id")["round"].transform("max")]
    names = ["run_id", "group", "panel", "measure", "seed"]
    rows = last.merge(_drawn(frames)[names], on="run_id")
    rows["density"] = 100 * rows["kept"] / rows["original"]
    return rows[[*names, "layer", "conv", "density"]]


@figure(
    "Final test accuracy",
    "Test accuracy after the last epoch. Small dots are runs, markers means over seeds, bars their "
    "95 % bootstrap intervals (widened for few seeds); the dashed line is the dense control's mean and the grey band "
    "its interval.",
)
def final_accuracy(frames: Frames) -> Figure | None:
    """Final test accuracy by measure, the dense control as reference."""
    return _dots(frames, "final_accuracy", "test accuracy (%)", scale=100, bounds=(0, 100))


@figure(
    "Training loss after the cut",
    "Training loss (cross-entropy of logits / T), averaged over the epochs after the last cut: the statistic of C1. "
    "Small dots are runs, markers means over seeds, bars their 95 % bootstrap intervals (widened for few seeds).",
)
def loss_after_cut(frames: Frames) -> Figure | None:
    """Mean training loss after the last cut by measure."""
    return _dots(frames, "loss_after_cut", "mean training loss (nats)", bounds=(0, np.inf))


@figure(
    "Gradient norm across the cut",
    "Change of log10 |g| on the probe set at a cut (mean over the cuts of a run): 1 means ten times the gradient norm, "
    "0 that it is preserved. Small dots are runs, markers means over seeds, bars their 95 % bootstrap intervals "
    "(widened for few seeds).",
)
def gradient_change(frames: Frames) -> Figure | None:
    """Change of log10 |g| at the cut by measure."""
    return _dots(frames, "grad_norm_change", "change of log10 |g| (decades)")


def save(canvas: Figure, stem: Path) -> bytes:
    """Write `<stem>.png` (256 colours, a third of the size) and `<stem>.svg`, reproducibly; returns the PNG."""
    drawn, image = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(style.RC):
        canvas.get_layout_engine().execute(canvas)
        canvas.set_layout_engine(None)  # the layout is made: writing two files must not repeat it
        canvas.savefig(stem.with_name(f"{stem.name}.svg"), metadata={"Date": None})
        canvas.savefig(drawn, format="png", pil_kwargs={"compress_level": 1})
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(image, format="png", optimize=True)
    stem.with_name(f"{stem.name}.png").write_bytes(image.getvalue())
    return image.getvalue()


def sample_size(frames: Frames) -> str:
    """How many seeds stand behind each mean, in words."""
    runs = _drawn(frames)
    seeds = runs[runs["measure"] != DENSE].groupby(["panel", "measure"]).size()
    if seeds.empty:
        return "No pruned run."
    span = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    text = f"n = {span} {'seed' if span == '1' else 'seeds'} per measure and panel ({len(runs)} runs)."
    return text if seeds.max() > 1 else f"{text} One seed gives no interval."


@dataclass(frozen=True)
class _Curve:
    key: str
    label: str
    scale: float = 1
    top: float = np.inf
    log: bool = False


def _drawn(frames: Frames) -> pd.DataFrame:
    """The finished runs without an ablation."""
    runs = frames.runs
    return runs[(runs["outcome"] != UNFINISHED) & (runs["ablation"] == "none")]


def _panels(runs: pd.DataFrame) -> list[str]:
    """The settings that runs are in, in the order of the runs."""
    return [panel for panel in runs["panel"].unique() if panel]


def _curves(frames: Frames, rows: list[_Curve]) -> Figure | None:
    """A row of panels per quantity, a line per measure."""
    runs = _drawn(frames)
    panels = _panels(runs) or [""]
    measures = style.in_order(set(runs["measure"]))
    tables = {row.key: frames.history.pivot(index="run_id", columns="epoch", values=row.key) for row in rows}
    if runs.empty or all(table.isna().to_numpy().all() for table in tables.values()):
        return None
    cut_epochs = frames.cuts.merge(runs[["run_id", "panel"]], on="run_id").groupby("panel")["epoch"].unique()
    starts = {(panel, measure): _start(runs, panel, measure) for panel in panels for measure in measures}
    canvas, blocks = _canvas(panels, len(rows), height=PANEL_HEIGHT, sharex=True)
    for index, row in enumerate(rows):
        limits = []
        for panel, axes in zip(panels, blocks, strict=True):
            ax = axes[index]
            for measure, ids in _members(runs, panel, measures):
                values = tables[row.key].loc[ids] * row.scale
                values = values.where(values > 0) if row.log else values
                values = values.loc[:, values.notna().all() & (values.columns >= starts[panel, measure])]
                limits.append(_line(ax, values, style.look(measure), row))
            _mark_cuts(ax, cut_epochs.get(panel, []))
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _share_limits([axes[index] for axes in blocks], limits, log=row.log)
    for number, axes in enumerate(blocks):
        axes[-1].set_xlabel("epoch")
        for ax, row in zip(axes, rows, strict=True):
            if number % COLUMNS == 0:
                ax.set_ylabel(row.label)
    _legend(canvas, measures)
    return canvas


def _members(runs: pd.DataFrame, panel: str, measures: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The runs of each measure in a panel; the dense control's are those that its pruned runs would have been."""
    here = runs[runs["panel"] == panel]
    for measure in measures:
        rows = runs[runs["run_id"].isin(here["dense_id"])] if measure == DENSE else here[here["measure"] == measure]
        if len(rows):
            yield measure, rows["run_id"].tolist()


def _start(runs: pd.DataFrame, panel: str, measure: str) -> float:
    """The epoch from which a measure has a curve of its own: its cut, if the dense control shows what is before."""
    here = runs[runs["panel"] == panel]
    has_dense = here["dense_id"].isin(runs["run_id"]).all()
    return here["first_cut"].min() if measure != DENSE and has_dense else 0


def _line(ax: Axes, values: pd.DataFrame, look: style.Look, row: _Curve) -> tuple[float, float]:
    """Mean and band of values [seeds, epochs], on log scales of their logarithm; returns the range of the mean."""
    if values.empty:
        return np.nan, np.nan
    x, numbers = values.columns, np.log10(values.to_numpy()) if row.log else values.to_numpy()
    mean = numbers.mean(axis=0)
    band = mean_interval([numbers], np.random.default_rng(0), resamples=CURVE_RESAMPLES)
    if band is not None:
        low, high = np.power(10, band) if row.log else np.clip(band, 0, row.top)
        ax.fill_between(x, low, high, color=look.color, alpha=0.1, linewidth=0)
    mean = np.power(10, mean) if row.log else mean
    ax.plot(x, mean, markevery=max(1, len(x) // 8), **look.curve())
    return mean.min(), mean.max()


def _heat(ax: Axes, percent: np.ndarray) -> AxesImage:
    """A cell per measure and layer, with its number where there is room."""
    image = ax.imshow(percent, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    layers = percent.shape[1]
    step = max(1, -(-layers // 12))
    ax.set_xticks(range(0, layers, step), [str(layer + 1) for layer in range(0, layers, step)])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if layers <= 12:
        for (row, layer), value in np.ndenumerate(percent):
            if np.isfinite(value):
                ink = "white" if value < 55 else "black"
                ax.text(layer, row, f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
    return image


def _share_limits(axes: list[Axes], limits: list[tuple[float, float]], *, log: bool) -> None:
    """The same y range in all panels, from the means: a wide band of one measure must not flatten the others."""
    numbers = np.array(limits)
    if not np.isfinite(numbers).any():
        return
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    for ax in axes:
        if log:
            ax.set_yscale("log")
            ax.set_ylim(low / 1.4, high * 1.4)
            if high / low < 50:
                ax.yaxis.set_major_locator(FixedLocator(_round_ticks(low / 1.4, high * 1.4)))
                ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_locator(NullLocator())
        else:
            margin = 0.06 * (high - low or 1)
            ax.set_ylim(low - margin, high + margin)


def _round_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in a range."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]


def _mark_cuts(ax: Axes, epochs: np.ndarray | list) -> None:
    """Dotted lines at the cuts; of more than two, at the first and the last, with a tint between."""
    if len(epochs) > 2:
        ax.axvspan(min(epochs), max(epochs), color="#000000", alpha=0.05, linewidth=0)
        epochs = [min(epochs), max(epochs)]
    for epoch in epochs:
        ax.axvline(epoch, color="#555555", linestyle=":", linewidth=0.9, zorder=1)


def _dots(
    frames: Frames, key: str, label: str, *, scale: float = 1, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Figure | None:
    """A row per measure: runs, mean and interval (inside `bounds`) of a number of `frame.outcomes`."""
    table = outcomes(frames)
    table = table[table["ablation"] == "none"].assign(value=lambda rows: rows[key] * scale)
    pruned = table[(table["measure"] != DENSE) & table["value"].notna()]
    if pruned.empty:
        return None
    panels = _panels(table)
    measures = style.in_order(set(table["measure"]) - {DENSE})
    canvas, blocks = _canvas(panels, 1, height=0.75 + 0.22 * len(measures), sharex=True, sharey=True)
    for panel, (ax,) in zip(panels, blocks, strict=True):
        here = pruned[pruned["panel"] == panel]
        for place, measure in enumerate(measures):
            _dot(ax, here["value"][here["measure"] == measure].to_numpy(), place, style.look(measure), bounds)
        _reference(ax, table["value"][table.index.isin(here["dense_id"])].dropna().to_numpy(), bounds)
        if bounds[0] < 0:
            ax.axvline(0, color="#555555", linewidth=0.9, zorder=1)
        ax.set(xlabel=label, ylim=(len(measures) - 0.5, -0.5), yticks=range(len(measures)))
        ax.set_yticklabels([style.name(measure) for measure in measures])
        ax.grid(visible=False, axis="y")
        ax.xaxis.set_major_locator(MaxNLocator(6))
    return canvas


def _dot(ax: Axes, values: np.ndarray, place: int, look: style.Look, bounds: tuple[float, float]) -> None:
    if not len(values):
        return
    ax.plot(values, np.full(len(values), place + 0.22), ".", color=look.color, alpha=0.45, markersize=4, zorder=2)
    interval = mean_interval([values], np.random.default_rng(0))
    if interval is not None:
        ax.plot(
            np.clip(interval, *bounds), (place, place), color=look.color, linewidth=1.6, solid_capstyle="butt", zorder=3
        )
    ax.plot(values.mean(), place, look.marker, color=look.color, markersize=6, markeredgecolor="white",
            markeredgewidth=0.5, zorder=4)  # fmt: skip


def _reference(ax: Axes, values: np.ndarray, bounds: tuple[float, float]) -> None:
    if not len(values):
        return
    ax.axvline(values.mean(), color=style.look(DENSE).color, linestyle=style.look(DENSE).line, linewidth=1, zorder=1)
    interval = mean_interval([values], np.random.default_rng(0))
    if interval is not None:
        ax.axvspan(*np.clip(interval, *bounds), color="#000000", alpha=0.06, linewidth=0, zorder=0)


@dataclass(frozen=True)
class _SignedScale:
    """A scale that is linear up to `linear` and logarithmic beyond, on both sides of 0."""

    linear: float
    top: float
    ticks: list[float]

    def apply(self, ax: Axes) -> None:
        """Give both axes this scale, the band in which it is linear, and the diagonal."""
        for set_scale, axis in ((ax.set_xscale, ax.xaxis), (ax.set_yscale, ax.yaxis)):
            set_scale("symlog", linthresh=self.linear, linscale=0.8)
            axis.set_major_locator(FixedLocator(self.ticks))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(LogFormatterSciNotation(linthresh=self.linear))
        ax.set(xlim=(-self.top, self.top), ylim=(-self.top, self.top))
        ends = (-self.top, self.top)
        ax.plot(ends, ends, color="#999999", linewidth=0.8, zorder=1)
        for span in (ax.axvspan, ax.axhspan):
            span(-self.linear, self.linear, color="#000000", alpha=0.035, linewidth=0, zorder=0)


def _signed_scale(values: np.ndarray) -> _SignedScale:
    """A scale that shows at most four decades on each side, from the largest value down."""
    sizes = np.abs(values[np.isfinite(values)])
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return _SignedScale(1.0, 10.0, [-10.0, -1.0, 0.0, 1.0, 10.0])
    high = int(np.ceil(np.log10(sizes.max())))
    low = max(high - 4, min(int(np.floor(np.log10(np.quantile(sizes, 0.1)))), high - 1))
    decades = [10.0**power for power in range(high, low, -2)]
    return _SignedScale(10.0**low, 1.6 * 10.0**high, [*(-tick for tick in decades), 0.0, *reversed(decades)])


def _canvas(
    panels: list[str], rows: int, *, height: float, sharex: bool = False, sharey: bool = True
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one block of `rows` axes per panel, at most `COLUMNS` blocks beside each other."""
    columns = min(len(panels), COLUMNS)
    lines = -(-len(panels) // columns)
    width = style.FULL_WIDTH if columns > 1 else style.FULL_WIDTH * 0.56
    canvas = Figure(figsize=(width, lines * rows * height + 0.5), layout="constrained")
    grid = canvas.subplots(lines * rows, columns, squeeze=False, sharex=sharex, sharey="row" if sharey else False)
    blocks = []
    for number, panel in enumerate(panels):
        line, column = divmod(number, columns)
        block = [grid[line * rows + row, column] for row in range(rows)]
        block[-1].tick_params(labelbottom=True)
        block[0].set_title(textwrap.fill(panel, width=26 if columns == COLUMNS else 34))
        blocks.append(block)
    for number in range(len(panels), lines * columns):
        line, column = divmod(number, columns)
        for row in range(rows):
            grid[line * rows + row, column].set_axis_off()
    return canvas, blocks


def _legend(canvas: Figure, measures: list[str], *, line: bool = True) -> None:
    """One legend for all panels, above them."""
    handles = []
    for measure in measures:
        look = style.look(measure).curve() if line else style.look(measure).curve() | {"linestyle": ""}
        handles.append(Line2D([], [], label=style.name(measure), markersize=5, **look))
    wide = canvas.get_figwidth() > 5
    canvas.legend(
        handles=handles, loc="outside upper center", ncols=min(len(handles), 6 if wide else 3), handlelength=2.6
    )
