"""The data of the page's explorer: means and bands by epoch, compact enough for a thousand runs.

A *curve* is a line of `report.lines`, the mean of its runs and the 95 % band by epoch, for each
quantity. Numbers are whole multiples of a step that no reader can see (of the logarithm, for
quantities on a log scale), written as differences from one epoch to the next, and compressed per
group; `explorer.js` undoes this.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.markers import MarkerStyle

from analysis.outcomes import lost_text
from analysis.quantities import CONVERGENCE, GRADIENT_NORM, NORM, SECOND_ORDER, SPEED, Quantity
from analysis.report import style
from analysis.report.lines import Line, cut_epochs, lines
from analysis.runs.frames import Frames
from analysis.settings import DENSE, settings_of
from analysis.stats import mean_interval

QUANTITIES = (*CONVERGENCE, GRADIENT_NORM, SPEED, SECOND_ORDER, NORM)
"""What the reader can choose."""
LOG_STEP = 1e-3
"""A step of log10: half of it is 0.12 % of a value."""
LINEAR_STEPS = 10_000
"""Steps over the range of a quantity on a linear scale."""
BAND_STEPS = 4
"""Bands are less certain than means, so they are rounded to this many steps."""


def explorer_data(frames: Frames) -> dict:
    """What the page embeds: `measures` (looks, in order), `quantities`, `band`, and `groups` with
    compressed curves.

    frames: named. Runs with an ablation are left out, and so are groups without a single value.
    """
    runs = frames.drawn()
    measures = style.in_order({*runs["measure"], DENSE})
    outcomes = runs.set_index("run_id")["outcome"]
    cuts, groups = cut_epochs(runs, frames.cuts), []
    for name, part in runs.groupby("group", sort=False):
        kept: dict[Line, int] = {}
        settings = []
        for setting in settings_of(part):
            shown = [
                [
                    measures.index(line.measure),
                    kept.setdefault(line, len(kept)),
                    len(line.run_ids),
                    lost_text(outcomes[list(line.run_ids)]),
                ]
                for line in lines(part, setting)
            ]
            settings.append({"name": setting, "cuts": cuts.get(setting, []), "lines": shown})
        history = frames.history[frames.history["run_id"].isin(part["run_id"])]
        steps, columns = zip(*(_curves(history, item, kept) for item in QUANTITIES), strict=True)
        if any(curve for curves in columns for curve in curves):
            packed = compressed(list(zip(*columns, strict=True)))
            groups.append({"name": name, "settings": settings, "steps": steps, "curves": packed})
    return {
        "measures": [_look(measure) for measure in measures],
        "quantities": [
            {"label": item.label, "unit": item.shown_unit, "log": item.log} for item in QUANTITIES
        ],
        "band": BAND_STEPS,
        "groups": groups,
    }


def _curves(
    history: pd.DataFrame, item: Quantity, kept: Iterable[Line]
) -> tuple[float, list[list[list[int]] | None]]:
    """What one unit of the packed numbers of a quantity is worth, and for each line the epochs, the
    mean, and the band below and above it; None without a value.

    Epochs and means are steps from point to point, the band is in units of `BAND_STEPS` steps and
    missing with one seed. Only epochs at which every run has a value count: a curve ends where one
    of its runs diverged.
    """
    table = history.pivot(index="run_id", columns="epoch", values=item.key)
    numbers, epochs = pd.DataFrame(item.averaged(table.to_numpy()), table.index), table.columns
    finite = numbers.to_numpy()[np.isfinite(numbers)]
    span = np.ptp(finite) if len(finite) else 0.0
    step = LOG_STEP if item.log else float(f"{max(span, 1e-9) / LINEAR_STEPS:.1g}")
    curves: list[list[list[int]] | None] = []
    for line in kept:
        values = numbers.loc[list(line.run_ids)].to_numpy()
        whole = np.isfinite(values).all(axis=0) & (line.first <= epochs) & (epochs <= line.last)
        mean = values[:, whole].mean(axis=0)
        bounds = (np.clip(bound, *item.bounds) for bound in mean_interval(values[:, whole]) or ())
        curve = [np.diff(steps, prepend=0) for steps in (epochs[whole], _rounded(mean / step))]
        curve += [_rounded(np.abs(bound - mean) / (BAND_STEPS * step)) for bound in bounds]
        curves.append([part.tolist() for part in curve] if whole.any() else None)
    return step, curves


def _rounded(numbers: np.ndarray) -> np.ndarray:
    return np.rint(numbers).astype(int)


def compressed(content: object) -> str:
    """JSON, gzipped (reproducibly) and in base64."""
    text = json.dumps(content, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _look(measure: str) -> dict:
    """How a measure is drawn: its colour, markers as polygons [x, y] of width 1, and dashes in
    widths of the line."""
    look = style.look(measure)
    marker = MarkerStyle(look.marker)
    polygons = (
        marker.get_path().transformed(marker.get_transform()).to_polygons() if look.marker else []
    )
    return {
        "measure": measure,
        "name": style.name(measure),
        "color": look.color,
        "dark": style.on_dark(look.color),
        "marker": [[[round(x, 2), round(-y, 2)] for x, y in polygon] for polygon in polygons],
        "dash": list(look.line[1]) if isinstance(look.line, tuple) else [],
    }
