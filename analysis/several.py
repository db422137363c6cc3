"""Several sources of runs, or several measures of one source, at once: each against the last one,
paired run by run as `compare` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.compare import EVERYWHERE, Comparison, Row, compare_frames
from analysis.outcomes import outcomes
from analysis.quantities import SUMMARISED
from analysis.report import style
from analysis.report.figures.plot import save
from analysis.report.page import ESCAPED, make_folders, write_page
from analysis.report.text import difference_text
from analysis.runs.frames import Frames
from analysis.runs.load import load
from analysis.settings import named
from analysis.stats import bounded_interval
from benchmark.errors import UserError, require
from benchmark.files import write_json
from benchmark.registry import resolve


@dataclass(frozen=True)
class Several:
    """Three or more sources, or two or more measures, each against the last."""

    names: tuple[str, ...]
    """Of the sources, or the measures; the others are compared with the last one."""
    kind: str
    """`source` or `measure`."""
    comparisons: dict[str, Comparison]
    """By the name of what is compared with the last one."""
    values: pd.DataFrame
    """What is drawn: `name`, `measure`, `seed` and the keys of `SUMMARISED`, means over the
    settings that all of them have with that seed."""

    @property
    def base(self) -> str:
        """What the others are compared with."""
        return self.names[-1]

    def to_dict(self) -> dict:
        """The content of compare.json."""
        return {
            self.kind + "s": list(self.names),
            "difference": f"minus {self.base}",
            "comparisons": {name: item.to_dict() for name, item in self.comparisons.items()},
        }

    def rows(self) -> list[tuple[str, Row]]:
        """The rows of all comparisons, each with what it is of, setting by setting."""
        found = [(name, row) for name, item in self.comparisons.items() for row in item.rows]
        settings = list(dict.fromkeys(row.setting for _, row in found))
        settings.sort(key=EVERYWHERE.__ne__)
        return sorted(found, key=lambda pair: settings.index(pair[1].setting))

    def table(self) -> pd.DataFrame:
        """The rows as a flat table: `compared`, `with`, and the columns of `Row.flat`."""
        rows = [{"compared": name, "with": self.base} | row.flat() for name, row in self.rows()]
        return pd.DataFrame(rows)


def compare_several(sources: Sequence[str], measures: Sequence[str] = ()) -> Several:
    """Compare three or more sources (of `measures`, or of all that they have), or two or more
    measures of one source, each with the last.

    Raises `UserError` for other numbers of them, one given twice, a source that cannot be loaded,
    and two that have no pair of finished runs.
    """
    measures = [resolve("measures", measure) for measure in measures]
    for field, names in (("sources", sources), ("measures", measures)):
        for name in names:
            require(list(names).count(name) == 1, field, name, "given once")
    if len(sources) == 1:
        if len(measures) < 2:
            raise UserError("compare needs two sources, or one and two or more --measures")
        frames = load(sources[0])
        *others, last = measures
        found = {name: compare_frames(frames, frames, {name: last}) for name in others}
        return Several(tuple(measures), "measure", found, _by_measure(frames, measures))
    loaded = {source: load(source) for source in sources}
    *others, last = sources
    same = {measure: measure for measure in measures}
    found = {name: compare_frames(loaded[name], loaded[last], same) for name in others}
    return Several(tuple(sources), "source", found, _by_source(loaded, measures))


def _by_measure(frames: Frames, measures: Sequence[str]) -> pd.DataFrame:
    table = outcomes(frames).reset_index()
    table = table[table["measure"].isin(measures)]
    return _common(table.assign(name=table["measure"]), ["task", "seed"])


def _by_source(loaded: dict[str, Frames], measures: Sequence[str]) -> pd.DataFrame:
    """Tasks are named over all sources together."""
    runs = [frames.runs.assign(name=name) for name, frames in loaded.items()]
    first = next(iter(loaded.values()))
    tasks = named(replace(first, runs=pd.concat(runs, ignore_index=True))).runs
    tasks = tasks.set_index(["name", "run_id"])["task"]
    tables = [
        outcomes(frames).assign(name=name, task=tasks.loc[name]).reset_index()
        for name, frames in loaded.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    if measures:
        table = table[table["measure"].isin(measures)]
    return _common(table, ["task", "measure", "seed"])


def _common(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means over the settings, of the runs that every name has."""
    whole = table.groupby(keys)["name"].transform("nunique") == table["name"].nunique()
    columns = [item.key for item in SUMMARISED]
    means = table[whole].groupby(["name", "measure", "seed"], sort=False)[columns].mean()
    return means.reset_index()


def plot(several: Several) -> Figure | None:
    """A panel per quantity: seeds as dots, their mean and its 95 % interval; None if no run is in
    all of them."""
    values = several.values
    if values.empty:
        return None
    measures = style.in_order(set(values["measure"]))
    look = style.looks(measures)
    with matplotlib.rc_context(style.RC):
        height = 0.8 + 0.28 * len(several.names)
        canvas = Figure(figsize=(style.FULL_WIDTH, 2 * height), layout="constrained")
        for ax, item in zip(canvas.subplots(2, 2, sharey=True).flat, SUMMARISED, strict=True):
            shown = values.assign(value=values[item.key] * item.scale)
            own = {"x": "value", "y": "name", "order": several.names, "hue": "measure", "ax": ax}
            own |= {"hue_order": measures, "palette": look["palette"], "legend": False}
            seaborn.stripplot(shown, jitter=False, size=2.6, alpha=0.55, **own)
            seaborn.pointplot(
                shown, linestyle="none", markers=look["markers"], markersize=6,
                dodge=0.4 * (several.kind == "source" and len(measures) > 1),
                errorbar=lambda sample, item=item: bounded_interval(sample, *item.bounds),
                err_kws={"linewidth": 1.4}, **own,
            )  # fmt: skip
            ax.set(xlabel=item.axis, ylabel="")
    return canvas


def write(several: Several, out: Path) -> Path:
    """Write compare.html, compare.json, compare.csv and the figure (PNG, SVG) into the folder
    `out`; returns the page."""
    make_folders(out)
    write_json(out / "compare.json", several.to_dict())
    several.table().to_csv(out / "compare.csv", index=False, errors=ESCAPED)
    canvas = plot(several)
    picture = None if canvas is None else save(canvas, out / "compare")
    content = {"several": several, "quantities": SUMMARISED, "picture": picture}
    return write_page(out / "compare.html", "several.html", **content)


def show(several: Several) -> None:
    """Print the differences over all settings."""
    console = Console()
    console.print(f"Each minus {several.base}: mean over seeds [95 % interval]", markup=False)
    names = ["source"] * (several.kind == "source")
    table = Table(*names, "measure", "pairs", *(item.label for item in SUMMARISED))
    for column in table.columns[:-5]:
        column.overflow = "fold"
    settings = {row.setting for _, row in several.rows()}
    for name, row in several.rows():
        if row.setting == EVERYWHERE or EVERYWHERE not in settings:
            cells = (difference_text(item) for item in row.differences.values())
            shown = [name] * len(names) + [row.measure, str(row.pairs)]
            table.add_row(*map(escape, (*shown, *cells)))
    console.print(table)
