"""Adding a measure touches one file: a copy of the project, one new file, a whole run and its report."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MEASURE = '''
from benchmark.registry import measure


@measure(order=1)
def squared_taylor(weight, gradient):
    """(sum w g)^2. Source: a test. Unlike `taylor` it is squared."""
    return (weight * gradient).sum(dim=1).square()
'''


@pytest.mark.slow
def test_a_new_measure_is_one_file(tmp_path):
    for package in ("benchmark", "analysis", "sweeps"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "benchmark" / "measures" / "squared_taylor.py").write_text(MEASURE)

    def command(*arguments: str) -> str:
        line = [sys.executable, "-m", *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    tiny = [
        "--width",
        "0.0625",
        "--epochs",
        "2",
        "--train-limit",
        "60",
        "--score-samples",
        "20",
        "--probe-samples",
        "20",
        "--threads",
        "1",
    ]
    out = command("benchmark", "--measure", "squared_taylor", *tiny, "--wandb", "disabled", "--runs", "runs")
    assert "squared_taylor vgg13 digits" in out
    command("analysis", "runs", "--out", "report")
    assert "squared_taylor" in (tmp_path / "report" / "tables" / "runs.csv").read_text()
    assert "squared" in (tmp_path / "report" / "index.html").read_text()
