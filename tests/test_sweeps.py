import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmark.record import Record
from sweeps import grid as grids
from sweeps.local import in_order
from tests.test_cli import command

SWEEPS = Path(grids.__file__).parent
TINY = {
    "width": {"value": 0.0625}, "epochs": {"value": 2}, "train_limit": {"value": 60},
    "score_samples": {"value": 20}, "probe_samples": {"value": 20}, "ratio": {"value": 0.5},
}  # fmt: skip
FLAGS = ["--wandb", "disabled", "--device", "cpu", "--threads", "1"]


def write(path, **parameters):
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": TINY | parameters}))
    return path


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_committed_grids_load(path):
    grid = grids.load(path)
    assert len({config.run_id for config in grid.configs}) == len(grid.configs) > 0


def test_the_demo_is_what_the_readme_says():
    grid = grids.load(SWEEPS / "demo.yaml")
    assert len(grid.configs) == 33
    assert {config.measure for config in grid.configs} == {
        "none", "magnitude", "loss", "grasp", "grad_preservation", "random",
    }  # fmt: skip


def test_equal_points_are_one_run_and_the_dense_phase_is_counted_once(tmp_path):
    path = write(
        tmp_path / "g.yaml",
        measure={"values": ["none", "loss"]},
        prune_epoch={"values": [0, 1]},
        seed={"values": [0, 1]},
    )
    grid = grids.load(path)
    assert (grid.points, len(grid.configs)) == (8, 6)
    assert grid.epochs() == 12
    assert grid.shared_epochs() == 2  # per seed: the dense control's two epochs hold the other run's one
    assert in_order(grid.configs)[0].measure == "none"


def test_run_skips_what_is_finished_reports_failures_and_status(tmp_path):
    path = write(tmp_path / "g.yaml", measure={"values": ["none", "loss"]}, seed={"values": [0, 1]})
    arguments = [
        "--runs",
        tmp_path / "runs",
        "--wandb",
        "disabled",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--workers",
        "2",
    ]
    grid = grids.load(path)
    assert command("sweeps", "status", path, "--runs", tmp_path / "runs").returncode == 1
    first = command("sweeps", "run", path, *arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "4 of 4 runs are finished" in first.stdout
    stamps = [Record(tmp_path / "runs" / c.run_id).summary_file.stat().st_mtime_ns for c in grid.configs]
    second = command("sweeps", "run", path, *arguments)
    assert "4 runs were finished before" in second.stdout
    assert stamps == [Record(tmp_path / "runs" / c.run_id).summary_file.stat().st_mtime_ns for c in grid.configs]
    status = command("sweeps", "status", path, "--runs", tmp_path / "runs")
    assert status.returncode == 0
    assert "2 finished" in status.stdout


def test_a_failed_run_is_reported_and_the_status_is_non_zero(tmp_path):
    good, bad = "digits", f"folder:{tmp_path / 'nowhere'}"
    path = write(tmp_path / "g.yaml", dataset={"values": [bad, good]})
    arguments = [
        "--runs",
        tmp_path / "runs",
        "--wandb",
        "disabled",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--workers",
        "1",
    ]
    result = command("sweeps", "run", path, *arguments)
    assert result.returncode == 1
    assert "1 of 2 runs are finished" in result.stdout
    assert "nowhere/train is missing" in result.stdout.replace("\n", "")
    status = command("sweeps", "status", path, "--runs", tmp_path / "runs")
    assert status.returncode == 1
    assert "1 failed" in status.stdout
    assert "1 finished" in status.stdout


def test_a_worker_that_dies_is_replaced(tmp_path):
    """The worker is killed in its first run; the other runs are done by its successor."""
    script = tmp_path / "drive.py"
    script.write_text(
        f"""
import os, signal
from pathlib import Path
from benchmark.options import Options
from sweeps.grid import load
from sweeps.local import drive
import multiprocessing

if __name__ == "__main__":
    killed = []
    def watch(event):
        if not killed:
            killed.append(event.run_id)
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    options = Options(runs=Path({str(tmp_path / "runs")!r}), wandb="disabled", device="cpu", threads=1)
    outcome = drive(load({str(tmp_path / "g.yaml")!r}).configs, options, 1, watch)
    print(len(outcome.done), list(outcome.failed) == killed, list(outcome.failed.values()))
"""
    )
    write(tmp_path / "g.yaml", seed={"values": [0, 1, 2]})
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "2 True ['the worker died (exit status -9)']"
