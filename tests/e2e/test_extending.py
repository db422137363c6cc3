"""Adding a component touches one file: a copy of the project, one new file of each kind, a whole
run and its report."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.components import COMPONENTS

ROOT = Path(__file__).parents[2]
TINY = [
    "--width",
    "1",
    "--epochs",
    "2",
    "--score-samples",
    "20",
    "--probe-samples",
    "20",
    "--threads",
    "1",
]


@pytest.mark.slow
def test_a_new_measure_architecture_and_data_set_are_one_file_each(tmp_path):
    for package in ("benchmark", "analysis", "sweeps"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for kind, (file, text) in COMPONENTS.items():
        (tmp_path / "benchmark" / kind / file).write_text(text)

    def command(*arguments: str) -> str:
        line = [sys.executable, "-m", *arguments]
        run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    components = ["--measure", "squared_taylor", "--arch", "two_convs", "--dataset", "stripes"]
    out = command("benchmark", *components, *TINY, "--wandb", "disabled", "--runs", "runs")
    assert "squared_taylor two_convs stripes" in out
    command("analysis", "runs", "--out", "report")
    table = (tmp_path / "report" / "tables" / "runs.csv").read_text()
    assert all(name in table for name in ("squared_taylor", "two_convs", "stripes"))
    assert "squared" in (tmp_path / "report" / "index.html").read_text()
