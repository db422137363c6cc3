"""Mistakes of users and damaged files: each ends in one line that names the cause, and exit status
2."""

import contextlib
import json
import zlib

import numpy as np
import pytest
import yaml

from benchmark import data
from benchmark.config import RULES, RunConfig
from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.record import Record
from sweeps.grid import load
from tests.benchmark.test_cli import FLAGS
from tests.benchmark.test_data import cut_short, pixels, write_npz, write_pickles
from tests.support import simulate
from tests.support.commands import command, refusal

QUIET = ["--wandb", "disabled", "--device", "cpu"]


def refused(module, *arguments):
    return refusal(command(module, *arguments))


@pytest.fixture
def record(tmp_path):
    """The record of a finished run of eight epochs and two cuts."""
    config = RunConfig(measure="loss", epochs=8, prune_epoch=2, rounds=2, ratio=0.5)
    simulate.simulate(tmp_path / "runs", [config])
    return Record(tmp_path / "runs" / config.run_id)


def grid_of(path, **parameters):
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    return path


def flags_of(config):
    return [f"--{name}={value}" for name, value in config.to_dict().items()]


def test_a_folder_with_another_runs_configuration(record, tmp_path):
    config, other = record.config(), RunConfig(measure="grasp", seed=3)
    write_json(record.config_file, {"rules": RULES, **other.to_dict()})
    grid = grid_of(
        tmp_path / "g.yaml", **{name: {"value": value} for name, value in config.to_dict().items()}
    )
    said = (
        f"run folder {record.folder} holds the configuration of another run, "
        f"{other.run_id} ({other.label})"
    )
    assert refused("analysis", record.folder.parent).startswith(said)
    assert refused("sweeps", "status", grid, "--runs", record.folder.parent).startswith(said)
    record.summary_file.unlink()
    assert refused(
        "benchmark", *flags_of(config), *QUIET, "--runs", record.folder.parent
    ).startswith(said)
    assert record.config() == other


def test_a_run_of_flowprune_0_1_is_refused(record):
    write_json(record.config_file, {**record.config().to_dict()})
    made = "was made by flowprune 0.1, which had other definitions"
    said = f"run folder {record.folder} {made}: move it away"
    assert refused("analysis", record.folder.parent).startswith(said)
    write_json(record.config_file, {"rules": RULES + 1, **RunConfig().to_dict()})
    assert refused("analysis", record.folder.parent) == (
        f"run folder {record.folder}: rules must be {RULES} in this version, got {RULES + 1}"
    )


def damaged(lines, damage):
    match damage:
        case "gap":
            return lines[:4] + lines[5:]
        case "broken line":
            return [*lines[:4], lines[4][:30] + "\n", *lines[5:]]
        case "no object":
            return [*lines[:4], "[4]\n", *lines[5:]]
        case "row twice":
            return [*lines[:4], lines[3], *lines[4:]]
        case "all twice":
            return lines * 2
        case "cut short":
            return [*lines[:-1], lines[-1][:-20]]
        case "empty":
            return []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("gap", "line 5, has epoch 5 instead of 4: rows are missing or repeated"),
        ("broken line", "line 5, is not valid JSON"),
        ("no object", "line 5, must be a JSON object, got list"),
        ("row twice", "line 5, has epoch 3 instead of 4: rows are missing or repeated"),
        ("all twice", "line 10, has epoch 0 instead of 9: rows are missing or repeated"),
        ("cut short", "has rows up to epoch 7, but the summary is of epoch 8"),
        ("empty", "has no rows, but the summary is of epoch 8"),
    ],
)
def test_a_damaged_history(record, damage, message):
    lines = record.history_file.read_text().splitlines(keepends=True)
    record.history_file.write_text("".join(damaged(lines, damage)))
    line = refused("analysis", record.folder.parent)
    assert line.startswith(f"record file {record.history_file}")
    assert message in line


def test_damaged_cuts(record):
    lines = record.cuts_file.read_text().splitlines(keepends=True)
    record.cuts_file.write_text(lines[1])
    assert "cuts.jsonl, line 1, has round 2 instead of 1" in refused(
        "analysis", record.folder.parent
    )
    record.cuts_file.write_text("".join([*lines, lines[1]]))
    assert "cuts.jsonl, line 3, has round 2 instead of 3" in refused(
        "analysis", record.folder.parent
    )
    record.cuts_file.write_text(lines[0])
    assert "cuts.jsonl has 1 of 2 cuts" in refused("analysis", record.folder.parent)


def test_status_of_a_damaged_record(record, tmp_path):
    grid = grid_of(
        tmp_path / "g.yaml",
        **{name: {"value": value} for name, value in record.config().to_dict().items()},
    )
    arguments = ["status", grid, "--runs", record.folder.parent]
    with record.history_file.open("a") as file:
        file.write("{\n")
    assert f"{record.history_file}, last line, is not valid JSON" in refused("sweeps", *arguments)
    record.config_file.write_text("")
    assert f"{record.config_file} is not valid JSON" in refused("sweeps", *arguments)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"mesure": {"value": "loss"}},
            "unknown parameter 'mesure'; the parameters are measure, arch",
        ),
        ({"seed": {"values": []}}, "values of 'seed' must be a list that is not empty, got []"),
        ({"seed": {"values": 3}}, "values of 'seed' must be a list that is not empty, got 3"),
        ({"seed": 3}, "parameter 'seed' must have either value or values (none nested), got 3"),
        ({"a": {"parameters": {"seed": {"value": 1}}}}, "unknown parameter 'a'"),
        (
            {"seed": {"parameters": {"b": {"value": 1}}}},
            "parameter 'seed' must have either value or values (none nested)",
        ),
        (
            {"seed": {"min": 0, "max": 3}},
            "parameter 'seed' must have either value or values (none nested)",
        ),
        ({"rounds": {"values": [1, "five"]}}, "rounds must be a whole number, got 'five'"),
        ({"rounds": {"value": [1, 5]}}, "rounds must be a whole number, got [1, 5]"),
        ({"measure": {"values": [None]}}, "measure must be a text, got None"),
        ({"seed": {"value": True}}, "seed must be a whole number, got True"),
        (
            {"prune_epoch": {"values": [0, "late"]}},
            "prune_epoch must be a whole number or 'trained', got 'late'",
        ),
        ({"prune_epoch": {"value": 160}}, "prune_epoch must be from 0 to epochs - rounds = 159"),
        ({"measure": {"value": "gravity"}}, "measure must be one of activation_mean"),
        ({"flow_every": {"value": "often"}}, "flow_every must be a whole number, got 'often'"),
        (
            {"flow_every": {"values": [1, 2]}},
            "parameter 'flow_every' must have one value, got [1, 2]",
        ),
        ({"score_all": {"value": "no"}}, "score_all must be true or false, got 'no'"),
        ({}, "parameters must be a mapping of fields to value or values, got {}"),
    ],
)
def test_a_bad_grid(tmp_path, parameters, message):
    path = grid_of(tmp_path / "g.yaml", **parameters)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command_name", ["plan", "run", "status"])
def test_every_command_refuses_a_bad_grid(tmp_path, command_name):
    path = grid_of(tmp_path / "g.yaml", rounds={"values": [1, "five"]})
    assert (
        refused("sweeps", command_name, path)
        == f"{path}: rounds must be a whole number, got 'five'"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"method: [grid", "is not valid YAML"),
        (b"\x89PNG\r\n\xff", "is not valid YAML"),
        (b"- method", "must be a mapping, got list"),
        (b"", "must be a mapping, got NoneType"),
        (b"method: bayes\nparameters: {seed: {value: 1}}", "method must be 'grid', got 'bayes'"),
    ],
)
def test_a_file_that_is_no_grid(tmp_path, content, message):
    path = tmp_path / "g.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grid_that_cannot_be_read(tmp_path):
    assert (
        refused("sweeps", "plan", tmp_path)
        == f"grid file {tmp_path} cannot be read (Is a directory)"
    )


def test_a_runs_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    runs = tmp_path / "file" / "runs"
    assert str(runs) in refused("benchmark", *FLAGS, *QUIET, "--runs", runs)
    grid = grid_of(tmp_path / "g.yaml", seed={"values": [0, 1]})
    assert f"runs folder {runs} cannot be written to" in refused(
        "sweeps", "run", grid, *QUIET, "--runs", runs
    )
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.usefixtures("our_sums")
def test_data_cut_short(tmp_path):
    write_npz(tmp_path / "cifar100", classes=100)
    cut_short(tmp_path / "cifar100" / "test.npz")
    line = refused(
        "benchmark",
        "--dataset",
        "cifar100",
        "--data",
        tmp_path,
        "--runs",
        tmp_path / "runs",
        *QUIET,
    )
    assert line.startswith(
        f"data file {tmp_path / 'cifar100' / 'test.npz'} is cut short or corrupt"
    )
    folder = write_pickles(tmp_path)
    cut_short(folder / "data_batch_2")
    line = refused(
        "benchmark", "--dataset", "cifar10", "--data", tmp_path, "--runs", tmp_path / "runs", *QUIET
    )
    assert line.startswith(f"data file {folder / 'data_batch_2'} is not the published one")
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("our_sums")
@pytest.mark.parametrize("form", ["npz", "compressed npz", "pickle"])
def test_data_cut_anywhere_or_garbled(tmp_path, form):
    if form == "pickle":
        path = write_pickles(tmp_path) / "data_batch_1"
    else:
        write_npz(tmp_path / "cifar10")
        path = tmp_path / "cifar10" / "train.npz"
    if form == "compressed npz":
        np.savez_compressed(
            path, images=pixels(20), labels=np.arange(20) % 10, classes=[f"c{i}" for i in range(10)]
        )
    whole = path.read_bytes()
    draw = np.random.default_rng(zlib.crc32(form.encode()))
    for size in draw.integers(0, len(whole), 30):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=path.name):
            data.load("cifar10", tmp_path)
    for place in draw.integers(0, len(whole), 60):
        garbled = bytearray(whole)
        garbled[place : place + 40] = draw.bytes(40)
        path.write_bytes(garbled)
        with contextlib.suppress(UserError):  # no checksum tells of a changed pixel
            data.load("cifar10", tmp_path)


def test_a_record_whose_json_is_of_another_kind(record):
    record.config_file.write_text(json.dumps([1]))
    assert (
        refused("analysis", record.folder.parent)
        == f"record file {record.config_file} must be a JSON object, got list"
    )
