"""Only complete pairs are compared, and the others are listed."""

import pytest

from analysis.outcomes import outcomes
from analysis.pairs import pair
from analysis.runs.load import load
from tests.support import simulate
from tests.support.simulate import World


def frames_of(path, configs, world=None):
    simulate.simulate(path, configs, world)
    return load(str(path))


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
        "grasp is set aside: it has runs in only 33% of the pairs "
        "(resnet20 on digits, resnet56 on digits)",
        "no run of l1 (vgg13 on digits)",
    )
