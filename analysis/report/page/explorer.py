"""The data of the page's interactive comparison: means and bands by epoch, compact enough for a
thousand runs.

A *line* is a measure in a setting: its runs' mean over seeds and the 95 % band, by epoch, for each
quantity. Numbers are whole multiples of a step that no reader can see (of the logarithm, for
quantities on a log scale), written as differences from one epoch to the next, and compressed per
group; `page/curves.js` undoes this.
"""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.markers import MarkerStyle

from analysis.report import style
from analysis.report.bands import band
from analysis.runs.frames import UNFINISHED, Frames
from analysis.settings import DENSE, settings_of

LOG_STEP = 1e-3
"""Of log10: 0.12 % of a value at most."""
LINEAR_STEPS = 10_000
"""Over the range of a quantity on a linear scale."""
BAND_STEPS = 4
"""Bands are known less well than means: they are rounded to as many steps."""


@dataclass(frozen=True)
class Quantity:
    """What can be compared: a key of the history and how it is shown."""

    key: str
    label: str
    unit: str
    scale: float = 1
    log: bool = False
    low: float = -np.inf
    high: float = np.inf
    absolute: bool = False


QUANTITIES = (
    Quantity("train/loss", "training loss", "nats", log=True),
    Quantity("test/loss", "test loss", "nats", log=True),
    Quantity("train/accuracy", "training accuracy", "%", scale=100, low=0, high=100),
    Quantity("test/accuracy", "test accuracy", "%", scale=100, low=0, high=100),
    Quantity("flow/grad_norm", "gradient norm |g|", "nats", log=True),
    Quantity("flow/theta_g", "speed of |θ|²: 2|θ·g|", "nats", 2, log=True, absolute=True),
    Quantity("flow/theta_hg", "second-order term θ·Hg", "nats"),
    Quantity("flow/weight_norm_sq", "squared parameter norm |θ|²", "", low=0),
)


def comparison(frames: Frames) -> dict:
    """What the page embeds: `measures` (looks, in order), `quantities`, `band`, and `groups` with
    compressed curves.

    frames: named. Runs with an ablation are left out, and so are groups without a single value.
    """
    runs = frames.runs[(frames.runs["outcome"] != UNFINISHED) & (frames.runs["ablation"] == "none")]
    measures = style.in_order(set(runs["measure"]))
    groups = []
    for name, part in runs.groupby("group", sort=False):
        lines, settings = _settings(part, frames.cuts, measures)
        values = Values.of(frames.history[frames.history["run_id"].isin(part["run_id"])])
        curves = [values.packed(list(ids), start) for ids, start in lines.items()]
        if any(curve for line in curves for curve in line):
            groups.append(
                {
                    "name": name,
                    "settings": settings,
                    "steps": values.steps,
                    "curves": _compressed(curves),
                }
            )
    quantities = [
        {"label": item.label, "unit": item.unit, "log": item.log, "scale": item.scale}
        for item in QUANTITIES
    ]
    return {
        "measures": [_look(measure) for measure in measures],
        "quantities": quantities,
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
        numbers = np.stack([_on_scale(item, table.to_numpy()) for item, table in pairs])
        rows = {run_id: place for place, run_id in enumerate(tables[0].index)}
        steps = [_step(item, part) for item, part in zip(QUANTITIES, numbers, strict=True)]
        return cls(rows, tables[0].columns.to_numpy(), numbers, steps)

    def packed(self, ids: list[str], start: float) -> list[list[list[int]] | None]:
        """For each quantity the epochs, mean, and band below and above it, of these runs; None
        without a value.

        Epochs and means are steps from point to point, the band is in units of `BAND_STEPS` steps
        and missing with one seed. Only epochs at which every run has a value count: a curve ends
        where one of its runs diverged.
        """
        numbers = self.numbers[:, [self.rows[run_id] for run_id in ids]]
        whole = np.isfinite(numbers).all(axis=1) & (self.epochs >= start)
        bounds = band(np.swapaxes(numbers, 0, 1).reshape(len(ids), -1)) or ()
        bounds = [bound.reshape(whole.shape) for bound in bounds]
        result = []
        for place, (item, step, here) in enumerate(zip(QUANTITIES, self.steps, whole, strict=True)):
            mean = numbers[place][:, here].mean(axis=0)
            widths = [
                np.abs(np.clip(bound[place, here], item.low, item.high) - mean) for bound in bounds
            ]
            curve = [
                np.diff(line, prepend=0)
                for line in (self.epochs[here], np.rint(mean / step).astype(int))
            ]
            curve += [np.rint(width / (BAND_STEPS * step)).astype(int) for width in widths]
            result.append([line.tolist() for line in curve] if here.any() else None)
        return result


def _on_scale(item: Quantity, numbers: np.ndarray) -> np.ndarray:
    numbers = item.scale * (np.abs(numbers) if item.absolute else numbers)
    return np.log10(np.where(numbers > 0, numbers, np.nan)) if item.log else numbers


def _step(item: Quantity, numbers: np.ndarray) -> float:
    finite = numbers[np.isfinite(numbers)]
    return (
        LOG_STEP
        if item.log
        else float(f"{max(np.ptp(finite) if len(finite) else 0, 1e-9) / LINEAR_STEPS:.1g}")
    )


def _settings(
    runs: pd.DataFrame, cuts: pd.DataFrame, measures: list[str]
) -> tuple[dict[tuple[str, ...], float], list[dict]]:
    """The lines of a group as {run ids: first epoch}, and its settings: name, epochs of cuts,
    measures with lines."""
    lines: dict[tuple[str, ...], float] = {}
    settings = []
    epochs = cuts.groupby("run_id")["epoch"].unique()
    for setting in settings_of(runs):
        here = runs[runs["setting"] == setting]
        dense = runs[runs["run_id"].isin(here["dense_id"])]
        start = here["first_cut"].min() if here["dense_id"].isin(dense["run_id"]).all() else 0
        shown = []
        for measure in measures:
            rows = dense if measure == DENSE else here[here["measure"] == measure]
            if len(rows):
                ids = tuple(sorted(rows["run_id"]))
                lines.setdefault(ids, 0 if measure == DENSE else start)
                shown.append([measures.index(measure), list(lines).index(ids), len(ids)])
        at = {int(epoch) for run_id in here["run_id"] for epoch in epochs.get(run_id, ())}
        settings.append({"name": setting, "cuts": sorted(at), "lines": shown})
    return lines, settings


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
