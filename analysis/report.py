"""The report: a folder with a self-contained page, its figures as files, its tables as CSV, and claims.json."""

from __future__ import annotations

import base64
import platform
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import stats, tables
from analysis.claims import Judgement, Number, judge_all
from analysis.figures import FIGURES, Plot, save
from analysis.frame import Completeness, completeness, named
from analysis.sources import UNFINISHED, Frames, load
from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.record import write_json

MANY_RUNS = 300
"""From so many runs on, figures are drawn by one process per core."""
LIBRARIES = ("numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class Report:
    """What was written."""

    index: Path
    judgements: list[Judgement]
    completeness: Completeness


@dataclass(frozen=True)
class Drawing:
    """A figure on the page."""

    anchor: str
    title: str
    caption: str
    image: str
    """As a data URI."""


def build(source: str, out: Path, grid: Sequence[RunConfig] | None = None) -> Report:
    """Write the report of a source into the folder `out`; with a grid, of the grid's runs alone.

    Raises `UserError` if the source has no finished run (of the grid), or `out` cannot be a folder.
    """
    frames = load(source)
    whole = completeness(frames, grid)
    if grid is not None:
        frames = frames.only(config.run_id for config in grid)
        if frames.finished().empty:
            raise UserError(f"runs folder {source} has no finished run of the grid")
    frames = named(frames)
    _make_folders(out)
    judgements = judge_all(frames)
    facts = provenance(frames)
    write_json(out / "claims.json", {"claims": [item.to_dict() for item in judgements], "provenance": facts})
    summary = tables.summary(frames)
    files = {
        "summary": summary,
        "runs": tables.runs(frames),
        "cuts": frames.cuts,
        "densities": tables.densities(frames),
        "missing": whole.missing,
        "verdicts": tables.verdicts(judgements),
    }
    for name, table in files.items():
        table.to_csv(out / "tables" / f"{name}.csv", index=False)
    page = _template().render(
        judgements=judgements,
        drawings=_draw(frames, out / "figures"),
        summary=[group for _, group in summary.groupby("group", sort=False)],
        quantities=tables.QUANTITIES,
        completeness=whole,
        provenance=facts,
        files=sorted(files),
        figures=FIGURES,
    )
    index = out / "index.html"
    index.write_text(page, encoding="utf-8")
    return Report(index, judgements, whole)


def provenance(frames: Frames) -> dict:
    """Where the numbers come from."""
    finished = frames.finished()
    return {
        "source": frames.source,
        "runs": len(finished),
        "unfinished": int((frames.runs["outcome"] == UNFINISHED).sum()),
        "diverged or collapsed": int((finished["outcome"] != "finished").sum()),
        "run ids (digest)": frames.digest(),
        "trained with": sorted(set(finished["versions"]) - {""}),
        "trained on": sorted(set(finished["device"]) - {""}),
        "hours of training": round(float(finished["seconds"].sum()) / 3600, 3),
        "analysed with": [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in LIBRARIES)],
        "intervals": f"{stats.LEVEL:.0%}, bootstrap of seeds within settings, {stats.RESAMPLES} resamples, widened for "
        "few seeds; each claim at its own level, and beside it corrected for the number of claims (Holm)",
    }


def _make_folders(out: Path) -> None:
    try:
        for folder in (out, out / "figures", out / "tables"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"report folder {out} cannot be made ({error.strerror})") from None


def _draw(frames: Frames, folder: Path) -> dict[str, list[Drawing]]:
    """All figures of each group (architecture and data set), also written as PNG and SVG."""
    groups = {group: frames.only(runs["run_id"]) for group, runs in frames.runs.groupby("group", sort=False)}
    if len(groups) == 1 or len(frames.runs) < MANY_RUNS:
        drawn = [_draw_group(part, group, folder) for group, part in groups.items()]
    else:
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            drawn = list(pool.map(_draw_group, groups.values(), groups, repeat(folder)))
    return dict(zip(groups, drawn, strict=True))


def _draw_group(frames: Frames, group: str, folder: Path) -> list[Drawing]:
    drawn = ((plot, plot.draw(frames)) for plot in FIGURES.values())
    return [_save(plot, canvas, frames, group, folder) for plot, canvas in drawn if canvas is not None]


def _save(plot: Plot, canvas: Figure, frames: Frames, group: str, folder: Path) -> Drawing:
    anchor = f"{plot.name}-{file_name(group)}"
    image = "data:image/png;base64," + base64.b64encode(save(canvas, folder / anchor)).decode()
    return Drawing(anchor, plot.title, plot.caption_for(frames), image)


def file_name(group: str) -> str:
    """A group's name as part of a file name, such as `vgg13-digits`."""
    text = group.replace(" on ", "-")
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text)


def number_text(number: Number) -> str:
    """A difference and its interval as people read them, accuracies in percentage points."""
    if number.effect is None:
        return "no data"
    scale, unit = (100, "pp") if number.unit == "accuracy" else (1, number.unit)
    if number.interval is None:
        return f"{signed(number.effect * scale)} {unit} (no interval)"
    low, high = (signed(bound * scale) for bound in number.interval)
    return f"{signed(number.effect * scale)} {unit} [{low}, {high}]"


def signed(value: float) -> str:
    """Three significant digits with a sign."""
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def mean_text(row: pd.Series, name: str) -> str:
    """A mean and its interval in a table of means, accuracies in percent."""
    scale = 100 if name == "final_accuracy" else 1
    mean, low, high = (row[key] * scale for key in (name, f"{name}_low", f"{name}_high"))
    if np.isnan(mean):
        return "\N{EN DASH}"
    if name == "final_accuracy":
        low, high = np.clip((low, high), 0, 100)
    bounds = "" if np.isnan(low) else f" [{low:.3g}, {high:.3g}]"
    return f"{mean:.3g}{bounds}".replace("-", "\N{MINUS SIGN}")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=number_text, signed=signed, file_name=file_name)
    environment.globals.update(mean_text=mean_text)
    return environment.get_template("report.html")
