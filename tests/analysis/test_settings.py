"""Gaps are listed, settings named, and only complete pairs compared."""

import numpy as np
import pytest

from analysis.outcomes import outcomes
from analysis.pairs import pair
from analysis.runs.load import load
from analysis.settings import completeness, named
from tests.support import simulate
from tests.support.simulate import World


def frames_of(path, configs, world=None):
    simulate.simulate(path, configs, world)
    return load(str(path))


def test_a_full_grid_lacks_nothing(tmp_path):
    configs = simulate.grid()
    frames = frames_of(tmp_path, configs)
    for grid in (None, configs):
        whole = completeness(frames, grid)
        assert (whole.expected, len(whole.missing), whole.extra) == (33, 0, 0)


def test_missing_runs_are_named(tmp_path):
    configs = simulate.grid()
    gone = next(c for c in configs if (c.measure, c.prune_epoch, c.seed) == ("grasp", 4, 1))
    cell = [c for c in configs if (c.measure, c.prune_epoch) == ("loss", 0)]
    waiting = next(c for c in configs if c.measure == "random")
    frames_of(tmp_path, [c for c in configs if c not in (gone, waiting, *cell)])
    simulate.simulate(tmp_path, [waiting], finished=False)
    frames = load(str(tmp_path))
    seen = completeness(frames).missing
    assert set(seen["run_id"]) == {gone.run_id, waiting.run_id}
    whole = completeness(frames, configs)
    assert set(whole.missing["run_id"]) == {gone.run_id, waiting.run_id, *(c.run_id for c in cell)}
    row = whole.missing.set_index("run_id").loc[gone.run_id]
    assert row[["measure", "timing", "seed", "state"]].tolist() == [
        "grasp",
        "after 4 epochs",
        1,
        "missing",
    ]
    assert whole.missing.set_index("run_id").loc[waiting.run_id, "state"] == "unfinished"


def test_runs_outside_the_grid_are_counted(tmp_path):
    configs = simulate.grid()
    frames = frames_of(tmp_path, configs)
    whole = completeness(frames, [c for c in configs if c.measure != "random"])
    assert (whole.extra, len(whole.missing)) == (6, 0)


def test_settings_are_named_by_what_varies(tmp_path):
    configs = simulate.grid(measures=["loss"], timings=[0, "trained"], rounds=[1, 2], seeds=[0])
    runs = named(frames_of(tmp_path, configs)).runs
    assert set(runs["group"]) == {"vgg13 on digits"}
    assert set(runs["setting"]) == {
        "never cut",
        "cut at initialisation, rounds 1",
        "cut at initialisation, rounds 2",
        "cut after 10 epochs, then restart, rounds 1",
        "cut after 10 epochs, then restart, rounds 2",
    }


def test_outcomes_are_the_numbers_of_the_record(tmp_path):
    configs = simulate.grid(measures=["grasp"], timings=[4], seeds=[0], dense=False)
    frames = frames_of(tmp_path, configs, World(growth={"grasp": 2}))
    row = outcomes(frames).loc[configs[0].run_id]
    history = frames.history.set_index("epoch")
    assert row["loss_after_cut"] == pytest.approx(history.loc[5:, "train/loss"].mean())
    assert row["final_accuracy"] == history.loc[10, "test/accuracy"]
    assert row["grad_norm_change"] == pytest.approx(np.log10(frames.cuts["after.grad_norm"].item()))
    assert row["loss_change"] == pytest.approx(frames.cuts["actual.loss_change"].item())


def test_a_diverged_run_has_no_outcome_and_drops_its_pair(tmp_path):
    frames = frames_of(tmp_path, simulate.grid(), World(diverged=("grasp",)))
    table = outcomes(frames)
    assert (
        table.loc[table["measure"] == "grasp", ["loss_after_cut", "final_accuracy"]]
        .isna()
        .all(axis=None)
    )
    pairs = pair(table, "final_accuracy", ["grad_preservation"], ["grasp"])
    assert len(pairs.table) == 0
    assert set(pairs.dropped["reason"]) == {"grasp diverged"}


def test_pairs_share_setting_and_seed(tmp_path):
    table = outcomes(frames_of(tmp_path, simulate.grid()))
    pairs = pair(table, "final_accuracy", ["magnitude"], ["loss", "grasp"])
    assert (len(pairs.table), len(pairs.dropped), len(pairs.differences())) == (6, 0, 2)
    row = pairs.table.iloc[0]
    runs = table[(table["task"] == row["task"]) & (table["seed"] == row["seed"])].set_index(
        "measure"
    )["final_accuracy"]
    assert row["difference"] == pytest.approx(
        runs["magnitude"] - (runs["loss"] + runs["grasp"]) / 2
    )


def test_an_incomplete_pair_is_dropped_and_reported(tmp_path):
    configs = simulate.grid()
    gone = next(c for c in configs if (c.measure, c.prune_epoch, c.seed) == ("loss", 4, 1))
    table = outcomes(frames_of(tmp_path, [c for c in configs if c is not gone]))
    pairs = pair(table, "final_accuracy", ["magnitude"], ["loss"])
    assert len(pairs.table) == 5
    assert pairs.dropped[["seed", "reason"]].values.tolist() == [[1, "loss missing"]]


def test_a_setting_with_one_seed_is_dropped_beside_fuller_ones(tmp_path):
    configs = simulate.grid()
    lonely = [c for c in configs if c.prune_epoch == 4 and c.seed > 0]
    frames = frames_of(tmp_path, [c for c in configs if c not in lonely])
    pairs = pair(outcomes(frames), "final_accuracy", ["magnitude"], ["loss"])
    assert len(pairs.table) == 3
    assert pairs.dropped["reason"].tolist() == ["only one complete seed in this setting"]


def test_a_stray_run_of_another_measure_does_not_cost_the_pairs(tmp_path):
    configs = simulate.grid()
    table = outcomes(
        frames_of(tmp_path, [c for c in configs if c.measure != "random" or c.seed == 0])
    )
    pairs = pair(table, "final_accuracy", ["magnitude"], ["loss", "random"])
    assert (len(pairs.table), pairs.right) == (6, ("loss",))
    assert "random is set aside" in pairs.notes[0]


def test_ablations_take_no_part(tmp_path):
    plain = simulate.grid(measures=["magnitude", "loss"], timings=[0])
    shuffled = simulate.grid(
        measures=["magnitude", "loss"], timings=[0], ablation="layer_shuffle", dense=False
    )
    pairs = pair(
        outcomes(frames_of(tmp_path, [*plain, *shuffled])),
        "final_accuracy",
        ["magnitude"],
        ["loss"],
    )
    assert len(pairs.table) == 3


def test_a_group_is_paired_as_it_would_be_alone(tmp_path):
    """Which measures take part is decided in each group: others may have more of them, or fewer."""
    few, many = ["magnitude", "loss"], ["magnitude", "l1", "loss", "grasp"]
    first = simulate.grid(measures=few, archs=["vgg13"])
    second = simulate.grid(measures=many, archs=["resnet20", "resnet56"])
    table = outcomes(frames_of(tmp_path, [*first, *second]))
    sides = ("magnitude", "l1"), ("loss", "grasp")
    together = pair(table, "final_accuracy", *sides)
    assert (together.left, together.right) == sides
    assert together.dropped.empty
    for group, rows in table.groupby("group"):
        alone = pair(rows, "final_accuracy", *sides)
        assert (
            together.of(group).table["difference"].tolist()
            == alone.table["difference"].tolist()
            != []
        )
    thin = pair(table[table["seed"].eq(0) | table["measure"].ne("grasp")], "final_accuracy", *sides)
    assert thin.notes == (
        "grasp is set aside: it has runs in only 33% of the pairs (resnet20 on digits, resnet56 on digits)",
        "no run of l1 (vgg13 on digits)",
    )
