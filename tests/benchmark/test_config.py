import dataclasses
import json
from pathlib import Path

import pytest

from benchmark.config import DEFAULTS, LABELLED, RunConfig, stream_seed
from benchmark.errors import UserError
from benchmark.run import run

PINNED = json.loads((Path(__file__).parent / "identities.json").read_text())


@pytest.mark.parametrize("pin", PINNED, ids=lambda pin: pin["run_id"])
def test_identities_are_pinned(pin):
    """Run folders and W&B ids must keep their names: a changed default or digest is a broken
    archive."""
    assert RunConfig(**pin["fields"]).run_id == pin["run_id"]


def test_every_field_changes_the_identity():
    other = {
        "measure": "loss", "arch": "resnet56", "dataset": "cifar10", "width": 0.5, "ratio": 0.5,
        "prune_epoch": 3, "rounds": 5, "retrain": "restart", "ablation": "invert",
        "protocol": "paper", "cut_momentum": "carry", "epochs": 80, "batch_size": 64, "lr": 0.05,
        "momentum": 0.8, "weight_decay": 0.0, "temperature": 1.0, "score_samples": 100,
        "probe_samples": 100, "precision": "bf16", "train_limit": 500, "seed": 1,
        "score_bn": "running", "test_limit": 100, "budget": "macs", "allocation": "uniform",
        "grouping": "stream", "probe_epochs": "1", "init": "0123456789ab",
        "sampling": "gibbs", "removal": "soft",
    }  # fmt: skip
    assert set(other) == set(DEFAULTS)
    del other["probe_epochs"]  # of dense runs alone
    base = RunConfig(prune_epoch=2, rounds=2)  # retrain, sampling and removal matter only then
    ids = {dataclasses.replace(base, **{name: value}).run_id for name, value in other.items()}
    assert len(ids | {base.run_id}) == len(other) + 1


def test_seed_is_not_part_of_the_cell():
    assert RunConfig(seed=1).cell == RunConfig(seed=2).cell
    assert RunConfig(seed=1).run_id == RunConfig().cell + "-s1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"measure": "none", "rounds": 5, "ratio": 0.3, "prune_epoch": 7}, {"measure": "none"}),
        ({"prune_epoch": "trained"}, {"prune_epoch": 160, "retrain": "restart"}),
        (
            {"prune_epoch": "trained", "epochs": 20},
            {"prune_epoch": 20, "retrain": "restart", "epochs": 20},
        ),
        ({"retrain": "restart"}, {"retrain": "budget"}),
        ({"width": 1}, {"width": 1.0}),
        ({"protocol": "paper"}, {"protocol": "paper", "score_bn": "running"}),
        ({"measure": "none", "score_bn": "running"}, {"measure": "none"}),
        ({"measure": "none", "budget": "macs", "grouping": "stream"}, {"measure": "none"}),
        ({"allocation": "magnitude"}, {}),
        ({"sampling": "gibbs"}, {}),  # the last round has no noise
        ({"removal": "soft"}, {}),  # the last round removes
    ],
)
def test_equal_runs_have_equal_ids(one, other):
    assert RunConfig(**one).run_id == RunConfig(**other).run_id
    assert RunConfig(**one).canonical() == RunConfig(**other).canonical()


@pytest.mark.parametrize("also", [{"ablation": "invert"}, {"sampling": "gibbs", "rounds": 2}])
def test_the_layers_of_magnitude_matter_where_its_ranking_is_not_its_own(also):
    one, other = (RunConfig(allocation=name, **also) for name in ("magnitude", "global"))
    assert one.measure == "magnitude"
    assert one.run_id != other.run_id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": 4, "epochs": 3}, "rounds must be at most epochs = 3, got 4"),
        ({"arch": "vgg13 a"}, "arch must be the name of a component, got 'vgg13 a'"),
        ({"measure": "loss:x"}, "measure must be the name of a component, got 'loss:x'"),
        ({"measure": ""}, "measure must be the name of a component, got ''"),
        (
            {"dataset": "folder:" + 5000 * "x"},
            "dataset must be the name of a component, got 'folder:xx",
        ),
        ({"ratio": 1.5}, "ratio must be between 0 and 1, both excluded, got 1.5"),
        ({"ratio": float("nan")}, "ratio must be finite"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"rounds": True}, "rounds must be a whole number, got True"),
        ({"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"prune_epoch": 160}, "prune_epoch must be from 0 to epochs - rounds = 159"),
        ({"prune_epoch": 161, "retrain": "restart"}, "prune_epoch must be from 0 to epochs = 160"),
        ({"prune_epoch": "late"}, "prune_epoch must be a whole number or 'trained', got 'late'"),
        ({"retrain": "never"}, "retrain must be one of budget, restart, got 'never'"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"precision": "int4"}, "precision must be one of float32, tf32, bf16"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        RunConfig(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"measure": "gravity"}, "measure must be one of activation_mean"),
        (
            {"measure": "cosine@0123456789ab"},
            "measure cosine@0123456789ab is not here: give its file, --measure cosine.py",
        ),
        ({"arch": "vgg13:a"}, "arch must be one of .*, got 'vgg13:a'"),
        ({"arch": "vgg99"}, "arch must be one of mobilenet_v1"),
        ({"dataset": "imagenet"}, "dataset must be one of cifar10"),
    ],
)
def test_components_need_not_be_installed_until_a_run_begins(fields, message, options):
    config = RunConfig(**fields)
    assert RunConfig.from_dict(config.to_dict()).run_id == config.run_id
    with pytest.raises(UserError, match=message):
        config.check_components()
    with pytest.raises(UserError, match=message):
        run(config, options)
    assert not options.runs.exists()


def test_from_dict_round_trip_and_unknown_field():
    config = RunConfig(measure="loss", seed=3)
    assert RunConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UserError, match="unknown field 'sead'"):
        RunConfig.from_dict({"sead": 3})


def test_streams_depend_on_what_they_name_alone():
    a, b = RunConfig(measure="loss"), RunConfig(measure="grasp", rounds=5)
    assert stream_seed("init", a, "arch", "width") == stream_seed("init", b, "arch", "width")
    assert stream_seed("measure", a, "measure") != stream_seed("measure", b, "measure")
    others = [stream_seed("order", a), stream_seed("order", a, epoch=1), stream_seed("init", a)]
    others.append(stream_seed("order", RunConfig(seed=1)))
    assert len(set(others)) == 4
    assert all(0 <= seed < 2**63 for seed in others)


def test_the_label_shows_the_fields_that_it_is_said_to_show():
    """The grids' tables add the others."""
    other = {
        "measure": "loss", "arch": "resnet20", "dataset": "cifar10", "ratio": 0.5, "budget": "macs",
        "allocation": "uniform", "grouping": "stream", "sampling": "gibbs", "removal": "soft",
        "prune_epoch": 3, "rounds": 3, "seed": 1, "epochs": 20, "width": 0.5, "retrain": "restart",
        "ablation": "invert", "cut_momentum": "carry", "batch_size": 8, "score_bn": "running",
    }  # fmt: skip
    base = RunConfig(prune_epoch=2, rounds=2)
    changing = {
        f for f, v in other.items() if dataclasses.replace(base, **{f: v}).label != base.label
    }
    assert changing | {"probe_epochs"} == set(LABELLED)
    dense = RunConfig(measure="none")
    assert dataclasses.replace(dense, probe_epochs="1").label != dense.label
