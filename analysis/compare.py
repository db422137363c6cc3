"""Two sources of runs side by side (two versions of a measure, say), paired run by run.

A pair is a run of A and a run of B that agree in everything but the source, or, with `--measures
x=y`, in everything but the measure, x in A and y in B (`none`: the dense control of each run);
`--fields protocol=paper=exact` does the same for another field. Every difference is A minus B, so
that seeds, settings and luck shared by both cancel; identical runs differ by exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.outcomes import outcomes
from analysis.pairs import INDEX, Pairs, with_enough_seeds
from analysis.quantities import SUMMARISED, Quantity
from analysis.report import style
from analysis.report.page import ESCAPED, make_folders, write_page
from analysis.report.text import difference_text
from analysis.runs.frames import Frames, dense_controls
from analysis.runs.load import load
from analysis.settings import DENSE, SHARED, named
from analysis.verdicts import Criterion, Number, measured
from benchmark.config import CUT_FIELDS, TRAINED
from benchmark.errors import UserError, require
from benchmark.fields import assignment, field_value
from benchmark.files import write_json
from benchmark.record import HISTORY_KEYS
from benchmark.registry import resolve

EVERYWHERE = "all settings"
PRINTED = 8
"""Settings that are printed one by one; of more, only the means over all of them are."""


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
    differences: dict[str, Number]
    """By the keys of `SUMMARISED`. Where settings share their dense controls, `n` is the number of
    seeds."""

    def to_dict(self) -> dict:
        """The entry in compare.json."""
        entries = {key: _entry(item) for key, item in self.differences.items()}
        return {**vars(self), "differences": entries}

    def flat(self) -> dict:
        """The line in compare.csv."""
        line = {key: value for key, value in vars(self).items() if key != "differences"}
        for key, item in self.differences.items():
            low, high = item.interval or (None, None)
            line |= {key: item.effect, f"{key}_low": low, f"{key}_high": high, f"{key}_n": item.n}
        return line


def _entry(item: Number) -> dict:
    interval = list(item.interval or (None, None))
    return {"effect": item.effect, "interval": interval, "n": item.n, "unit": item.unit}


@dataclass(frozen=True)
class Comparison:
    """What two sources have in common, how it differs, and what only one of them has."""

    names: tuple[str, str]
    rows: list[Row]
    """By setting and measure; a measure with more than one setting also has a row for `EVERYWHERE`,
    first."""
    only: pd.DataFrame
    """A row per finished run without a partner in the other source: `source` (A or B), `setting`,
    `measure`, `seed`, `run_id`."""

    def to_dict(self) -> dict:
        """The content of compare.json."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "difference": "A minus B",
            "rows": [row.to_dict() for row in self.rows],
            "only": self.only.to_dict("records"),
        }

    def table(self) -> pd.DataFrame:
        """The rows as a flat table, four columns per quantity: its key, `_low`, `_high` and
        `_n`."""
        return pd.DataFrame([row.flat() for row in self.rows])


def compare(a: str, b: str, measures: Sequence[str] = (), fields: Sequence[str] = ()) -> Comparison:
    """Compare two sources. measures: `x` or `x=y` texts (a file of a measure ends in .py),
    none for every measure that both have; fields: `name=x=y`.

    Raises `UserError` if a source cannot be loaded, or the two have no pair of finished runs.
    """
    renamed = _once("measures", map(_renaming, measures))
    values = _once("fields", map(_values, fields))
    return compare_frames(load(a), load(b), renamed, values)


def _once(name: str, items: Iterable[tuple]) -> dict:
    items = list(items)
    for key, _ in items:
        require(sum(key == other for other, _ in items) == 1, name, key, "given once")
    return dict(items)


def _renaming(text: str) -> tuple[str, str]:
    left, _, right = text.partition("=")
    if not left or text.endswith("="):
        raise UserError(f"--measures {text!r} must be a measure, or two as in new=old")
    return resolve("measures", left), resolve("measures", right or left)


def _values(text: str) -> tuple[str, tuple]:
    name, values = assignment(text, "fields", "FIELD=X=Y", SHARED)
    require(values.count("=") == 1, "fields", text, "FIELD=X=Y")
    return name, tuple(field_value(name, value) for value in values.split("="))


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
    measures, fields = measures or {}, fields or {}
    for frames, names in ((a, measures), (b, measures.values())):
        for name in names:
            if name not in set(frames.finished()["measure"]):
                found = f"has no finished run in {frames.source}, which has {_measures(frames)}"
                raise UserError(f"measure {name!r} {found}")
    measures = measures or {name: name for name in {*a.runs["measure"], *b.runs["measure"]}}
    left, right = _side_tables(a, b, measures, fields)
    pairs = {one: _run_pairs(left, right, one, other) for one, other in measures.items()}
    paired = pd.concat(pairs.values(), ignore_index=True)
    if paired.empty:
        raise UserError(
            f"nothing to compare: no finished run of {a.source} ({_measures(a)}) has a partner in "
            f"{b.source} ({_measures(b)}); runs must agree in everything but what --measures x=y "
            "and --fields name=x=y say"
        )
    same = _same_histories(a, b, paired[["run_id/a", "run_id/b"]])
    rows = []
    for measure in style.in_order({name for name, part in pairs.items() if len(part)}):
        part, other = pairs[measure], measures[measure]
        label = measure if measure == other else f"{measure} - {other}"
        parts = dict(iter(part.groupby("task", sort=False)))
        whole = {EVERYWHERE: part} if len(parts) > 1 else {}
        rows += [_row(setting, label, table, same) for setting, table in (whole | parts).items()]
    only = [
        _unpaired(left, paired["run_id/a"], "A"),
        _unpaired(right, paired["run_id/b"], "B"),
    ]
    names = (
        ", ".join([frames.source, *(f"{name} {values[side]}" for name, values in fields.items())])
        for side, frames in enumerate((a, b))
    )
    return Comparison(tuple(names), rows, pd.concat(only, ignore_index=True))


def _side_tables(
    a: Frames, b: Frames, measures: dict[str, str], fields: dict[str, tuple]
) -> list[pd.DataFrame]:
    """The outcomes of A and of B, of these measures and fields. Tasks are named over both together,
    as if all runs had the value of B in the fields that are compared."""
    together = pd.concat([a.runs.assign(source="A"), b.runs.assign(source="B")], ignore_index=True)
    same = {field: values[1] for field, values in fields.items()}
    same |= {"retrain": ""} if TRAINED in fields.get("prune_epoch", ()) else {}
    together = named(replace(a, runs=together.assign(**same))).runs
    with_controls = any((one == DENSE) != (other == DENSE) for one, other in measures.items())
    tables = []
    for side, (frames, name, names) in enumerate(((a, "A", measures), (b, "B", measures.values()))):
        tasks = together[together["source"] == name].set_index("run_id")["task"]
        table = outcomes(frames).assign(task=tasks)
        table = table[table["measure"].isin(set(names))].reset_index()
        for field, values in fields.items():
            served = with_controls and field in CUT_FIELDS  # a control has no such field
            kept = _has(table, field, values[side]) | (served & (table["measure"] == DENSE))
            table = table[kept]
            if table.empty:
                found = f"has no finished run with {field} {values[side]}"
                raise UserError(f"{name}, {frames.source}, {found}")
        tables.append(table)
    return tables


def _has(table: pd.DataFrame, field: str, value: object) -> pd.Series:
    """Which runs have a value in a field, however it was given."""
    if (field, value) == ("prune_epoch", TRAINED):
        return (table["prune_epoch"] == table["epochs"]) & (table["retrain"] == "restart")
    return table[field] == value


def _run_pairs(left: pd.DataFrame, right: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """A row per pair of runs of two measures: the columns of both as `<name>/a` and `<name>/b`, and
    `group`, `task`, `seed`. A dense control is paired with every run that shares its dense phase.

    `shared`: whether settings share their controls.
    """
    control = (one == DENSE) != (other == DENSE)
    ours, theirs = left[left["measure"] == one], right[right["measure"] == other]
    if control and one == DENSE:
        ours = ours[ours["run_id"].isin(dense_controls(ours))]
    elif control:
        theirs = theirs[theirs["run_id"].isin(dense_controls(theirs))]
    pairs = ours.merge(
        theirs, on=["dense_id"] if control else ["task", "seed"], suffixes=("/a", "/b")
    )
    if not control and pairs.duplicated(["task", "seed"]).any():
        raise UserError(
            f"fields must tell runs of {other} apart: several in B differ in retrain alone; add "
            "retrain=X=Y"
        )
    side = "b" if one == DENSE else "a"
    keys = {name: pairs[f"{name}/{side}"] for name in INDEX if name not in pairs}
    return pairs.assign(**keys, shared=control)


def _row(setting: str, measure: str, pairs: pd.DataFrame, same: set[str]) -> Row:
    states = pairs["outcome/a"] + " in A, " + pairs["outcome/b"] + " in B"
    other = states[states != "finished in A, finished in B"].value_counts()
    return Row(
        setting,
        measure,
        len(pairs),
        int(pairs["run_id/a"].isin(same).sum()),
        "; ".join(f"{count} {state}" for state, count in other.items()),
        {
            item.key: measured(Criterion(item.label, item.unit, _pairs(pairs, item)))
            for item in SUMMARISED
        },
    )


def _pairs(runs: pd.DataFrame, quantity: Quantity) -> Pairs:
    """The pairs of runs that have a quantity on both sides. Settings that share their controls are
    not independent: their mean counts as one setting."""
    table = runs[INDEX].assign(left=runs[f"{quantity.key}/a"], right=runs[f"{quantity.key}/b"])
    table = table.dropna()
    equal = np.isclose(table["left"], table["right"], rtol=1e-12, atol=0)
    table["difference"] = (table["left"] - table["right"]).mask(equal, 0.0)
    if runs["shared"].any():
        table = table.groupby("seed", as_index=False)["difference"].mean().assign(task=EVERYWHERE)
        table["group"] = EVERYWHERE
    return with_enough_seeds(Pairs(table, pd.DataFrame(), ("A",), ("B",)), steps=(2,))


def _same_histories(a: Frames, b: Frames, pairs: pd.DataFrame) -> set[str]:
    """The run ids of A whose history is that of their partner in B in every number but times."""
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


def _unpaired(side: pd.DataFrame, paired: pd.Series, source: str) -> pd.DataFrame:
    rows = side[~side["run_id"].isin(paired)]
    table = rows[["measure", "seed", "run_id"]].assign(source=source, setting=rows["task"])
    return table[["source", "setting", "measure", "seed", "run_id"]]


def _measures(frames: Frames) -> str:
    return ", ".join(style.in_order(set(frames.finished()["measure"])))


def write(comparison: Comparison, out: Path) -> Path:
    """Write compare.html, compare.json and compare.csv into the folder `out`; returns the page."""
    make_folders(out)
    write_json(out / "compare.json", comparison.to_dict())
    comparison.table().to_csv(out / "compare.csv", index=False, errors=ESCAPED)
    content = {"comparison": comparison, "quantities": SUMMARISED}
    return write_page(out / "compare.html", "compare.html", **content)


def show(comparison: Comparison) -> None:
    """Print the differences, one table per setting, and how many runs have no partner."""
    console = Console()
    console.print("A: {}\nB: {}".format(*comparison.names), markup=False)
    console.print("A minus B, mean over seeds [95 % interval]")
    settings = list(dict.fromkeys(row.setting for row in comparison.rows))
    for setting in settings if len(settings) <= PRINTED else [EVERYWHERE]:
        table = Table(
            "measure", "pairs", *(item.label for item in SUMMARISED), title=escape(setting)
        )
        table.title_justify, table.columns[0].overflow = "left", "fold"
        for row in (row for row in comparison.rows if row.setting == setting):
            table.add_row(escape(row.measure), _count(row), *map(_cell, row.differences.values()))
        console.print(table)
    if len(settings) > PRINTED:
        console.print(f"--out FOLDER writes each of the {len(settings) - 1} settings alone")
    for source, rows in comparison.only.groupby("source"):
        counts = rows["measure"].value_counts().items()
        text = ", ".join(f"{count} {name}" for name, count in counts)
        console.print(f"only in {source}: {len(rows)} finished runs ({text})", markup=False)


def _cell(item: Number) -> str:
    text = difference_text(item).replace(" [", "\n[", 1)
    return f"[bold]{text}[/]" if item.differs else text


def _count(row: Row) -> str:
    same = "all" if row.identical == row.pairs else row.identical
    notes = [f"{same} identical"] * bool(row.identical) + [row.outcomes] * bool(row.outcomes)
    return f"{row.pairs} ({'; '.join(notes)})" if notes else f"{row.pairs}"
