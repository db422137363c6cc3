"""The tidy frames of runs, the same for every kind of source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from benchmark.config import DEFAULTS, RULES, RunConfig
from benchmark.errors import UserError
from benchmark.files import short_digest
from benchmark.record import HISTORY_KEYS, LATENCY_KEYS, NET_KEYS, PROBE_KEYS
from benchmark.schedule import schedule

UNFINISHED = "unfinished"
"""The outcome of a run that has no summary yet."""
STATES = ("before", "after", "after_fresh", "predicted", "actual")
"""The groups of numbers in the row of a cut."""
TABLES = ("runs", "history", "cuts", "kept", "probes", "probe_ranks")
"""The frames of a source, and the files of an archive."""
PROBE_STATES = {
    **dict.fromkeys(("before", "after"), PROBE_KEYS),
    **dict.fromkeys(("predicted", "actual"), ("loss_change", "grad_norm_sq_change")),
}
"""{group of numbers of a cut probe: its keys}"""
PROBES = {"epoch": int, "measure": str, "share": float, "draw": int}
PROBES |= dict.fromkeys(("kept_macs", "seconds"), float)
RANKS = {"epoch": int, "a": str, "b": str, "rho": float}
"""The columns of `Frames.probes`, without its groups of numbers, and of `Frames.probe_ranks`, both
beside `run_id`, and their types."""
KEPT = {"round": int, "layer": int, "conv": str, "kept": int, "original": float}
"""The columns of `Frames.kept` beside `run_id`, and their types."""
CUT = {"round": int, "epoch": int, "seconds": float, "score_seconds": float}
"""The columns of `Frames.cuts` that all runs have, beside `run_id`, and their types."""
AGREEMENT = "agreement."
"""Prefix of the columns of `Frames.cuts` with rank correlations between measures."""


@dataclass(frozen=True)
class Run:
    """The record of one run, from whatever source."""

    config: RunConfig
    history: Sequence[dict]
    cuts: Sequence[dict]
    summary: dict | None
    """None while the run is unfinished."""
    probes: Sequence[dict] = ()
    ranks: Sequence[dict] = ()
    """The rows of `probes.jsonl` and of `probe_ranks.jsonl`."""


@dataclass(frozen=True, eq=False)
class Frames:
    """All runs of a source as tidy frames; `run_id` joins them. They are read, never changed.

    Only finished runs (diverged ones too) have rows in frames other than `runs`.
    """

    source: str
    """Name of the source."""
    runs: pd.DataFrame
    """A row per run: the fields of its canonical configuration, `run_id`, `cell`, `dense_id` (the
    run_id of its dense control), `rules`, `label`, `first_cut` and `last_cut` (epochs; NaN for the
    dense control), `total` (epochs), `outcome`, `<key>/before` and `/after` for filters, parameters
    and MACs, `images` (trained on), `classes`, `data` (digest), `device`, `processor`, `threads`,
    `commit`, `seconds`, `latency/one/before` ... (`record.LATENCY_KEYS`; NaN in records of early
    versions), `versions` (`name version` texts, joined)."""
    history: pd.DataFrame
    """A row per run and epoch: `run_id` and the keys of `history.jsonl` (docs/records.md); NaN
    where a value was not measured."""
    cuts: pd.DataFrame
    """A row per run and cut: `run_id`, `round`, `epoch`, `seconds`, `score_seconds` (NaN if it is
    unknown), `before.loss`,
    `predicted.loss_change` ..., and `agreement.<a>|<b>` for each pair of measures that some run
    recorded."""
    kept: pd.DataFrame
    """A row per run, cut and conv: `run_id`, `round`, `layer` (position of the conv), `conv`,
    `kept` and `original` numbers of filters."""
    probes: pd.DataFrame
    """A row per cut probe: `run_id`, `epoch`, `measure`, `share` (of the filters that is cut),
    `draw`, `kept_macs` (share of the dense net's), `seconds`, `before.loss`, `before.grad_norm`,
    `before.theta_g`, `before.theta_hg`, the same of `after`, and `loss_change` and
    `grad_norm_sq_change` of `predicted` and `actual`; NaN where a value was not measured."""
    probe_ranks: pd.DataFrame
    """A row per run, probed epoch and pair of scores: `run_id`, `epoch`, `a`, `b`, `rho` (their
    rank correlation)."""
    set_aside: tuple[str, ...] = ()
    """A reason for each record that could not be read, and is left out."""

    def only(self, run_ids: Iterable[str]) -> Frames:
        """The same frames, of these runs alone."""
        wanted = set(run_ids)
        parts = {name: getattr(self, name) for name in TABLES}
        chosen = {
            name: part[part["run_id"].isin(wanted)].reset_index(drop=True)
            for name, part in parts.items()
        }
        return replace(self, **chosen)

    def of(self, grid: Sequence[RunConfig] | None) -> Frames:
        """The same frames, of a grid's runs alone (None: all); a run with cut probes stands in for
        the plain dense control. Raises `UserError` if none of them is finished."""
        if grid is None:
            return self
        ids = {config.run_id for config in grid}
        stand_ins = dense_controls(self.finished())
        frames = self.only({*ids, *stand_ins[stand_ins.index.isin(ids)]})
        if frames.finished().empty:
            raise UserError(f"source {self.source} has no finished run of the grid")
        return frames

    def finished(self) -> pd.DataFrame:
        """The rows of `runs` that are finished (diverged and collapsed runs too)."""
        return self.runs[self.runs["outcome"] != UNFINISHED]

    def drawn(self) -> pd.DataFrame:
        """The finished runs without an ablation: those that figures and the page show."""
        finished = self.finished()
        return finished[finished["ablation"] == "none"]

    def digest(self) -> str:
        """A digest (12 hex digits) of the finished runs' ids: equal for equal sets of runs."""
        return short_digest("\n".join(sorted(self.finished()["run_id"])).encode())


def dense_controls(runs: pd.DataFrame) -> pd.Series:
    """{dense_id: run_id} of the dense controls among rows of `Frames.runs`.

    A dense run with cut probes is a control too, under the `dense_id` of the plain one. Finished
    runs count first, and of them the plain one.
    """
    dense = runs[runs["measure"] == "none"]
    order = dense.assign(
        waiting=dense["outcome"] == UNFINISHED, probing=dense["run_id"] != dense["dense_id"]
    )
    order = order.sort_values(["waiting", "probing", "run_id"]).drop_duplicates("dense_id")
    return order.set_index("dense_id")["run_id"]


def least_columns() -> dict[str, set[str]]:
    """The columns that each frame of a source has at least, whatever its runs recorded."""
    empty = to_frames((), (), "")
    columns = {name: set(getattr(empty, name)) for name in TABLES}
    return columns | {"runs": set(_run_row(Run(RunConfig(), (), (), None)))}


def to_frames(runs: Iterable[Run], set_aside: Sequence[str], source: str) -> Frames:
    """The tidy frames of parsed records, from whatever source."""
    rows, histories, cuts, kept, runs = [], [], [], [], list(runs)
    for run in runs:
        run_id = run.config.run_id
        rows.append(_run_row(run))
        histories.extend((run_id, row) for row in run.history)
        cuts.extend(_cut_row(run_id, cut) for cut in run.cuts)
        kept.extend(row for cut in run.cuts for row in _kept_rows(run_id, cut, run.summary))
    return Frames(
        source,
        pd.DataFrame(rows, columns=None if rows else ["run_id", "outcome", *DEFAULTS]),
        _history_frame(histories),
        _cuts_frame(cuts),
        pd.DataFrame(kept, columns=["run_id", *KEPT]).astype(KEPT),
        _probes_frame(runs),
        _joined(runs, "ranks", RANKS),
        tuple(set_aside),
    )


def _run_row(run: Run) -> dict:
    summary = run.summary or {}
    timetable = schedule(run.config)
    cuts = timetable.cuts or (np.nan,)
    net = {
        f"{key}/{when}": summary.get(when, {}).get(key, np.nan)
        for key in NET_KEYS
        for when in ("before", "after")
    }
    return {
        "run_id": run.config.run_id,
        "cell": run.config.cell,
        "dense_id": run.config.dense().run_id,
        "rules": RULES,
        "label": run.config.label,
        **run.config.to_dict(),
        "first_cut": cuts[0],
        "last_cut": cuts[-1],
        "total": timetable.total,
        "outcome": summary.get("outcome", UNFINISHED),
        **net,
        "images": summary.get("samples", {}).get("train", np.nan),
        "classes": summary.get("classes", np.nan),
        **{key: summary.get(key, "") for key in ("data", "device", "processor", "commit")},
        "threads": summary.get("threads", np.nan),
        "seconds": summary.get("seconds", np.nan),
        **{key: _number(summary.get(key)) for key in LATENCY_KEYS},
        "versions": ", ".join(
            f"{name} {version}" for name, version in sorted(summary.get("versions", {}).items())
        ),
    }


def _number(value: float | None) -> float:
    """A number that records of early versions lack."""
    return np.nan if value is None else value


def _cut_row(run_id: str, cut: dict) -> dict:
    agreement = sorted(cut.get("agreement", {}).items())
    return {
        "run_id": run_id,
        **{key: cut.get(key) for key in CUT},
        **{f"{state}.{key}": value for state in STATES for key, value in cut[state].items()},
        **{f"{AGREEMENT}{pair}": value for pair, value in agreement},
    }


def _kept_rows(run_id: str, cut: dict, summary: dict | None) -> list[tuple]:
    original = (summary or {}).get("plan", {}).get("before", {})
    return [
        (run_id, cut["round"], layer, conv, kept, original.get(conv, np.nan))
        for layer, (conv, kept) in enumerate(cut["kept"].items())
    ]


def _history_frame(rows: list[tuple[str, dict]]) -> pd.DataFrame:
    """One array per key; null becomes NaN."""
    columns = {
        key: np.array([row.get(key) for _, row in rows], dtype=float) for key in HISTORY_KEYS
    }
    frame = pd.DataFrame({"run_id": [run_id for run_id, _ in rows], **columns})
    return frame.astype({"epoch": int})


def _cuts_frame(rows: list[dict]) -> pd.DataFrame:
    """Columns are numeric, also where every value is null or there is no row."""
    frame = pd.DataFrame(rows, columns=None if rows else ["run_id", *CUT])
    floats = {name: float for name in frame.columns if "." in name}
    return frame.astype(floats | CUT)


def _probes_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One array per column; null becomes NaN."""
    rows = [row for run in runs for row in run.probes]
    numbers = {
        f"{state}.{key}": np.array([row[state].get(key) for row in rows], dtype=float)
        for state, keys in PROBE_STATES.items()
        for key in keys
    }
    return _joined(runs, "probes", PROBES).assign(**numbers)


def _joined(runs: Sequence[Run], part: str, columns: dict[str, type]) -> pd.DataFrame:
    """These columns of the rows of all runs, after `run_id`."""
    rows = [
        (run.config.run_id, *map(row.get, columns)) for run in runs for row in getattr(run, part)
    ]
    types = {"run_id": str, **columns}
    return pd.DataFrame(rows, columns=list(types)).astype(types)
