"""The settings of runs: what they are called, and which runs are missing.

A *group* is an architecture and a data set; a *setting* is when and how runs are cut, told by the
fields that vary in their group. A *task* is a group and a setting: runs of one task and seed differ
in their measure alone. (A *cell* is a task and a measure, known by a digest of all fields.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.runs.frames import UNFINISHED, Frames, dense_controls
from benchmark.config import DEFAULTS, TRAINED, RunConfig

SHARED = tuple(name for name in DEFAULTS if name not in ("measure", "seed"))
"""The fields that two runs must share to be compared; pairs share their seed too."""
NAMED = ("arch", "dataset", "prune_epoch", "retrain")
"""The fields that the group and the timing tell."""
DENSE = "none"
"""The measure of the dense control."""
SCALE = ["arch", "width", "dataset", "images", "train_limit", "epochs"]
"""The fields that say how large runs are."""
MISSING = ["measure", "arch", "dataset", "timing", "rounds", "ratio", "seed", "run_id", "state"]


def scales(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """{net, width, number of images, data set and epochs, in words: the runs of that scale}"""
    found = {}
    for (arch, width, dataset, images, limit, epochs), part in runs.groupby(
        SCALE, sort=False, dropna=False
    ):
        count = limit if pd.isna(images) else int(images)
        amount = f"{count:,} images" if count else "all images"
        found[f"{arch} at width {width:g} on {amount} of {dataset}, {epochs} epochs"] = part
    return found


@dataclass(frozen=True)
class Completeness:
    """What should be there, and what is."""

    expected: int
    missing: pd.DataFrame
    """A row per expected run that is not finished, with the columns `MISSING`; `state` is missing
    or unfinished."""
    extra: int
    """Finished runs outside the grid."""
    against: str
    """What was expected, in words."""


def completeness(frames: Frames, grid: Sequence[RunConfig] | None = None) -> Completeness:
    """Compare the runs with a grid; without one, expect every cell with every seed."""
    outcomes = dict(zip(frames.runs["run_id"], frames.runs["outcome"], strict=True))
    if grid is None:
        expected = _every_seed(frames.runs)
        against = "every cell that has a run, times every seed that has one"
    else:
        expected = {config.run_id: config.canonical() for config in grid}
        against = "the grid"
    probed = dense_controls(frames.finished())
    used = {id: run_id for id, run_id in probed.items() if id in expected}
    outcomes |= {id: outcomes[run_id] for id, run_id in used.items()}
    rows = [
        {
            **config.to_dict(),
            "timing": timing(config.measure, int(config.prune_epoch), config.retrain),
            "run_id": run_id,
            "state": UNFINISHED if run_id in outcomes else "missing",
        }
        for run_id, config in expected.items()
        if outcomes.get(run_id, UNFINISHED) == UNFINISHED
    ]
    others = outcomes.keys() - expected.keys() - set(used.values())
    extra = sum(outcomes[run_id] != UNFINISHED for run_id in others)
    return Completeness(len(expected), pd.DataFrame(rows, columns=MISSING), extra, against)


def _every_seed(runs: pd.DataFrame) -> dict[str, RunConfig]:
    """{run id: run} of every cell and seed. The cells are those of the records, because other
    versions of the suite named them by other rules."""
    cells = runs.drop_duplicates("cell").set_index("cell")[list(DEFAULTS)].to_dict("index")
    seeds = sorted(runs["seed"].unique().tolist())
    return {
        f"{name}-s{seed}": replace(RunConfig.from_dict(cell), seed=seed)
        for name, cell in cells.items()
        for seed in seeds
    }


def timing(measure: str, prune_epoch: int | str, retrain: str) -> str:
    """When a run is cut, in words."""
    if measure == DENSE:
        return "never cut"
    known = {0: "at initialisation", 1: "after 1 epoch", TRAINED: "after training"}
    when = known.get(prune_epoch, f"after {prune_epoch} epochs")
    return f"{when}, then restart" if retrain == "restart" else when


def named(frames: Frames) -> Frames:
    """The frames with new columns in `runs`, which is sorted by setting: those of
    `name_settings`, and `control` (the run_id of the finished dense control; NaN
    without one)."""
    runs = frames.runs.sort_values([*SHARED, "measure", "seed"], ignore_index=True)
    finished = runs[runs["outcome"] != UNFINISHED]
    control = runs["dense_id"].map(dense_controls(finished))
    return replace(frames, runs=name_settings(runs.assign(control=control)))


def name_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Name each run's setting, in new columns of a table of runs.

    `group`: architecture and data set; `timing`; `setting`: the timing and every other field that
    varies between the pruned runs of the group, or between its dense controls; `task`: group and
    setting.
    """
    times = zip(runs["measure"], runs["prune_epoch"], runs["retrain"], strict=True)
    words = pd.Series([timing(*row) for row in times], runs.index, dtype=object)
    named = runs.assign(group=runs["arch"] + " on " + runs["dataset"], timing=words)
    dense = named["measure"] == DENSE
    settings = named["timing"].where(dense, "cut " + named["timing"])
    for _, part in named.groupby(["group", dense]):
        for name in SHARED:
            if name not in NAMED and part[name].nunique() > 1:
                values = part[name].astype(str).replace("", "none")
                settings.loc[part.index] += f", {name.replace('_', ' ')} " + values
    return named.assign(setting=settings, task=named["group"] + ", " + settings)


def settings_of(runs: pd.DataFrame) -> list[str]:
    """The settings that runs are cut in, in their order; of dense controls alone, theirs."""
    pruned = runs[runs["measure"] != DENSE]
    return (runs if pruned.empty else pruned)["setting"].unique().tolist()
