"""The commands in a clone that is not installed, with its dependencies installed, as on an agent's
machine."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import simulate
from tests.support.commands import command

ROOT = Path(__file__).parents[2]


def not_installed():
    real = importlib.metadata.distribution

    def distribution(name):
        if name == "flowprune":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    importlib.metadata.distribution = distribution


@pytest.mark.parametrize(
    "line",
    [
        ["analysis", "runs", "--out", "report"],
        ["sweeps", "status", ROOT / "sweeps" / "demo.yaml", "--runs", "runs"],
        ["benchmark", "--width", "0.0625", "--epochs", "1", "--train-limit", "20",
         "--score-samples", "10", "--probe-samples", "10", "--measure", "none", "--wandb",
         "disabled"],
    ],
    ids=lambda line: line[0],
)  # fmt: skip
def test_every_command_works(tmp_path, line):
    simulate.simulate(
        tmp_path / "runs", simulate.grid(measures=("magnitude", "loss"), timings=(2,), epochs=4)
    )
    result = command(*line, cwd=tmp_path, before=not_installed)
    assert result.returncode in (0, 1), result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 0 or line[0] == "sweeps"


def test_the_packages_are_found_from_the_clone(tmp_path):
    code = "import benchmark, sweeps, analysis; print(benchmark.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    assert result.stdout.strip() == importlib.metadata.version("flowprune")
