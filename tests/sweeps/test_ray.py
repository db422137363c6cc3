"""The Ray engine on a cluster of two nodes on this machine: what dies, and what finds its way
home."""

import contextlib
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from benchmark.config import RunConfig
from benchmark.record import Record
from benchmark.run import run
from sweeps.grid import load
from tests.e2e.test_chaos import GRID, science_of
from tests.support.commands import command, refusal
from tests.sweeps.test_sweeps import FLAGS

pytest.importorskip("ray", reason="flowprune[ray] is not installed")

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
ATTEMPTS = 6


def write(path: Path, **parameters: object) -> Path:
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": GRID | parameters}))
    return path


@contextlib.contextmanager
def driver(grid: Path, runs: Path, *flags: object, cwd: Path | None = None):
    line = [
        sys.executable,
        "-m",
        "sweeps",
        "run",
        grid,
        "--runs",
        runs,
        *FLAGS,
        "--engine",
        "ray",
        *map(str, flags),
    ]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def cluster():
    """A Ray cluster with a node that runs nothing."""
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        calm = {"worker_niceness": 0}  # Ray's 15 starves tasks on a machine that has other work
        add(made, num_cpus=0, include_dashboard=False, _system_config=calm)
        yield made
    finally:
        made.shutdown()


def add(nodes, **settings):
    """Add a node of one core. On a busy machine it may need longer than the half minute that Ray
    gives it."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(Exception):
            return nodes.add_node(**NODE | settings)
    return nodes.add_node(**NODE | settings)


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)


def epochs(runs: Path, configs: list[RunConfig]) -> list[int]:
    return [len(Record(runs / config.run_id).history()) for config in configs]


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_node_dies_in_the_middle_and_all_runs_finish_with_the_same_numbers(options, tmp_path):
    short = {"prune_epoch": {"value": 1}, "seed": {"values": [0, 1]}, "epochs": {"value": 8}}
    grid, runs = write(tmp_path / "grid.yaml", **short), tmp_path / "runs"
    configs = load(grid).configs
    with cluster() as nodes:
        doomed, _ = add(nodes), add(nodes)
        with driver(grid, runs, "--address", nodes.address, "--retries", 0) as process:
            wait_for(lambda: sum(0 < n < 7 for n in epochs(runs, configs)) == 2, process)
            nodes.remove_node(doomed, allow_graceful=False)
            out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "its machine is gone, it continues elsewhere" in out
    assert "4 of 4 runs are finished" in out
    for config in configs:
        run(config, replace(options, runs=tmp_path / "here"))
        assert science_of(runs / config.run_id) == science_of(tmp_path / "here" / config.run_id)
    assert not list(runs.rglob("*.lock"))


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_driver_that_is_stopped_keeps_what_is_finished_and_says_so(tmp_path):
    grid, runs = write(tmp_path / "grid.yaml", epochs={"value": 100}), tmp_path / "runs"
    with driver(grid, runs, "--address", "local") as process:
        wait_for(lambda: list(runs.glob("*/checkpoint.pt")), process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
    assert process.returncode == 143, out
    assert "Traceback" not in out
    assert list(runs.glob("*/checkpoint.pt"))
    assert not list(runs.rglob(".lock"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "there is no Ray cluster at address '127.0.0.1:1' ("),
        ("head", "address must be HOST:PORT, got"),
    ],
)
def test_a_wrong_address_is_one_line(tmp_path, address, message):
    grid = write(tmp_path / "grid.yaml")
    flags = ["--runs", tmp_path / "runs", *FLAGS, "--engine", "ray", "--address", address]
    result = command("sweeps", "run", grid, *flags)
    assert message in refusal(result)


def files(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not Path("/proc/self/cwd").exists(), reason="needs Linux's /proc: each node gets a folder by it"
)
def test_records_of_machines_without_a_common_folder_come_home(tmp_path, monkeypatch):
    grid = write(
        tmp_path / "grid.yaml",
        prune_epoch={"values": [0, 1]},
        seed={"value": 0},
        epochs={"value": 3},
    )
    home, *machines = (tmp_path / name for name in ("home", "a", "b"))
    with cluster() as nodes:
        for machine in machines:
            machine.mkdir()
            monkeypatch.chdir(machine)
            add(nodes)
        home.mkdir()
        with driver(
            grid, Path("/proc/self/cwd/runs"), "--address", nodes.address, cwd=home
        ) as process:
            out, _ = process.communicate()
    assert process.returncode == 0, out
    by = []
    for config in load(grid).configs:
        (machine,) = (m for m in machines if Record(m / "runs" / config.run_id).finished)
        assert files(home / "runs" / config.run_id) == files(machine / "runs" / config.run_id)
        by.append(machine)
    assert set(by) == set(machines)
