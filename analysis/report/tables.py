"""Tables of the report: tidy frames with an interval beside every mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.claims import Judgement
from analysis.outcomes import SUMMARISED, outcomes
from analysis.report import figures, style
from analysis.report.bands import band
from analysis.runs.frames import UNFINISHED, Frames
from analysis.settings import DENSE, Completeness, timing
from benchmark.record import FINISHED

BOUNDS = {"final_accuracy": (0, 1), "density": (0, 100)}
"""Where intervals must end."""


def summary(frames: Frames) -> pd.DataFrame:
    """A row per setting and measure (runs without an ablation).

    `group`, `setting`, `measure`, `runs` (finished), `diverged` (of them, or collapsed), `params`
    and `macs` (share left, mean over the others), and for each of `outcomes.SUMMARISED` its
    `<name>` (mean over seeds), `<name>_low`, `<name>_high` (95 % interval) and `<name>_n`.
    """
    table = outcomes(frames)
    table = table[table["ablation"] == "none"]
    for size in ("params", "macs"):
        left = table[f"net/{size}/after"] / table[f"net/{size}/before"]
        table[size] = left.where(
            table["outcome"] == FINISHED
        )  # a collapsed run keeps the net that it could not cut
    rows = []
    for (group, setting, measure), runs in table.groupby(
        ["group", "setting", "measure"], sort=False
    ):
        row = {"group": group, "setting": setting, "measure": measure, "runs": len(runs)}
        row |= {"diverged": int((runs["outcome"] != FINISHED).sum())}
        row |= {size: runs[size].mean() for size in ("params", "macs")}
        for name in SUMMARISED:
            row |= _mean(name, runs[name].dropna().to_numpy())
        rows.append(row)
    columns = ["group", "setting", "measure", "runs", "diverged", "params", "macs"]
    columns += [f"{name}{end}" for name in SUMMARISED for end in ("", "_low", "_high", "_n")]
    result = pd.DataFrame(rows, columns=columns)
    place = {
        measure: number for number, measure in enumerate(style.in_order(set(result["measure"])))
    }
    settings = {setting: number for number, setting in enumerate(result["setting"].unique())}
    order = result.assign(
        _dense=result["measure"] == DENSE,
        _setting=result["setting"].map(settings),
        _measure=result["measure"].map(place),
    ).sort_values(["group", "_dense", "_setting", "_measure"])
    return result.loc[order.index].reset_index(drop=True)


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    interval = band(values[:, None])
    bounds = (np.nan, np.nan) if interval is None else [bound[0] for bound in interval]
    low, high = np.clip(bounds, *BOUNDS.get(name, (-np.inf, np.inf))).tolist()
    mean = values.mean() if len(values) else np.nan
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": len(values)}


def densities(frames: Frames) -> pd.DataFrame:
    """A row per setting, measure and conv: `density` in percent after the last cut, its 95 %
    interval and n."""
    rows = [
        {
            **dict(zip(("group", "setting", "measure", "layer", "conv"), key, strict=True)),
            **_mean("density", part),
        }
        for key, part in _by_layer(figures.layer_densities(frames))
    ]
    return pd.DataFrame(rows)


def _by_layer(table: pd.DataFrame) -> list[tuple[tuple, np.ndarray]]:
    grouped = table.groupby(["group", "setting", "measure", "layer", "conv"], sort=False)["density"]
    return [(key, part.dropna().to_numpy()) for key, part in grouped]


def runs(frames: Frames) -> pd.DataFrame:
    """A row per run: its fields, outcome and numbers (NaN while it is unfinished)."""
    table = outcomes(frames).reset_index()
    waiting = frames.runs[frames.runs["outcome"] == UNFINISHED]
    return pd.concat([table, waiting], ignore_index=True) if len(waiting) else table


@dataclass(frozen=True)
class Cell:
    """How much of a cell of the grid is there."""

    finished: int
    expected: int

    @property
    def share(self) -> float:
        """Finished runs per expected one."""
        return self.finished / self.expected

    @property
    def state(self) -> str:
        """`whole`, `partial` or `absent`."""
        return (
            "whole" if self.finished == self.expected else "partial" if self.finished else "absent"
        )


def coverage(frames: Frames, whole: Completeness) -> pd.DataFrame:
    """The grid: a row per setting (`arch`, `dataset`, `timing`, `rounds`, `ratio`), a `Cell` per
    measure.

    frames: named, of the runs that were expected; whole: what is missing of them.
    """
    setting = ["arch", "dataset", "timing", "rounds", "ratio"]
    parts = {"finished": frames.finished(), "missing": whole.missing}
    counts = pd.concat(
        [part[[*setting, "measure"]].assign(state=state) for state, part in parts.items()]
    )
    counts = (
        counts.groupby([*setting, "measure", "state"], sort=False)
        .size()
        .unstack("state", fill_value=0)
    )
    counts = counts.reindex(columns=list(parts), fill_value=0)
    cells = pd.Series(
        [Cell(done, done + missing) for done, missing in counts.to_numpy().tolist()], counts.index
    )
    table = cells.unstack("measure", fill_value=Cell(0, 0))
    table = table[style.in_order(list(table.columns))].reset_index()
    dense = table["timing"] == timing(DENSE, 0, "")
    table = table.astype({"rounds": object, "ratio": object}).assign(_dense=dense)
    table.loc[dense, ["rounds", "ratio"]] = ""  # it has no cut
    return table.sort_values(["arch", "dataset", "_dense"], kind="stable", ignore_index=True).drop(
        columns="_dense"
    )


def verdicts(judgements: list[Judgement]) -> pd.DataFrame:
    """A row per claim (`arch` and `dataset` are `all`), and per part of it.

    `claim`, `arch`, `dataset`, `verdict`, `verdict_holm` (of whole claims), `label` (what the
    effect is of: the number furthest from the claim), `effect`, `low`, `high`, `n`, `unit`.
    """
    rows = []
    for item in judgements:
        parts = [("all", "all", item.verdict, item.verdict_holm, item.number)]
        parts += [(part.arch, part.dataset, part.verdict, None, part.number) for part in item.parts]
        for *names, number in parts:
            interval = number.interval or (None, None)
            rows.append(
                (
                    item.claim.id,
                    *names,
                    number.label,
                    number.effect,
                    *interval,
                    number.n,
                    number.unit,
                )
            )
    columns = [
        "claim",
        "arch",
        "dataset",
        "verdict",
        "verdict_holm",
        "label",
        "effect",
        "low",
        "high",
        "n",
        "unit",
    ]
    return pd.DataFrame(rows, columns=columns)
