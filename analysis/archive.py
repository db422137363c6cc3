"""The records of a study in a few small Parquet files, to be published with it: a source like any other."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from analysis.sources import TABLES, Frames, least_columns, load
from benchmark.config import DEFAULTS, RULES, RunConfig
from benchmark.errors import UserError
from benchmark.record import check_rules

if TYPE_CHECKING:
    from analysis.report import Report

TEXTS = ("run_id", "cell", "dense_id", "label", "outcome", "device", "processor", "commit", "versions", "data", "conv")
"""Columns of texts, beside the fields of a run."""
FIRST = DEFAULTS | {
    "rules": 1, "score_bn": "running", "images": np.nan, "data": "", "processor": "", "commit": "", "threads": np.nan,
}  # fmt: skip
"""Columns of runs that archives of flowprune 0.1 lack, with what is true of its runs."""


def publish(source: str | Sequence[str], out: Path, grid: Sequence[RunConfig] | None = None) -> Report:
    """Write the finished runs of a source, or of several (and of a grid), as an archive into `out`, and beside it their
    report's claims.json and figures (PNG).

    Raises `UserError` as `sources.load` and `report.build` do.
    """
    from analysis.report import build  # here, because it draws

    frames = load(source).of(grid)
    write(frames.only(frames.finished()["run_id"]), out)
    with tempfile.TemporaryDirectory() as folder:
        report = build(str(out), Path(folder), grid)
        shutil.rmtree(out / "figures", ignore_errors=True)
        (out / "figures").mkdir()
        for figure in sorted(Path(folder).glob("figures/*.png")):
            shutil.copy(figure, out / "figures")
        shutil.copy(Path(folder) / "claims.json", out)
    return report


def write(frames: Frames, folder: Path) -> None:
    """One Parquet file per frame."""
    from analysis.report import make_folders  # here, because it draws

    make_folders(folder)
    for name in TABLES:
        getattr(frames, name).to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")


def read(folder: Path) -> Frames:
    """The frames of an archive. Raises `UserError` that names a file which is missing, broken or none of ours."""
    parts = {}
    for name, columns in least_columns().items():
        file = folder / f"{name}.parquet"
        try:
            table = pd.read_parquet(file)
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise UserError(f"archive file {file} cannot be read ({' '.join(str(error).split())})") from None
        if name == "runs":
            table = _as_stored(table, file)
        if lacking := columns - set(table):
            raise UserError(f"archive file {file} lacks the columns {', '.join(sorted(lacking))}")
        _check_types(file, table)
        parts[name] = table
    _check_consistency(folder, parts)
    return Frames(str(folder), **parts)


def _check_types(file: Path, table: pd.DataFrame) -> None:
    """Raise `UserError` unless columns of numbers hold numbers."""
    for name in table:
        texts = name in TEXTS or type(DEFAULTS.get(name)) is str
        if not (texts or is_numeric_dtype(table[name]) or name == "prune_epoch"):
            raise UserError(f"archive file {file}: column {name} must hold numbers, got {table[name].dtype}")


def _check_consistency(folder: Path, parts: dict[str, pd.DataFrame]) -> None:
    """Raise `UserError` unless each run is there once, with the identity of its fields, and all rows belong to runs."""
    runs = parts["runs"]
    if (twice := runs["run_id"].duplicated()).any():
        raise UserError(f"archive file {folder / 'runs.parquet'} has run {runs['run_id'][twice].iloc[0]} twice")
    for name, table in parts.items():
        if not table["run_id"].isin(runs["run_id"]).all():
            raise UserError(f"archive file {folder / name}.parquet has rows of runs that are not in runs.parquet")
    epochs = parts["history"].groupby("run_id")["epoch"].agg(["min", "max", "count", "nunique"])
    broken = (epochs["min"] != 0) | (epochs["max"] + 1 != epochs["count"]) | (epochs["count"] != epochs["nunique"])
    if broken.any():
        raise UserError(f"archive file {folder / 'history.parquet'} lacks rows of run {epochs.index[broken][0]}")
    ours = runs[runs["rules"] == RULES]
    for run_id, fields in zip(ours["run_id"], ours[list(DEFAULTS)].to_dict("records"), strict=True):
        found = RunConfig.from_dict(fields).run_id
        if found != run_id:
            raise UserError(f"archive file {folder / 'runs.parquet'}: run {run_id} has the fields of {found}")


def _as_stored(runs: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The table with the columns that came after it. Identities tell whether later fields keep old behaviour."""
    if "run_id" not in runs:
        return runs
    if "rules" not in runs:
        return runs.assign(**{name: value for name, value in FIRST.items() if name not in runs})
    for rules in runs["rules"].unique().tolist():
        check_rules(f"archive file {file}", rules)
    later = {field: value for field, value in DEFAULTS.items() if field not in runs}
    if not later:
        return runs
    filled = runs.assign(**later)
    configs = [RunConfig.from_dict(row) for row in filled[list(DEFAULTS)].to_dict("records")]
    same = [config.run_id for config in configs] == filled["run_id"].tolist()
    return filled if same else runs
