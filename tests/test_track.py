"""Offline mirroring with the real wandb."""

import dataclasses
import json
import subprocess
import sys

import pytest

from benchmark.record import Record
from benchmark.run import run
from benchmark.track import flatten
from tests.conftest import tiny_run


def inspect(folder):
    """The records of an offline run, by wandb's own reader."""
    (file,) = folder.glob("*.wandb")
    out = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)],
        capture_output=True,
        text=True,
        check=True,
    )
    return out.stdout


def test_one_offline_run_per_run_with_all_rows(options):
    options = dataclasses.replace(options, wandb="offline")
    config = tiny_run(measure="loss", prune_epoch=1, epochs=2)
    run(config, options)
    folders = list((options.runs / "wandb").glob("offline-run-*"))
    assert [folder.name.endswith(config.run_id) for folder in folders] == [True]
    text = inspect(folders[0])
    for row in Record(options.runs / config.run_id).history():
        assert json.dumps(row["test/loss"]) in text
    assert "cut/before/loss" in text
    assert config.cell in text


def test_an_interrupted_run_leaves_one_complete_offline_run(options):
    options = dataclasses.replace(options, wandb="offline")
    config = tiny_run(epochs=3)

    def stop(progress):
        if progress.row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, options, stop)
    run(config, options)
    (folder,) = (options.runs / "wandb").glob("offline-run-*")
    text = inspect(folder)
    assert all(json.dumps(row["test/loss"]) in text for row in Record(options.runs / config.run_id).history())


def test_flatten():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a/b": 1, "a/c/d": 2, "e": 3}
