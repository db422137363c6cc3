"""Runs that come back from W&B give the frames of the local records, cell by cell."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import wandb

from analysis.pull import Pull
from analysis.sources import Frames, load
from benchmark.record import Record
from tests import simulate
from tests.planted import plant
from tests.wandb_server import ENTITY, serving

PROJECT = "pulled"
SOURCE = f"wandb:{ENTITY}/{PROJECT}"
TINY = {"measures": ["magnitude", "grasp"], "timings": [2], "seeds": [0, 1], "epochs": 5, "rounds": [2]}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield server
        wandb.teardown()


@pytest.fixture
def pull(tmp_path):
    return Pull(cache=tmp_path / "cache")


def records(folder: Path, **fields: object) -> list[Record]:
    configs = simulate.grid(**{**TINY, **fields})
    simulate.simulate(folder, configs)
    return [Record(folder / config.run_id) for config in configs]


def assert_same(ours: Frames, theirs: Frames) -> None:
    """Every cell, its type, and the order of rows and columns."""
    for name in ("runs", "history", "cuts", "kept"):
        pd.testing.assert_frame_equal(getattr(ours, name), getattr(theirs, name), check_exact=True, obj=name)
    assert ours.digest() == theirs.digest()


def test_planted_runs_give_the_same_frames_from_server_cache_and_offline(server, pull, tmp_path):
    for record in records(tmp_path / "runs"):
        plant(server, record, PROJECT)
    local = load(str(tmp_path / "runs"))
    assert_same(load(SOURCE, pull), local)
    asked = server.requests["HistoryPage"]
    assert_same(load(SOURCE, pull), local)
    assert server.requests["HistoryPage"] == asked > 0
    server.shutdown()
    server.server_close()
    assert_same(load(SOURCE, dataclasses.replace(pull, offline=True)), local)
