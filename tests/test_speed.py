"""The speed command measures what it says and prints it; no test depends on a time."""

import json
import subprocess
import sys


def test_scoring_is_timed_side_by_side(tmp_path):
    arguments = ["--archs", "resnet20", "--width", "0.25", "--images", "20", "--repeats", "2", "--json"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmark.speed", *arguments, tmp_path / "speed.json"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "resnet20" in run.stdout
    (result,) = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert result["arch"] == "resnet20"
    seconds = result["seconds"]
    assert result["ratio"] == [
        twelve / grasp for twelve, grasp in zip(seconds["twelve"], seconds["grasp"], strict=True)
    ]
    assert {name: len(times) for name, times in result["seconds"].items()} == {"loss": 2, "grasp": 2, "twelve": 2}


def test_an_unknown_architecture_is_one_line():
    run = subprocess.run([sys.executable, "-m", "benchmark.speed", "--archs", "vgg99"], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("error: archs must be one of")
    assert run.stderr.count("\n") == 1
