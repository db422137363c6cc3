"""Two sources of runs side by side (two versions of a measure, say), paired run by run.

A pair is a run of A and a run of B that agree in everything but the source, or, with `--measures
x=y`, in everything but the measure, x in A and y in B (`none`: the dense control of each run);
`--fields protocol=paper=exact` does the same for another field. Every difference is A minus B, so
that seeds, settings and luck shared by both cancel; identical runs differ by exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import stats
from analysis.outcomes import SUMMARISED, outcomes
from analysis.report import style
from analysis.runs.frames import Frames
from analysis.runs.load import load
from analysis.runs.pull import field_value
from analysis.settings import DENSE, TASK, named
from benchmark.config import CUT_FIELDS, TRAINED
from benchmark.errors import UserError, require
from benchmark.files import write_json
from benchmark.record import HISTORY_KEYS

EVERYWHERE = "all settings"
ROUNDING = 1e-12
"""Means of differences that cancel but for rounding are no larger."""
PRINTED = 8
"""Settings that are printed one by one; of more, only the means over all of them are."""


@dataclass(frozen=True)
class Difference:
    """A minus B of one quantity, with its 95 % interval."""

    effect: float | None
    """Mean over settings of the mean over seeds; None without a pair that has the number on both
    sides."""
    interval: stats.Interval | None
    """None if a setting has fewer than two seeds."""
    n: int
    """Pairs; of settings that share their dense controls, seeds."""
    unit: str

    @property
    def differs(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.interval is not None and (min(self.interval) > 0 or max(self.interval) < 0)


@dataclass(frozen=True)
class Row:
    """All differences of a measure in a setting."""

    setting: str
    measure: str
    """The measure, or `x - y` where x of A is compared with y of B."""
    pairs: int
    identical: int
    """Pairs whose histories are equal in every number but times."""
    outcomes: str
    """Pairs that did not both finish, in words; empty if all did."""
    differences: dict[str, Difference]
    """By the keys of `SUMMARISED`."""


@dataclass(frozen=True)
class Comparison:
    """What two sources have in common, how it differs, and what only one of them has."""

    names: tuple[str, str]
    rows: list[Row]
    """By setting and measure; a measure with more than one setting also has a row for `EVERYWHERE`,
    first."""
    only: pd.DataFrame
    """A row per finished run without its like: `source` (A or B), `setting`, `measure`, `seed`,
    `run_id`."""

    def to_dict(self) -> dict:
        """The content of compare.json."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "difference": "A minus B",
            "rows": [_nested(row) for row in self.rows],
            "only": self.only.to_dict("records"),
        }

    def table(self) -> pd.DataFrame:
        """The rows as a flat table, four columns per quantity: its name, `_low`, `_high` and
        `_n`."""
        return pd.DataFrame([_flat(row) for row in self.rows])


def compare(a: str, b: str, measures: Sequence[str] = (), fields: Sequence[str] = ()) -> Comparison:
    """Compare two sources. measures: `x` or `x=y` texts, none for every measure that both have;
    fields: `name=x=y`.

    Raises `UserError` if a source cannot be loaded, or the two have no pair of finished runs.
    """
    measured, values = (
        _once("measures", map(_renaming, measures)),
        _once("fields", map(_values, fields)),
    )
    return compare_frames(load(a), load(b), measured, values)


def _once(name: str, items: Iterable[tuple]) -> dict:
    items = list(items)
    for key, _ in items:
        require(sum(key == other for other, _ in items) == 1, name, key, "given once")
    return dict(items)


def compare_frames(
    a: Frames,
    b: Frames,
    measures: dict[str, str] | None = None,
    fields: dict[str, tuple] | None = None,
) -> Comparison:
    """Compare two sources that are loaded.

    measures: {measure of A: measure of B}, none for all that both have; fields: {field: (value in
    A, value in B)}.
    """
    for frames, names in ((a, measures or ()), (b, (measures or {}).values())):
        for name in names:
            if name not in set(frames.finished()["measure"]):
                raise UserError(
                    f"measure {name!r} has no finished run in {frames.source}, which has {_names(frames)}"
                )
    measures = measures or {name: name for name in {*a.runs["measure"], *b.runs["measure"]}}
    left, right = _sides(a, b, measures, fields or {})
    pairs = {one: _paired(left, right, one, other) for one, other in measures.items()}
    paired = pd.concat(pairs.values(), ignore_index=True)
    if paired.empty:
        raise UserError(
            f"nothing to compare: no finished run of {a.source} ({_names(a)}) has its like in {b.source} "
            f"({_names(b)}); runs must agree in everything but what --measures x=y and --fields name=x=y say"
        )
    same = _same_histories(a, b, paired[["run_id/a", "run_id/b"]])
    rows = []
    for measure in style.in_order({name for name, part in pairs.items() if len(part)}):
        part, other = pairs[measure], measures[measure]
        label = measure if measure == other else f"{measure} - {other}"
        parts = dict(iter(part.groupby("task", sort=False)))
        whole = {EVERYWHERE: part} if len(parts) > 1 else {}
        rows += [_row(setting, label, table, same) for setting, table in (whole | parts).items()]
    only = pd.concat(
        [_without(left, paired["run_id/a"], "A"), _without(right, paired["run_id/b"], "B")]
    )
    only = only.reset_index(drop=True)
    names = tuple(_with(frames.source, fields or {}, side) for side, frames in enumerate((a, b)))
    return Comparison(names, rows, only)


def write(comparison: Comparison, out: Path) -> Path:
    """Write compare.html, compare.json and compare.csv into the folder `out`; returns the page."""
    from analysis.report.build import FILTERS, make_folders
    from analysis.report.page import render

    make_folders(out)
    write_json(out / "compare.json", comparison.to_dict())
    comparison.table().to_csv(out / "compare.csv", index=False)
    page = out / "compare.html"
    filters = FILTERS | {"difference": text}
    page.write_text(
        render("compare.html", filters, comparison=comparison, quantities=SUMMARISED),
        encoding="utf-8",
    )
    return page


def text(item: Difference) -> str:
    """A difference as people read it; a plain 0 where both sides agree in every pair."""
    from analysis.report.build import number_text

    return "0" if item.effect == 0 and item.interval in (None, (0, 0)) else number_text(item)


def show(comparison: Comparison) -> None:
    """Print the differences, one table per setting, and how many runs have no like."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"A: {comparison.names[0]}\nB: {comparison.names[1]}\nA minus B, mean over seeds [95 % interval]"
    )
    settings = list(dict.fromkeys(row.setting for row in comparison.rows))
    for setting in settings if len(settings) <= PRINTED else [EVERYWHERE]:
        table = Table(
            "measure", "pairs", *(label for label, _ in SUMMARISED.values()), title=setting
        )
        table.title_justify, table.columns[0].overflow = "left", "fold"
        for row in (row for row in comparison.rows if row.setting == setting):
            cells = (_cell(item) for item in row.differences.values())
            table.add_row(row.measure, _pairs(row), *cells)
        console.print(table)
    if len(settings) > PRINTED:
        console.print(
            f"each of the {len(settings) - 1} settings alone: in what --out FOLDER writes"
        )
    for source, rows in comparison.only.groupby("source"):
        counts = ", ".join(
            f"{count} {name}" for name, count in rows["measure"].value_counts().items()
        )
        console.print(f"only in {source}: {len(rows)} finished runs ({counts})")


def _cell(item: Difference) -> str:
    words = text(item).replace(" [", "\n\\[", 1)
    return f"[bold]{words}[/]" if item.differs else words


def _pairs(row: Row) -> str:
    same = "all" if row.identical == row.pairs else row.identical
    notes = [f"{same} identical"] * bool(row.identical) + [row.outcomes] * bool(row.outcomes)
    return f"{row.pairs} ({'; '.join(notes)})" if notes else f"{row.pairs}"


def _renaming(text: str) -> tuple[str, str]:
    left, _, right = text.partition("=")
    if not left or text.endswith("="):
        raise UserError(f"--measures {text!r} must be a measure, or two as in new=old")
    return left, right or left


def _values(text: str) -> tuple[str, tuple]:
    name, *values = text.split("=")
    if name not in TASK or len(values) != 2:
        raise UserError(f"--fields {text!r} must be FIELD=X=Y with a field among {', '.join(TASK)}")
    return name, tuple(field_value(name, value, "field") for value in values)


def _with(source: str, fields: dict[str, tuple], side: int) -> str:
    """The name of a side: its source, and the values that its runs have in fields that are
    compared."""
    return ", ".join([source, *(f"{name} {values[side]}" for name, values in fields.items())])


def _sides(
    a: Frames, b: Frames, measures: dict[str, str], fields: dict[str, tuple]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The outcomes of both, of these measures and fields; settings are named over both together.

    `like`: what two runs share that are a pair.
    """
    together = pd.concat([a.runs.assign(source="A"), b.runs.assign(source="B")], ignore_index=True)
    same = {field: values[1] for field, values in fields.items()}
    same |= {"retrain": ""} if TRAINED in fields.get("prune_epoch", ()) else {}
    together = together.assign(**same)  # no part of a setting's name
    together = named(replace(a, runs=together)).runs
    serving = any((one == DENSE) != (other == DENSE) for one, other in measures.items())
    sides = []
    for side, (frames, name, names) in enumerate(((a, "A", measures), (b, "B", measures.values()))):
        tasks = together[together["source"] == name].set_index("run_id")
        table = outcomes(frames).assign(task=tasks["task"])
        table = table[table["measure"].isin(set(names))].reset_index()
        for field, values in fields.items():
            control = (table["measure"] == DENSE) & (
                serving and field in CUT_FIELDS
            )  # it has no such field
            table = table[_has(table, field, values[side]) | control]
            if table.empty:
                raise UserError(
                    f"{name}, {frames.source}, has no finished run with {field} {values[side]}"
                )
        table["like"] = table[[*TASK, "seed"]].assign(**same).astype(str).agg("|".join, axis=1)
        sides.append(table)
    return sides[0], sides[1]


def _paired(left: pd.DataFrame, right: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """A row per pair of runs of two measures; a dense control is the like of every run that it
    would have been.

    `task`: the setting; `shared`: whether settings share their controls.
    """
    control = (one == DENSE) != (other == DENSE)
    ours, theirs = left[left["measure"] == one], right[right["measure"] == other]
    pairs = ours.merge(theirs, on="dense_id" if control else "like", suffixes=("/a", "/b"))
    return pairs.assign(task=pairs["task/b" if one == DENSE else "task/a"], shared=control)


def _has(table: pd.DataFrame, field: str, value: object) -> pd.Series:
    """Which runs have a value in a field, whichever way it was put."""
    if (field, value) == ("prune_epoch", TRAINED):
        return (table["prune_epoch"] == table["epochs"]) & (table["retrain"] == "restart")
    return table[field] == value


def _row(setting: str, measure: str, pairs: pd.DataFrame, same: set[str]) -> Row:
    differences = {}
    for name, (_, unit) in SUMMARISED.items():
        ours, theirs = pairs[f"{name}/a"], pairs[f"{name}/b"]
        gaps = (
            (ours - theirs).mask(np.isclose(ours, theirs, rtol=1e-12, atol=0), 0.0).dropna()
        )  # rounding of a mean
        if pairs[
            "shared"
        ].any():  # settings that share their controls say nothing independent of each other
            gaps = gaps.groupby(pairs["seed/a"]).mean()
            tasks = [gaps.to_numpy()] if len(gaps) else []
        else:
            tasks = [task.to_numpy() for _, task in gaps.groupby(pairs["task"], sort=False)]
        if any(
            len(task) > 1 for task in tasks
        ):  # a setting with one complete seed has no spread of its own
            tasks = [task for task in tasks if len(task) > 1]
        effect = stats.stratified_mean(tasks) if tasks else None
        effect = 0.0 if effect is not None and abs(effect) < ROUNDING else effect
        interval = stats.paired_interval(tasks, np.random.default_rng(0))
        differences[name] = Difference(effect, interval, sum(map(len, tasks)), unit)
    states = pairs["outcome/a"] + " in A, " + pairs["outcome/b"] + " in B"
    other = states[states != "finished in A, finished in B"].value_counts()
    text = "; ".join(f"{count} {state}" for state, count in other.items())
    return Row(
        setting, measure, len(pairs), int(pairs["run_id/a"].isin(same).sum()), text, differences
    )


def _same_histories(a: Frames, b: Frames, pairs: pd.DataFrame) -> set[str]:
    """The run ids of A whose history is that of its like in B, number by number (times apart)."""
    columns = [name for name in HISTORY_KEYS if not name.startswith("time/")]
    ours, theirs = (
        {run_id: rows[columns].to_numpy() for run_id, rows in frames.history.groupby("run_id")}
        for frames in (a, b)
    )
    return {
        left
        for left, right in pairs.itertuples(index=False)
        if left in ours
        and right in theirs
        and np.array_equal(ours[left], theirs[right], equal_nan=True)
    }


def _without(side: pd.DataFrame, paired: pd.Series, source: str) -> pd.DataFrame:
    rows = side[~side["run_id"].isin(paired)]
    table = rows[["measure", "seed", "run_id"]].assign(source=source, setting=rows["task"])
    return table[["source", "setting", "measure", "seed", "run_id"]]


def _flat(row: Row) -> dict:
    flat = {
        name: getattr(row, name)
        for name in ("setting", "measure", "pairs", "identical", "outcomes")
    }
    for name, item in row.differences.items():
        low, high = item.interval or (np.nan, np.nan)
        effect = np.nan if item.effect is None else item.effect
        flat |= {name: effect, f"{name}_low": low, f"{name}_high": high, f"{name}_n": item.n}
    return flat


def _nested(row: Row) -> dict:
    names = ("setting", "measure", "pairs", "identical", "outcomes")
    items = {name: {**asdict(item), "interval": list(item.interval or (None, None))}
             for name, item in row.differences.items()}  # fmt: skip
    return {**{name: getattr(row, name) for name in names}, "differences": items}


def _names(frames: Frames) -> str:
    return ", ".join(style.in_order(set(frames.finished()["measure"])))
