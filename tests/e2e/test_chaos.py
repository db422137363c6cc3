"""Kills at random moments: the runs end with the same numbers as without them."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmark.record import DENSE, Record
from benchmark.run import run
from sweeps.grid import load
from tests.benchmark.test_run import record_of, science
from tests.conftest import tiny_run
from tests.sweeps.test_sweeps import FLAGS

KILLS = 20
RUNS = {
    "vgg13": {
        "measure": "grasp",
        "prune_epoch": 1,
        "rounds": 2,
        "epochs": 4,
        "cut_momentum": "carry",
    },
    "mobilenet_v1": {
        "measure": "loss",
        "prune_epoch": 1,
        "retrain": "restart",
        "epochs": 2,
        "width": 0.125,
    },
    "resnet20": {
        "measure": "fisher",
        "prune_epoch": 1,
        "rounds": 2,
        "epochs": 3,
        "train_limit": 40,
    },
}
GRID = {
    "measure": {"values": ["magnitude", "grasp"]}, "prune_epoch": {"values": [1, 3]},
    "seed": {"values": [0, 1, 2]}, "rounds": {"value": 2}, "epochs": {"value": 8},
    "width": {"value": 0.0625}, "train_limit": {"value": 300}, "score_samples": {"value": 100},
    "probe_samples": {"value": 60}, "ratio": {"value": 0.5},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", RUNS)
def test_a_run_killed_at_random_moments_resumes_exactly(arch, options, tmp_path):
    """SIGKILL at 20 moments of the run: in training, scoring, the dense phase, and while
    writing."""
    config = tiny_run(arch=arch, **RUNS[arch])
    undisturbed = dataclasses.replace(options, runs=tmp_path / "undisturbed")
    start = time.perf_counter()
    run(config, undisturbed)
    seconds, draw = time.perf_counter() - start, random.Random(7)
    context, kills, attempt = multiprocessing.get_context("fork"), 0, 0
    while kills < KILLS:
        attempt += 1
        process = context.Process(target=run, args=(config, options))
        process.start()
        process.join(timeout=seconds * draw.uniform(0, 0.6))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        if record_of(config, options).finished:  # once more from the start
            assert science(config, options) == science(config, undisturbed)
            options = dataclasses.replace(options, runs=tmp_path / f"runs-{attempt}")
    run(config, options)
    assert science(config, options) == science(config, undisturbed)


class Driver:
    """`python -m sweeps run` in its own session."""

    def __init__(self, grid: Path, runs: Path) -> None:
        line = [
            sys.executable,
            "-m",
            "sweeps",
            "run",
            grid,
            "--runs",
            runs,
            "--workers",
            "2",
            "--retries",
            "20",
        ]
        self.log = runs.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*line, *FLAGS],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def finish(self) -> None:
        """Wait until it ends."""
        assert self.process.wait() == 0, self.log.read_text()


def kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def holders(folder: Path) -> list[int]:
    """Processes that hold the lock of a record in this folder."""
    inodes = {path.stat().st_ino for path in folder.glob("*/.lock") if path.exists()}
    rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [int(row[4]) for row in rows if int(row[5].split(":")[2]) in inodes and row[4] != "-1"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not Path("/proc/locks").exists(),
    reason="finds processes and owners of locks through Linux's /proc",
)
def test_a_grid_survives_kills_of_workers_driver_and_owners(options, tmp_path):
    path, runs = tmp_path / "grid.yaml", options.runs
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": GRID}))
    configs = load(path).configs
    assert len(configs) == 12
    undisturbed = dataclasses.replace(options, runs=tmp_path / "undisturbed")
    for config in configs:
        run(config, undisturbed)

    draw, killed = random.Random(3), {"worker": 0, "driver": 0, "owner": 0}
    driver, deadline = Driver(path, runs), time.monotonic() + 400
    while sum(killed.values()) < 10:
        assert time.monotonic() < deadline, killed
        time.sleep(draw.uniform(0.1, 1.5))
        assert driver.process.poll() is None, (
            f"the driver ended after {killed}: {driver.log.read_text()}"
        )
        at_work = [pid for pid in holders(runs) if pid != driver.process.pid]
        victims = {
            "worker": at_work,
            "driver": [driver.process.pid] if at_work else [],
            "owner": holders(runs / DENSE),
        }
        kind = min((kind for kind in victims if victims[kind]), key=killed.get, default=None)
        if kind:
            killed[kind] += kill(draw.choice(victims[kind]))
        if kind == "driver":
            driver.process.wait()
            driver = Driver(path, runs)
    assert all(killed.values()), killed
    driver.finish()

    for config in configs:
        ours, theirs = (science_of(folder / config.run_id) for folder in (runs, undisturbed.runs))
        assert ours == theirs
        epochs = [row["epoch"] for row in Record(runs / config.run_id).history()]
        assert epochs == list(range(len(epochs)))
    files = [path.name for path in runs.rglob("*") if path.is_file()]
    assert not [
        name
        for name in files
        if name.endswith((".lock", ".tmp", ".unusable")) or name.startswith("checkpoint")
    ]


TIMES = ("time/", "seconds", "score_seconds", "latency/")
"""Beginnings of the keys of times."""


def science_of(folder: Path) -> tuple:
    record = Record(folder)

    def plain(rows: list[dict]) -> str:
        return json.dumps(
            [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in rows]
        )

    return plain(record.history()), plain(record.cuts()), plain([record.summary()])
