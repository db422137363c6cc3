"""Tables of the report: tidy frames with an interval beside every mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.leaderboard import Board
from analysis.outcomes import SIZES, outcomes, share_left, speedup
from analysis.quantities import DENSITY, SUMMARISED, Quantity
from analysis.report import figures, style
from analysis.runs.frames import UNFINISHED, Frames
from analysis.settings import DENSE, Completeness, timing
from analysis.stats import bounded_interval
from analysis.verdicts import Judgement
from benchmark.record import COLLAPSED, DIVERGED


def summary(frames: Frames) -> pd.DataFrame:
    """A row per setting and measure (runs without an ablation).

    `group`, `setting`, `measure`, `runs` (finished), `diverged` and `collapsed` (of them), `params`
    and `macs` (share left, mean over the others), `speedup` (of a batch, median), and
    for each of `quantities.SUMMARISED` its `<key>` (mean over seeds), `<key>_low`, `<key>_high`
    (95 % interval) and `<key>_n`.
    """
    table = outcomes(frames)
    table = table[table["ablation"] == "none"]
    table = table.assign(**{size: share_left(table, size) for size in SIZES})
    table = table.assign(speedup=speedup(table))
    rows, keys = [], ["group", "setting", "measure"]
    for key, runs in table.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {"runs": len(runs)}
        row |= {state: int((runs["outcome"] == state).sum()) for state in (DIVERGED, COLLAPSED)}
        row |= {size: runs[size].mean() for size in SIZES} | {"speedup": runs["speedup"].median()}
        for item in SUMMARISED:
            row |= _mean(item, runs[item.key])
        rows.append(row)
    columns = [*keys, "runs", DIVERGED, COLLAPSED, *SIZES, "speedup"]
    columns += [f"{item.key}{end}" for item in SUMMARISED for end in ("", "_low", "_high", "_n")]
    result = pd.DataFrame(rows, columns=columns)
    measures = style.in_order(set(result["measure"]))
    dense, settings = result["measure"] == DENSE, pd.factorize(result["setting"])[0]
    places = result["measure"].map(measures.index)
    order = np.lexsort((places, settings, dense, result["group"].astype(str)))
    return result.iloc[order].reset_index(drop=True)


def leaderboard(boards: Sequence[Board]) -> pd.DataFrame:
    """The tables of all leaderboards, with their `budget`."""
    columns = ["budget", "measure", "rank"]
    parts = [board.table.assign(budget=board.budget) for board in boards]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table[[*columns, *(name for name in table if name not in columns)]]


def _mean(quantity: Quantity, column: pd.Series) -> dict[str, float]:
    """The mean of a column, its interval, and how many values it has."""
    values, name = column.dropna().to_numpy(), quantity.key
    low, high = bounded_interval(values, quantity.low, quantity.high)
    mean = values.mean() if len(values) else np.nan
    return {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": len(values)}


def densities(frames: Frames) -> pd.DataFrame:
    """A row per setting, measure and conv: `density` in percent after the last cut, its 95 %
    interval and n."""
    keys = ["group", "setting", "measure", "layer", "conv"]
    table = figures.layer_densities(frames)
    parts = table.groupby(keys, sort=False)["density"]
    columns = [*keys, *_mean(DENSITY, table["density"])]
    rows = [dict(zip(keys, key, strict=True)) | _mean(DENSITY, part) for key, part in parts]
    return pd.DataFrame(rows, columns=columns)


def runs(frames: Frames) -> pd.DataFrame:
    """A row per run: its fields, outcome and numbers (NaN while it is unfinished)."""
    table = outcomes(frames).reset_index()
    waiting = frames.runs[frames.runs["outcome"] == UNFINISHED]
    return pd.concat([table, waiting], ignore_index=True) if len(waiting) else table


RUN_COLUMNS = {
    "run_id": "Run", "measure": "Measure", "group": "Architecture and data set",
    "setting": "Setting", "ablation": "Ablation", "seed": "Seed", "outcome": "Outcome",
    "accuracy": "Test accuracy (%)", "loss_after_cut": "Training loss after the cut (nats)",
    "macs_left": "MACs left (%)", "speedup": "Speed-up", "minutes": "Minutes",
}  # fmt: skip
CUT_COLUMNS = {
    "round": "Round", "epoch": "Epoch", "before.loss": "Loss before (nats)",
    "after.loss": "Loss after", "after_fresh.loss": "Loss after, fresh statistics",
    "predicted.loss_change": "Predicted change", "before.grad_norm": "|g| before",
    "after.grad_norm": "|g| after", "score_seconds": "Seconds to score",
}  # fmt: skip
"""The columns of the page's tables of runs and of a run's cuts, and their headings."""
DIGITS = 4
"""Significant digits of numbers in these tables."""


def run_rows(runs: pd.DataFrame, cuts: pd.DataFrame) -> dict:
    """The page's table of runs: `columns`, `rows`, `cut_columns`, and `cuts` {run id: rows}. None
    where a run has no number.

    runs: of `runs`; cuts: of the frames.
    """
    shown = runs.assign(
        measure=runs["measure"].map(style.name), accuracy=100 * runs["final_accuracy"],
        macs_left=100 * share_left(runs, "macs"), speedup=speedup(runs),
        minutes=runs["seconds"] / 60,
    )  # fmt: skip
    cuts = cuts.reindex(columns=["run_id", *CUT_COLUMNS])
    return {
        "columns": list(RUN_COLUMNS.values()),
        "rows": _values(shown[list(RUN_COLUMNS)]),
        "cut_columns": list(CUT_COLUMNS.values()),
        "cuts": {id: _values(part[list(CUT_COLUMNS)]) for id, part in cuts.groupby("run_id")},
    }


def _values(table: pd.DataFrame) -> list[list]:
    """The rows of a table for JSON: numbers rounded, None for NaN."""

    def value(one: object) -> object:
        if isinstance(one, float):
            return float(f"{one:.{DIGITS}g}") if np.isfinite(one) else None
        return one

    return [[value(one) for one in row] for row in table.astype(object).values.tolist()]


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
        done = "whole" if self.finished == self.expected else "partial"
        return done if self.finished else "absent"


def coverage(frames: Frames, whole: Completeness) -> pd.DataFrame:
    """The grid: a row per setting (`arch`, `dataset`, `timing`, `rounds`, `ratio`), a `Cell` per
    measure.

    frames: named, of the runs that were expected; whole: what is missing of them.
    """
    setting = ["arch", "dataset", "timing", "rounds", "ratio"]
    parts = {"finished": frames.finished(), "missing": whole.missing}
    counts = pd.concat(
        part[[*setting, "measure"]].assign(state=state) for state, part in parts.items()
    )
    counts = counts.groupby([*setting, "measure", "state"], sort=False).size().unstack("state")
    counts = counts.reindex(columns=list(parts)).fillna(0).astype(int)
    cells = pd.Series(
        [Cell(done, done + missing) for done, missing in counts.to_numpy().tolist()], counts.index
    )
    table = cells.unstack("measure", fill_value=Cell(0, 0))
    table = table[style.in_order(list(table.columns))].reset_index()
    dense = table["timing"] == timing(DENSE, 0, "")
    table = table.astype({"rounds": object, "ratio": object}).assign(_dense=dense)
    table.loc[dense, ["rounds", "ratio"]] = ""  # it has no cut
    table = table.sort_values(["arch", "dataset", "_dense"], kind="stable", ignore_index=True)
    return table.drop(columns="_dense")


def verdicts(judgements: list[Judgement]) -> pd.DataFrame:
    """A row per claim (`arch` and `dataset` are `all`), and per part of it.

    `claim`, `arch`, `dataset`, `verdict`, `verdict_holm` (of whole claims), `label` (what the
    effect is of: the number furthest from the claim), `effect`, `low`, `high`, `n`, `unit`.
    """
    rows = []
    for item in judgements:
        whole = {"arch": "all", "dataset": "all", "verdict": item.verdict, "number": item.number}
        parts = [whole | {"verdict_holm": item.verdict_holm}, *map(vars, item.parts)]
        for part in parts:
            number = part["number"]
            low, high = number.interval or (None, None)
            rows.append({"claim": item.claim.id, **part, **vars(number), "low": low, "high": high})
    columns = ["claim", "arch", "dataset", "verdict", "verdict_holm", "label", "effect", "low"]
    return pd.DataFrame(rows, columns=[*columns, "high", "n", "unit"])
