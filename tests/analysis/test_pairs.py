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
    assert (len(pairs.table), len(pairs.dropped), pairs.differences().shape) == (6, 0, (2, 3))
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
    assert pairs.dropped["reason"].tolist() == ["too few complete seeds in this setting: 1"]


def test_settings_with_fewer_than_five_seeds_are_dropped_beside_fuller_ones(tmp_path):
    configs = simulate.grid(seeds=range(5))
    few = [c for c in configs if c.prune_epoch == 4 and c.seed > 2]
    frames = frames_of(tmp_path, [c for c in configs if c not in few])
    pairs = pair(outcomes(frames), "final_accuracy", ["magnitude"], ["loss"])
    assert len(pairs.table) == 5
    assert pairs.dropped["reason"].tolist() == ["too few complete seeds in this setting: 3"] * 3


def test_settings_with_the_same_seeds_are_a_block(tmp_path):
    configs = [*simulate.grid(seeds=range(6)), *simulate.grid(archs=["resnet56"], seeds=range(5))]
    pairs = pair(outcomes(frames_of(tmp_path, configs)), "final_accuracy", ["magnitude"], ["loss"])
    assert sorted(len(block.table) for block in pairs.blocks()) == [10, 12]
    assert pairs.differences().shape == (4, 6)


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


def test_every_measure_of_a_pair_must_be_there(tmp_path):
    few = simulate.grid(measures=["magnitude", "loss"], archs=["vgg13"])
    many = simulate.grid(measures=["magnitude", "loss", "grasp"], archs=["resnet20"])
    table = outcomes(frames_of(tmp_path, [*few, *many]))
    pairs = pair(table, "final_accuracy", ["magnitude"], ["loss", "grasp"])
    assert set(pairs.table["group"]) == {"resnet20 on digits"}
    assert pairs.dropped["reason"].tolist() == ["grasp missing"] * 6
    assert pairs.groups() == ["resnet20 on digits", "vgg13 on digits"]
    nothing = pair(table, "final_accuracy", ["l1"], ["fisher"])
    assert (len(nothing.table), len(nothing.dropped)) == (0, 0)
