"""Components from outside where other processes need them: packages in worker processes, files
under `wandb agent` and on Ray."""

import json
import subprocess
import sys

import pytest
import yaml

from analysis.runs.load import load
from benchmark.record import run_folders
from tests.analysis.test_wandb import assert_same
from tests.support.commands import command
from tests.support.components import COMPONENTS, packaged
from tests.sweeps.test_agents import Agent, place, sweep  # noqa: F401
from tests.sweeps.test_sweeps import FLAGS

FIELDS = {"width": 1, "epochs": 1, "score_samples": 20, "probe_samples": 20, "batch_size": 20}
NOUNS = {"measures": "measure", "models": "arch", "data": "dataset"}
NAMES = [file.removesuffix(".py") for file, _ in COMPONENTS.values()]


def write(folder):
    """The files of a user, and a sweep file beside them."""
    for file, text in COMPONENTS.values():
        (folder / file).write_text(text)
    return grid(folder, {noun: COMPONENTS[kind][0] for kind, noun in NOUNS.items()})


def grid(folder, components):
    parameters = {name: {"value": value} for name, value in (FIELDS | components).items()}
    content = {"method": "grid", "program": "benchmark", "parameters": parameters}
    content["command"] = ["${env}", "${interpreter}", "-m", "benchmark", "${args}"]
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def assert_recorded(runs):
    """There is one finished run, of the three components."""
    (folder,) = run_folders(runs)
    config = json.loads((folder / "config.json").read_text())
    named = [config[noun].partition("@") for noun in NOUNS.values()]
    assert [stem for stem, _, _ in named] == NAMES
    assert all(len(digest) == 12 for _, _, digest in named)
    assert json.loads((folder / "summary.json").read_text())["outcome"] == "finished"


def test_components_of_an_installed_package_in_worker_processes(tmp_path, monkeypatch):
    site = tmp_path / "site"
    packaged(site, **{kind: f"{name} = {name}" for kind, name in zip(NOUNS, NAMES, strict=True)})
    write(site)
    monkeypatch.syspath_prepend(site)
    path = grid(tmp_path, dict(zip(NOUNS.values(), NAMES, strict=True)))
    done = command("sweeps", "run", path, "--workers", 2, "--runs", "runs", *FLAGS, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_recorded(tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.long
def test_files_under_an_agent(server, place):  # noqa: F811
    """The configuration on W&B has their paths, as the sweep does; a pull gives their names."""
    made = sweep(server, write(place))
    Agent(place, made).finish()
    assert_recorded(place / "runs")
    assert_same(load(f"wandb:{made.entity}/{made.project}"), load(str(place / "runs")))


@pytest.mark.slow
@pytest.mark.long
def test_files_on_ray(tmp_path):
    pytest.importorskip("ray", reason="flowprune[ray] is not installed")
    line = ["sweeps", "run", write(tmp_path), "--runs", "runs", *FLAGS, "--engine", "ray"]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, line), "--address", "local"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert_recorded(tmp_path / "runs")
