"""One run gives the same bits on every way: the command, a sweep, Ray and an agent, and a resume
among them."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from benchmark.errors import UserError
from benchmark.options import Options
from benchmark.record import Record
from benchmark.run import run
from sweeps.grid import load
from tests.benchmark.test_run import without_times
from tests.conftest import tiny_run
from tests.sweeps.test_agents import Agent, sweep
from tests.sweeps.test_sweeps import FLAGS

CONFIG = tiny_run(measure="loss", prune_epoch=1, epochs=3, rounds=2, width=0.125, train_limit=200)
PLAIN = [flag for flag in FLAGS if flag not in ("--threads", "1")]


def grid(path):
    parameters = {name: {"value": value} for name, value in CONFIG.to_dict().items()}
    command = ["${env}", "${interpreter}", "-m", "benchmark", "${args}"]
    content = {
        "method": "grid",
        "program": "benchmark",
        "command": command,
        "parameters": parameters,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def bits(runs):
    """What a record says, but for times and the weather."""
    record = Record(runs / CONFIG.run_id)
    history, cuts = without_times(record.history()), without_times(record.cuts())
    scores = {
        path.name: {k: v.tobytes() for k, v in np.load(path).items()}
        for path in record.scores_folder.iterdir()
    }
    return history, cuts, scores, record.summary()["threads"]


def call(*arguments, threads=2, cwd=None):
    """A command in a process whose libraries would use so many threads."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env=environment,
        check=True,
        timeout=250,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The run as the command makes it."""
    runs = tmp_path_factory.mktemp("command")
    flags = [f"--{name}={value}" for name, value in CONFIG.to_dict().items()]
    call("benchmark", *flags, *PLAIN, "--runs", runs)
    return bits(runs)


pytestmark = pytest.mark.xdist_group("ways")  # one process makes the run


@pytest.mark.slow
def test_a_sweep(expected, tmp_path):
    call(
        "sweeps",
        "run",
        grid(tmp_path / "g.yaml"),
        "--runs",
        tmp_path,
        "--workers",
        1,
        *PLAIN,
        threads=1,
    )
    assert bits(tmp_path) == expected


@pytest.mark.slow
def test_a_script_whatever_the_threads_of_its_process(expected, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(CONFIG, Options(runs=tmp_path, data=tmp_path, wandb="disabled", device="cpu"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert bits(tmp_path) == expected


@pytest.mark.slow
def test_a_resume_under_another_default(expected, tmp_path):
    class StopError(Exception):
        pass

    def stop(progress):
        if progress.row["epoch"] == 2:
            raise StopError

    with pytest.raises(StopError):
        run(CONFIG, Options(runs=tmp_path, data=tmp_path, wandb="disabled", device="cpu"), stop)
    call(
        "sweeps",
        "run",
        grid(tmp_path / "g.yaml"),
        "--runs",
        tmp_path,
        "--workers",
        1,
        *PLAIN,
        threads=2,
    )
    assert bits(tmp_path) == expected


@pytest.mark.slow
def test_ray(expected, tmp_path):
    pytest.importorskip("ray", reason="flowprune[ray] is not installed")
    call("sweeps", "run", grid(tmp_path / "g.yaml"), "--runs", tmp_path, "--engine", "ray", *PLAIN)
    assert bits(tmp_path) == expected


@pytest.mark.slow
def test_an_agent(expected, tmp_path, server, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    agent = Agent(tmp_path, sweep(server, grid(tmp_path / "g.yaml")))
    agent.process.wait(timeout=250)
    assert bits(tmp_path / "runs") == expected


def test_more_threads_are_asked_for_and_recorded_and_never_mixed(tmp_path):
    one, two = (
        Options(runs=tmp_path, data=tmp_path, wandb="disabled", device="cpu", threads=n)
        for n in (1, 2)
    )
    assert run(tiny_run(measure="loss", prune_epoch=1, epochs=2), two)["threads"] == 2
    with pytest.raises(
        UserError,
        match=r"^threads must be 2, got 1: checkpoint .*epoch-0001\.pt was computed with 2",
    ):
        run(tiny_run(measure="magnitude", prune_epoch=1, epochs=2), one)
    assert run(tiny_run(measure="magnitude", prune_epoch=1, epochs=2), two)["threads"] == 2


def test_the_grid_is_the_run(tmp_path):
    assert load(grid(tmp_path / "g.yaml")).configs == [CONFIG]
