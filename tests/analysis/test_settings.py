"""Gaps are listed, settings named, and outcomes are the numbers of records."""

import numpy as np
import pytest

from analysis.outcomes import outcomes
from analysis.report.build import build
from analysis.runs.load import load
from analysis.settings import completeness, named
from benchmark.config import RunConfig
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


def test_a_probed_run_that_is_a_control_of_the_grid_is_not_outside_it(tmp_path):
    probed = RunConfig(measure="none", probe_epochs="1", epochs=10)
    frames = frames_of(tmp_path, [probed])
    whole = completeness(frames, [RunConfig(measure="none", epochs=10)])
    assert (whole.expected, whole.extra, len(whole.missing)) == (1, 0, 0)


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


def test_a_probed_run_is_the_dense_control_too(tmp_path):
    pruned = simulate.grid(measures=["loss"], dense=False)
    probed = simulate.grid(measures=["none"], probe_epochs="1,8", dense=False)
    frames = frames_of(tmp_path / "probed", [*pruned, *probed])
    found = named(frames).runs.set_index("run_id")
    wanted = {config.seed: config.run_id for config in probed}
    assert all(found["control"] == found["seed"].map(wanted))
    assert outcomes(frames)["threshold"].notna().all()
    whole = completeness(frames, simulate.grid(measures=["loss"]))
    assert (whole.expected, len(whole.missing)) == (9, 0)
    plain = simulate.grid(measures=["none"])
    both = frames_of(tmp_path / "both", [*pruned, *probed, *plain])
    assert set(named(both).runs["control"]) == {config.run_id for config in plain}


def test_a_control_that_is_not_finished_is_none(tmp_path):
    configs = simulate.grid(measures=["magnitude", "random"], timings=[4], seeds=[0, 1])
    pruned = [config for config in configs if config.measure != "none"]
    waiting = [config for config in configs if config.measure == "none"]
    frames_of(tmp_path, pruned)
    simulate.simulate(tmp_path, waiting, finished=False)
    frames = named(load(str(tmp_path)))
    assert frames.finished()["control"].isna().all()
    build(str(tmp_path), tmp_path / "report")
    assert (tmp_path / "report" / "index.html").exists()
