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
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.markers import MarkerStyle

from analysis.quantities import CONVERGENCE, GRADIENT_NORM, NORM, SECOND_ORDER, SPEED, Quantity
from analysis.report import style
from analysis.report.bands import band
from analysis.report.lines import Line, cut_epochs, lines
from analysis.runs.frames import Frames
from analysis.settings import DENSE, settings_of

QUANTITIES = (*CONVERGENCE, GRADIENT_NORM, SPEED, SECOND_ORDER, NORM)
"""What the reader can choose."""
LOG_STEP = 1e-3
"""Of log10: 0.12 % of a value at most."""
LINEAR_STEPS = 10_000
"""Over the range of a quantity on a linear scale."""
BAND_STEPS = 4
"""Bands are known less well than means: they are rounded to as many steps."""


def explorer_data(frames: Frames) -> dict:
    """What the page embeds: `measures` (looks, in order), `quantities`, `band`, and `groups` with
    compressed curves.

    frames: named. Runs with an ablation are left out, and so are groups without a single value.
    """
    runs = frames.drawn()
    measures = style.in_order({*runs["measure"], DENSE})
    cuts, groups = cut_epochs(runs, frames.cuts), []
    for name, part in runs.groupby("group", sort=False):
        kept: dict[Line, int] = {}
        settings = []
        for setting in settings_of(part):
            shown = [
                [measures.index(line.measure), kept.setdefault(line, len(kept)), len(line.run_ids)]
                for line in lines(part, setting)
            ]
            settings.append({"name": setting, "cuts": cuts.get(setting, []), "lines": shown})
        values = Values.of(frames.history[frames.history["run_id"].isin(part["run_id"])])
        curves = [values.packed(line) for line in kept]
        if any(curve for line in curves for curve in line):
            packed = {"steps": values.steps, "curves": _compressed(curves)}
            groups.append({"name": name, "settings": settings, **packed})
    return {
        "measures": [_look(measure) for measure in measures],
        "quantities": [
            {"label": item.label, "unit": item.shown_unit, "log": item.log} for item in QUANTITIES
        ],
        "band": BAND_STEPS,
        "groups": groups,
    }


@dataclass(frozen=True)
class Values:
    """All quantities of the runs of a group, on the scales on which they are averaged."""

    rows: dict[str, int]
    """The place of each run on the second axis of `numbers`."""
    epochs: np.ndarray
    numbers: np.ndarray
    """[quantities, runs, epochs]."""
    steps: list[float]
    """What one unit of the packed numbers is worth, by quantity."""

    @classmethod
    def of(cls, history: pd.DataFrame) -> Values:
        """From the rows of `Frames.history`."""
        tables = [
            history.pivot(index="run_id", columns="epoch", values=item.key) for item in QUANTITIES
        ]
        pairs = zip(QUANTITIES, tables, strict=True)
        numbers = np.stack([item.averaged(table.to_numpy()) for item, table in pairs])
        rows = {run_id: place for place, run_id in enumerate(tables[0].index)}
        steps = [_step(item, part) for item, part in zip(QUANTITIES, numbers, strict=True)]
        return cls(rows, tables[0].columns.to_numpy(), numbers, steps)

    def packed(self, line: Line) -> list[list[list[int]] | None]:
        """For each quantity the epochs, the mean, and the band below and above it; None without a
        value.

        Epochs and means are steps from point to point, the band is in units of `BAND_STEPS` steps
        and missing with one seed. Only epochs at which every run has a value count: a curve ends
        where one of its runs diverged.
        """
        numbers = self.numbers[:, [self.rows[run_id] for run_id in line.run_ids]]
        inside = (line.first <= self.epochs) & (self.epochs <= line.last)
        whole = np.isfinite(numbers).all(axis=1) & inside
        bounds = band(np.swapaxes(numbers, 0, 1).reshape(len(line.run_ids), -1)) or ()
        bounds = [bound.reshape(whole.shape) for bound in bounds]
        result = []
        for place, (item, step, here) in enumerate(zip(QUANTITIES, self.steps, whole, strict=True)):
            mean = numbers[place][:, here].mean(axis=0)
            steps = self.epochs[here], np.rint(mean / step).astype(int)
            widths = (np.abs(np.clip(bound[place, here], *item.bounds) - mean) for bound in bounds)
            curve = [np.diff(part, prepend=0) for part in steps]
            curve += [np.rint(width / (BAND_STEPS * step)).astype(int) for width in widths]
            result.append([part.tolist() for part in curve] if here.any() else None)
        return result


def _step(item: Quantity, numbers: np.ndarray) -> float:
    finite = numbers[np.isfinite(numbers)]
    span = max(np.ptp(finite) if len(finite) else 0, 1e-9)
    return LOG_STEP if item.log else float(f"{span / LINEAR_STEPS:.1g}")


def _compressed(content: object) -> str:
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
        "name": style.name(measure),
        "color": look.color,
        "dark": style.on_dark(look.color),
        "marker": [[[round(x, 2), round(-y, 2)] for x, y in polygon] for polygon in polygons],
        "dash": list(look.line[1]) if isinstance(look.line, tuple) else [],
    }
