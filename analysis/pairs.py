"""Pairs of runs: which runs are compared with which, and which could not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from benchmark.record import FINISHED

SEEDS = 5
"""Fewer seeds give an interval, but no verdict."""
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
    before: Pairs | None = None
    """The pairs before tasks with too few seeds were dropped, if some were."""

    def differences(self) -> np.ndarray:
        """The differences [tasks, seeds], NaN where a pair is missing."""
        tasks = self.table["task"].drop_duplicates()
        values = self.table.pivot(index="task", columns="seed", values="difference")
        return values.reindex(tasks).to_numpy(dtype=float)

    def blocks(self) -> list[Pairs]:
        """The tasks that have the same complete seeds, together."""
        seeds = self.table.groupby("task")["seed"].transform(lambda own: str(sorted(own)))
        parts = self.table.groupby(seeds, sort=False)
        return [replace(self, table=part, before=None) for _, part in parts]

    def groups(self) -> list[str]:
        """All groups that have a pair, complete or not."""
        return sorted({*self.table["group"], *self.dropped["group"]})

    def of(self, group: str) -> Pairs:
        """The pairs of one architecture and data set, as if there were no other."""
        whole = self.before or self
        table, dropped = (part[part["group"] == group] for part in (whole.table, whole.dropped))
        return with_enough_seeds(replace(whole, table=table, dropped=dropped))

    def by_task(self) -> dict[str, Pairs]:
        """The complete pairs of each task, of those with few seeds too."""
        whole = self.before or self
        parts = whole.table.groupby("task", sort=False)
        return {task: replace(whole, table=part) for task, part in parts}


def pair(table: pd.DataFrame, value: str, left: Sequence[str], right: Sequence[str] = ()) -> Pairs:
    """Pair the runs of two families of measures by task and seed; each side is the mean over its
    measures.

    Without a right side the difference is the left side itself.

    table: a row per run and measure, such as `outcomes.outcomes` gives; rows with an ablation are
    left out. A pair counts only if every measure has its run and the run has the value; the others
    are listed with their reason. `with_enough_seeds` says which tasks are dropped.
    """
    measures = [*left, *right]
    used = (table["ablation"] == "none") & table["measure"].isin(measures)
    rows = table.loc[used, [*INDEX, "measure", "outcome", value]]
    by_measure = rows.set_index([*INDEX, "measure"])
    order = pd.MultiIndex.from_frame(rows[INDEX].drop_duplicates())
    values, states = (
        by_measure[name].unstack("measure").reindex(index=order, columns=measures)
        for name in (value, "outcome")
    )
    whole = values.notna().all(axis=1)
    complete = pd.DataFrame(index=values.index[whole])
    complete["left"] = values.loc[whole, [*left]].mean(axis=1)
    complete["right"] = values.loc[whole, [*right]].mean(axis=1) if right else 0.0
    complete["difference"] = complete["left"] - complete["right"]
    lacking = zip(values[~whole].to_numpy(), states[~whole].to_numpy(), strict=True)
    dropped = pd.DataFrame(index=values.index[~whole])
    dropped["reason"] = [_reason(measures, *row) for row in lacking]
    pairs = Pairs(complete.reset_index(), dropped.reset_index(), tuple(left), tuple(right))
    return with_enough_seeds(pairs)


def with_enough_seeds(pairs: Pairs, steps: Sequence[int] = (SEEDS, 2)) -> Pairs:
    """Drop tasks with fewer complete seeds than the first of the steps that some task reaches."""
    seeds = pairs.table.groupby("task")["seed"].transform("size")
    least = next((step for step in steps if (seeds >= step).any()), 0)
    few = seeds < least
    if not few.any():
        return pairs
    reason = "too few complete seeds in this setting: " + seeds[few].astype(str)
    left_out = pairs.table.loc[few, INDEX].assign(reason=reason)
    dropped = pd.concat([pairs.dropped, left_out], ignore_index=True)
    table = pairs.table[~few].reset_index(drop=True)
    return replace(pairs, table=table, dropped=dropped, before=pairs)


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
