"""From tidy frames to what can be compared: settings named, gaps listed, runs paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.runs.frames import UNFINISHED, Frames
from benchmark.config import DEFAULTS, TRAINED, RunConfig

TASK = tuple(name for name in DEFAULTS if name not in ("measure", "seed"))
"""The fields that two runs must share to be compared: all but the measure and the seed (which pairs
share too)."""
DENSE = "none"
"""The measure of the dense control."""


@dataclass(frozen=True)
class Completeness:
    """What should be there, and what is."""

    expected: int
    missing: pd.DataFrame
    """A row per expected run that is not finished: `measure`, `arch`, `dataset`, `timing`,
    `rounds`, `ratio`, `seed`, `run_id`, `state` (missing or unfinished)."""
    extra: int
    """Finished runs outside the grid."""
    against: str
    """What was expected, in words."""


def completeness(frames: Frames, grid: Sequence[RunConfig] | None = None) -> Completeness:
    """Compare the runs with a grid, or without one with every cell seen times every seed seen."""
    outcomes = dict(zip(frames.runs["run_id"], frames.runs["outcome"], strict=True))
    if grid is None:
        expected, against = (
            _every_seed(frames.runs),
            "every cell that has a run, times every seed that has one",
        )
    else:
        expected, against = {config.run_id: config.canonical() for config in grid}, "the grid"
    rows = [
        {
            **{name: getattr(config, name) for name in ("measure", "arch", "dataset")},
            "timing": timing(config.measure, int(config.prune_epoch), config.retrain),
            **{name: getattr(config, name) for name in ("rounds", "ratio", "seed")},
            "run_id": run_id,
            "state": UNFINISHED if run_id in outcomes else "missing",
        }
        for run_id, config in expected.items()
        if outcomes.get(run_id, UNFINISHED) == UNFINISHED
    ]
    columns = ("measure", "arch", "dataset", "timing", "rounds", "ratio", "seed", "run_id", "state")
    extra = sum(
        outcome != UNFINISHED and run_id not in expected for run_id, outcome in outcomes.items()
    )
    return Completeness(len(expected), pd.DataFrame(rows, columns=list(columns)), extra, against)


def _every_seed(runs: pd.DataFrame) -> dict[str, RunConfig]:
    cells = runs.drop_duplicates("cell")[list(DEFAULTS)].to_dict("records")
    seeds = sorted(runs["seed"].unique().tolist())
    configs = [replace(RunConfig.from_dict(cell), seed=seed) for cell in cells for seed in seeds]
    return {config.run_id: config for config in configs}


def timing(measure: str, prune_epoch: int | str, retrain: str) -> str:
    """When a run is cut, in words."""
    if measure == DENSE:
        return "never cut"
    known = {0: "at initialisation", 1: "after 1 epoch", TRAINED: "after training"}
    when = known.get(prune_epoch, f"after {prune_epoch} epochs")
    return f"{when}, then restart" if retrain == "restart" else when


def named(frames: Frames) -> Frames:
    """Name each run's setting, in new columns of `runs`, which is sorted by setting.

    `group`: architecture and data set; `timing`; `setting`: the timing and every other field that
    varies between the pruned runs of the group, or between its dense controls; `task`: group and
    setting.
    """
    runs = frames.runs.sort_values([*TASK, "measure", "seed"], ignore_index=True)
    runs["group"] = runs["arch"] + " on " + runs["dataset"]
    runs["timing"] = [
        timing(*row)
        for row in zip(runs["measure"], runs["prune_epoch"], runs["retrain"], strict=True)
    ]
    dense = runs["measure"] == DENSE
    settings = runs["timing"].where(dense, "cut " + runs["timing"])
    for _, part in runs.groupby(["group", dense]):
        for name in TASK:
            if name not in _NAMED and part[name].nunique() > 1:
                settings.loc[part.index] += f", {name.replace('_', ' ')} " + part[name].astype(str)
    runs["setting"] = settings
    runs["task"] = runs["group"] + ", " + runs["setting"]
    return replace(frames, runs=runs)


def settings_of(runs: pd.DataFrame) -> list[str]:
    """The settings that runs are cut in, in their order; of dense controls alone, theirs."""
    pruned = runs[runs["measure"] != DENSE]
    return (runs if pruned.empty else pruned)["setting"].unique().tolist()


_NAMED = ("arch", "dataset", "prune_epoch", "retrain")
INDEX = ["group", "task", "seed"]
"""What tells pairs apart; a task's name says all fields that vary."""


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
    """The measures that each side is the mean of; no right side where runs are taken by
    themselves."""
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
        return {
            task: replace(self, table=part) for task, part in self.table.groupby("task", sort=False)
        }


def pair(table: pd.DataFrame, value: str, left: Sequence[str], right: Sequence[str] = ()) -> Pairs:
    """Pair the runs of two families of measures by task and seed; each side is the mean over its
    measures.

    Without a right side the difference is the left side itself.

    table: what `outcomes.outcomes` gives, of which runs with an ablation are left out. A pair
    counts only if every measure has its run and the run has the value; the others are listed with
    their reason. A measure with runs in under half of the pairs of a group is set aside there (and
    named) rather than costing the rest. A task with one complete seed is dropped if others have
    more: it has no spread of its own.
    """
    used = (table["ablation"] == "none") & table["measure"].isin([*left, *right])
    rows = table.loc[used, [*INDEX, "measure", "outcome", value]]
    parts = {
        group: _pair_group(part, value, left, right)
        for group, part in rows.groupby("group", sort=False)
    }
    parts = parts or {"": _pair_group(rows, value, left, right)}
    pairs, dropped = (
        pd.concat([getattr(part, name) for part in parts.values()]) for name in ("table", "dropped")
    )
    seeds = pairs.groupby("task")["seed"].transform("size")
    if len(pairs) and seeds.max() > 1:
        alone = pairs[seeds == 1][INDEX].assign(reason="only one complete seed in this setting")
        pairs, dropped = pairs[seeds > 1], pd.concat([dropped, alone]) if len(alone) else dropped
    left = tuple(name for name in left if any(name in part.left for part in parts.values()))
    right = tuple(name for name in right if any(name in part.right for part in parts.values()))
    present = rows.groupby("group")["measure"].agg(set)
    parts = {
        group: _without(part, present.get(group, set()), (*left, *right))
        for group, part in parts.items()
    }
    return Pairs(
        pairs.reset_index(drop=True), dropped.reset_index(drop=True), left, right, _notes(parts)
    )


def _without(part: Pairs, present: set[str], used: Sequence[str]) -> Pairs:
    """The pairs of a group, with a note on the measures that others have in theirs and of which it
    has no run."""
    absent = [name for name in used if name not in present]
    noted = bool(absent) and len(part.table) > 0
    return replace(part, notes=(*part.notes, f"no run of {' or '.join(absent)}")) if noted else part


def _notes(parts: dict[str, Pairs]) -> tuple[str, ...]:
    """The notes of all groups; one that not all of them have says whose it is."""
    groups_of: dict[str, list[str]] = {}
    for group, part in parts.items():
        for note in part.notes:
            groups_of.setdefault(note, []).append(group)
    return tuple(
        note if len(groups) == len(parts) else f"{note} ({', '.join(groups)})"
        for note, groups in groups_of.items()
    )


def _pair_group(rows: pd.DataFrame, value: str, left: Sequence[str], right: Sequence[str]) -> Pairs:
    """The pairs of one group."""
    by_measure, order = (
        rows.set_index([*INDEX, "measure"]),
        pd.MultiIndex.from_frame(rows[INDEX].drop_duplicates()),
    )
    values, states = (
        by_measure[name].unstack("measure").reindex(order) for name in (value, "outcome")
    )
    wanted, (left, right, notes) = bool(right), _sides(states, left, right)
    if not left or bool(right) != wanted:
        return Pairs(_pairs_frame([]), _dropped_frame([]), left, right, notes)
    used = [*left, *right]
    good, bad = [], []
    complete = values[used].notna().all(axis=1)
    for key, row, states_row, whole in zip(
        values.index, values[used].to_numpy(), states[used].to_numpy(), complete, strict=True
    ):
        if whole:
            sides = row[: len(left)].mean(), row[len(left) :].mean() if right else 0.0
            good.append((*key, *sides, sides[0] - sides[1]))
        else:
            bad.append((*key, _reason(used, row, states_row)))
    return Pairs(_pairs_frame(good), _dropped_frame(bad), left, right, notes)


def _sides(
    states: pd.DataFrame, left: Sequence[str], right: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The measures of each side that take part, and notes on those that do not."""
    share = states.notna().mean()
    sides, notes = [], []
    for names in (left, right):
        present = [name for name in names if share.get(name, 0) > 0]
        if names and not present:
            notes.append(f"no finished run of {' or '.join(names)}")
        enough = [name for name in present if share[name] >= 0.5] or present
        notes += [f"{name} is set aside: it has runs in only {share[name]:.0%} of the pairs" for name in present
                  if name not in enough]  # fmt: skip
        sides.append(tuple(enough))
    return sides[0], sides[1], tuple(notes)


def _reason(measures: Sequence[str], values: np.ndarray, states: np.ndarray) -> str:
    reasons = []
    for measure, value, state in zip(measures, values, states, strict=True):
        if pd.isna(state):
            reasons.append(f"{measure} missing")
        elif np.isnan(value):
            reasons.append(
                f"{measure} {state if state != 'finished' else 'without a finite value'}"
            )
    return ", ".join(reasons)


def _pairs_frame(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["group", "task", "seed", "left", "right", "difference"])


def _dropped_frame(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["group", "task", "seed", "reason"])
