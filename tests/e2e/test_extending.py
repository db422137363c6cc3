"""Adding a component touches one file: a copy of the project, one new file of each kind, a whole
run and its report."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    "benchmark/measures/squared_taylor.py": '''
from benchmark.registry import measure


@measure(order=1)
def squared_taylor(weight, gradient):
    """(sum w g)^2. Source: a test. Unlike `taylor` it is squared."""
    return (weight * gradient).sum(dim=1).square()
''',
    "benchmark/models/two_convs.py": """
from torch.nn.functional import adaptive_avg_pool2d, relu

from benchmark.models import Conv, Net

CONVS = [
    Conv(name="conv1", norm="bn1", reads="image", writes="a", filters=16),
    Conv(name="conv2", norm="bn2", reads="a", writes="b", filters=32),
]


class TwoConvs(Net):
    def __init__(self, plan, num_classes):
        super().__init__(CONVS, plan, head="linear", head_reads="b")
        self.conv1, self.bn1 = self.conv2d("conv1", 3), self.norm2d("conv1")
        self.conv2, self.bn2 = self.conv2d("conv2", 3, stride=2), self.norm2d("conv2")
        self.linear = self.linear_head(num_classes)

    def forward(self, x):
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        return self.linear(adaptive_avg_pool2d(x, 1).flatten(1))


def build(plan, num_classes):
    return TwoConvs(plan, num_classes)
""",
    "benchmark/data/stripes.py": """
import numpy as np

from benchmark.data import Images


def load(root, path):
    labels = np.arange(60) % 2
    images = np.zeros((60, 32, 32, 3), dtype=np.uint8)
    images[labels == 1, ::2] = 255
    classes = ("flat", "striped")
    return Images(images[:40], labels[:40], images[40:], labels[40:], classes, augment=False)
""",
}
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
    for path, text in FILES.items():
        (tmp_path / path).write_text(text)

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
