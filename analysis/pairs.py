"""Pairs of runs: which runs are compared with which, and which could not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from benchmark.record import FINISHED

INDEX = ["group", "task", "seed"]
"""The columns that tell pairs apart; the name of a task holds every field that varies."""


@dataclass(frozen=True)
class Pairs:
    """Runs of the same task and seed, one side against the other."""

    table: pd.DataFrame
    """A row per complete pair: `group`, `task`, `seed`, `left`, `right` (0 without a right side),
    `difference`."""
    dropped: pd.DataFrame
    """A row per pair that cannot be used: `group`, `task`, `seed`, `reason`."""
    left: tuple[str, ...]
    right: tuple[str, ...]
    """The measures that each side is the mean of; no right side if the numbers of the left side
    count by themselves."""
    notes: tuple[str, ...] = ()
    """What else a reader must know: measures without runs or set aside."""

    def differences(self) -> list[np.ndarray]:
        """The differences as one array [seeds] per task."""
        return [task.to_numpy() for _, task in self.table.groupby("task", sort=False)["difference"]]

    def groups(self) -> list[str]:
        """All groups that have a pair, complete or not."""
        return sorted({*self.table["group"], *self.dropped["group"]})

    def of(self, group: str) -> Pairs:
        """The pairs of one architecture and data set."""
        table, dropped = (part[part["group"] == group] for part in (self.table, self.dropped))
        return replace(self, table=table, dropped=dropped)

    def by_task(self) -> dict[str, Pairs]:
        """The complete pairs of each task."""
        parts = self.table.groupby("task", sort=False)
        return {task: replace(self, table=part) for task, part in parts}


def pair(table: pd.DataFrame, value: str, left: Sequence[str], right: Sequence[str] = ()) -> Pairs:
    """Pair the runs of two families of measures by task and seed; each side is the mean over its
    measures.

    Without a right side the difference is the left side itself.

    table: what `outcomes.outcomes` gives; runs with an ablation are left out. A pair counts only if
    every measure has its run and the run has the value; the others are listed with their reason. A
    measure with runs in under half of the pairs of a group is set aside there (and named), so that
    it does not cost the other pairs. `without_single_seeds` says which tasks are dropped.
    """
    used = (table["ablation"] == "none") & table["measure"].isin([*left, *right])
    rows = table.loc[used, [*INDEX, "measure", "outcome", value]]
    parts = dict(iter(rows.groupby("group", sort=False))) or {"": rows}
    parts = {group: _pair_group(part, value, left, right) for group, part in parts.items()}
    everything = replace(
        next(iter(parts.values())),
        table=pd.concat([part.table for part in parts.values()], ignore_index=True),
        dropped=pd.concat([part.dropped for part in parts.values()], ignore_index=True),
        left=tuple(name for name in left if any(name in part.left for part in parts.values())),
        right=tuple(name for name in right if any(name in part.right for part in parts.values())),
    )
    notes = {group: part.notes for group, part in parts.items()}
    for group, part in parts.items():
        present = set(rows.loc[rows["group"] == group, "measure"])
        absent = [name for name in (*everything.left, *everything.right) if name not in present]
        if absent and len(part.table):
            notes[group] += (f"no run of {' or '.join(absent)}",)
    return without_single_seeds(replace(everything, notes=_joined(notes)))


def without_single_seeds(pairs: Pairs) -> Pairs:
    """Drop tasks with one complete seed, which have no spread, if other tasks have more."""
    seeds = pairs.table.groupby("task")["seed"].transform("size")
    if not (seeds > 1).any() or not (seeds == 1).any():
        return pairs
    reason = "only one complete seed in this setting"
    single = pairs.table.loc[seeds == 1, INDEX].assign(reason=reason)
    dropped = pd.concat([pairs.dropped, single], ignore_index=True)
    return replace(pairs, table=pairs.table[seeds > 1].reset_index(drop=True), dropped=dropped)


def _joined(notes: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The notes of all groups; a note that some groups lack names the groups that have it."""
    groups_of: dict[str, list[str]] = {}
    for group, texts in notes.items():
        for note in texts:
            groups_of.setdefault(note, []).append(group)
    return tuple(
        note if len(groups) == len(notes) else f"{note} ({', '.join(groups)})"
        for note, groups in groups_of.items()
    )


def _pair_group(rows: pd.DataFrame, value: str, left: Sequence[str], right: Sequence[str]) -> Pairs:
    """The pairs of one group."""
    by_measure = rows.set_index([*INDEX, "measure"])
    order = pd.MultiIndex.from_frame(rows[INDEX].drop_duplicates())
    values, states = (
        by_measure[name].unstack("measure").reindex(order) for name in (value, "outcome")
    )
    (ours, our_notes), (theirs, their_notes) = (_enough(states, side) for side in (left, right))
    if not ours or bool(theirs) != bool(right):
        values, states = values[:0], states[:0]  # without one of its sides there is no pair
    used = [*ours, *theirs]
    whole = values[used].notna().all(axis=1)
    table = pd.DataFrame(index=values.index[whole])
    table["left"] = values.loc[whole, list(ours)].mean(axis=1)
    table["right"] = values.loc[whole, list(theirs)].mean(axis=1) if theirs else 0.0
    table["difference"] = table["left"] - table["right"]
    lacking = zip(
        values.loc[~whole, used].to_numpy(), states.loc[~whole, used].to_numpy(), strict=True
    )
    dropped = pd.DataFrame(index=values.index[~whole])
    dropped["reason"] = [_reason(used, *row) for row in lacking]
    return Pairs(table.reset_index(), dropped.reset_index(), ours, theirs, our_notes + their_notes)


def _enough(
    states: pd.DataFrame, measures: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The measures of a side that have runs in half of the pairs, and notes on the others."""
    shares = states.notna().mean().reindex(measures, fill_value=0)
    present = shares[shares > 0]
    if present.empty:
        return (), (f"no finished run of {' or '.join(measures)}",) * bool(measures)
    enough = present[present >= 0.5] if (present >= 0.5).any() else present
    notes = (
        f"{name} is set aside: it has runs in only {share:.0%} of the pairs"
        for name, share in present.drop(enough.index).items()
    )
    return tuple(enough.index), tuple(notes)


def _reason(measures: Sequence[str], values: np.ndarray, states: np.ndarray) -> str:
    """Why a pair is not complete."""
    reasons = []
    for measure, value, state in zip(measures, values, states, strict=True):
        if pd.isna(state):
            reasons.append(f"{measure} missing")
        elif np.isnan(value):
            unknown = "without a finite value" if state == FINISHED else state
            reasons.append(f"{measure} {unknown}")
    return ", ".join(reasons)
