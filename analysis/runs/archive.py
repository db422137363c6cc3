"""Archives: the records of a study in a few Parquet files, a source of runs like any other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from analysis.runs.check import check_values, gap
from analysis.runs.frames import PROBE_STATES, STATES, TABLES, Frames, Run, least_columns, to_frames
from benchmark.config import DEFAULTS, RULES, RunConfig
from benchmark.errors import UserError, one_line
from benchmark.record import FINISHED, LATENCY_KEYS, NET_KEYS, check_rules

TEXTS = {name for name, value in DEFAULTS.items() if type(value) is str} | {
    *("run_id", "cell", "dense_id", "label", "outcome", "device", "processor", "commit"),
    *("versions", "data", "conv", "prune_epoch", "a", "b"),
}
"""Columns that need not hold numbers."""
LATER = ("probes", "probe_ranks")
"""Files that archives of early versions lack: their runs have no rows there."""
FIRST = DEFAULTS | dict.fromkeys(("images", "classes", "threads"), np.nan)
FIRST |= dict.fromkeys(("data", "processor", "commit"), "") | {"rules": 1, "score_bn": "running"}
"""Columns that archives of flowprune 0.1 lack, with the values that its runs had."""


def write(frames: Frames, folder: Path) -> None:
    """Write one Parquet file per frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        getattr(frames, name).to_parquet(_file(folder, name), index=False, compression="zstd")


def is_archive(folder: Path) -> bool:
    """Whether a folder is an archive."""
    return _file(folder, "runs").is_file()


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def read(folder: Path) -> Frames:
    """The frames of an archive, of the runs that are whole; `set_aside` has a reason for each of
    the others.

    Raises `UserError` that names a file which is missing, broken or not of an archive.
    """
    parts = {}
    for name, columns in least_columns().items():
        file = _file(folder, name)
        if name in LATER and not file.exists():
            parts[name] = getattr(to_frames((), (), ""), name)
            continue
        try:
            table = pd.read_parquet(file)
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise UserError(f"archive file {file} cannot be read ({one_line(error)})") from None
        if name == "runs":
            table = _as_stored(table, file)
        if name == "cuts" and "score_seconds" not in table:
            table = table.assign(score_seconds=np.nan)  # archives of flowprune 0.1
        if lacking := columns - set(table):
            raise UserError(f"archive file {file} lacks the columns {', '.join(sorted(lacking))}")
        for column in table:
            if column not in TEXTS and not is_numeric_dtype(table[column]):
                kind = f"must hold numbers, got {table[column].dtype}"
                raise UserError(f"archive file {file}: column {column} {kind}")
        parts[name] = table
    _check_rows(folder, parts)
    return _whole(Frames(str(folder), **parts))


def _check_rows(folder: Path, parts: dict[str, pd.DataFrame]) -> None:
    """Raise `UserError` unless each run is there once, and all rows belong to runs."""
    runs = parts["runs"]
    if (twice := runs["run_id"].duplicated()).any():
        run_id = runs["run_id"][twice].iloc[0]
        raise UserError(f"archive file {_file(folder, 'runs')} has run {run_id} twice")
    for name, table in parts.items():
        if not table["run_id"].isin(runs["run_id"]).all():
            said = "has rows of runs that are not in runs.parquet"
            raise UserError(f"archive file {_file(folder, name)} {said}")


def _whole(frames: Frames) -> Frames:
    """The runs whose record is whole; the others are set aside with a reason."""
    tables = {name: _by_run(getattr(frames, name)) for name in TABLES}
    reasons = {}
    for run_id, (row,) in tables["runs"].items():
        try:
            _check(row, _run(row, tables))
        except UserError as error:
            reasons[run_id] = f"archive {frames.source}, run {run_id}: {error}"
    good = frames.only(run_id for run_id in tables["runs"] if run_id not in reasons)
    return replace(good, set_aside=tuple(reasons.values()))


def _by_run(table: pd.DataFrame) -> dict[str, list[dict]]:
    """The rows of each run, with None for NaN as in a record."""
    found: dict[str, list[dict]] = {}
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        found.setdefault(row["run_id"], []).append(row)
    return found


def _check(row: dict, run: Run) -> None:
    """Raise `UserError` unless the record of a run is whole, and its run_id that of its
    fields."""
    if row["rules"] == RULES and run.config.run_id != row["run_id"]:
        raise UserError(f"its fields are those of run {run.config.run_id}")
    check_values(run, "row", "cut", "run", probes="probe", ranks="rank")
    if found := gap(run):
        part, reason = found
        raise UserError(f"{part} {reason}")


def _run(row: dict, tables: dict[str, dict[str, list[dict]]]) -> Run:
    """The record of a run, with what frames keep of it."""
    mine = (tables[name].get(row["run_id"], []) for name in TABLES[1:])
    history, cuts, kept, probes, ranks = mine
    history = [{key: value for key, value in entry.items() if key != "run_id"} for entry in history]
    config = RunConfig.from_dict({name: row[name] for name in DEFAULTS})
    whole_run = row["outcome"] == FINISHED or not history
    summary = {
        **{key: row[key] for key in ("outcome", "data", "device", "commit", "processor")},
        **{key: row[key] for key in ("seconds", "threads", "classes", *LATENCY_KEYS)},
        "epoch": row["total"] if whole_run else history[-1]["epoch"],
        "versions": {},
        "samples": {} if row["images"] is None else {"train": row["images"]},
        "plan": {"before": {entry["conv"]: entry["original"] for entry in kept}},
        **{when: {key: row[f"{key}/{when}"] for key in NET_KEYS} for when in ("before", "after")},
    }
    cuts = [_cut(cut, kept) for cut in cuts]
    probes = [_nested(probe, PROBE_STATES) for probe in probes]
    return Run(config, history, cuts, summary, probes, ranks)


def _nested(row: dict, groups: Iterable[str]) -> dict:
    """{"share": 0.1, "after.loss": 1.0} -> {"share": 0.1, "after": {"loss": 1.0}}"""
    found: dict = {state: {} for state in groups}
    for name, value in row.items():
        state, _, key = name.partition(".")
        if key:
            found[state][key] = value
        else:
            found[name] = value
    return found


def _cut(row: dict, kept: list[dict]) -> dict:
    """A cut as its record has it."""
    mine = {entry["conv"]: entry["kept"] for entry in kept if entry["round"] == row["round"]}
    return _nested(row, (*STATES, "agreement")) | {"kept": mine}


def _as_stored(runs: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The runs of an archive, with the columns that later versions added.

    A later field gets its default if the run ids stay those of the file with it; otherwise it is
    missing.
    """
    if "run_id" not in runs:
        return runs
    runs = runs.assign(**{key: np.nan for key in LATENCY_KEYS if key not in runs})
    if "rules" not in runs:
        return runs.assign(**{name: value for name, value in FIRST.items() if name not in runs})
    for rules in set(runs["rules"]) - {FIRST["rules"]}:
        check_rules(f"archive file {file}", rules)
    later = {field: value for field, value in DEFAULTS.items() if field not in runs}
    if not later:
        return runs
    filled = runs.assign(**later)
    configs = [RunConfig.from_dict(row) for row in filled[list(DEFAULTS)].to_dict("records")]
    same = [config.run_id for config in configs] == filled["run_id"].tolist()
    return filled if same else runs
