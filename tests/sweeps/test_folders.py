"""Machines that share a slow folder, and machines with a folder each, which is merged later."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.runs.load import load as load_runs
from benchmark.files import read_lines
from benchmark.record import Record
from sweeps.grid import load
from tests.benchmark.test_run import without_times
from tests.support.late import environment
from tests.sweeps.test_sweeps import FLAGS, write

PAGE = Path(__file__).parents[2] / "docs" / "many-machines.md"
GRID = {
    "measure": {"values": ["none", "loss", "random"]}, "epochs": {"value": 3},
    "prune_epoch": {"value": 2}, "seed": {"values": [0, 1]},
}  # fmt: skip


def driver(path, runs, **variables):
    line = [sys.executable, "-m", "sweeps", "run", path, "--runs", runs, *FLAGS, "--workers", "1"]
    return subprocess.Popen(
        line,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def numbers(runs, configs):
    """Histories and cuts of runs, without times."""
    records = [Record(runs / config.run_id) for config in configs]
    return [(without_times(record.history()), without_times(record.cuts())) for record in records]


@pytest.mark.slow
def test_two_machines_that_see_new_files_two_seconds_late_finish_a_grid(tmp_path):
    path, shared, alone = (
        write(tmp_path / "g.yaml", **GRID),
        tmp_path / "shared",
        tmp_path / "alone",
    )
    shared.mkdir()
    drivers = [
        driver(path, shared, **environment(machine, shared, tmp_path / "notes"))
        for machine in ("one", "two")
    ]
    for process in drivers:
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out
        assert "6 of 6 runs are finished" in out
        assert "failed" not in out
    quiet = driver(path, alone)
    quiet.communicate(timeout=120)
    configs = load(path).configs
    assert numbers(shared, configs) == numbers(alone, configs)
    assert not list(shared.glob("*/*.tmp")) + list(shared.glob("*/failed.json"))


def test_the_model_of_a_slow_folder_hides_what_another_machine_has_just_made(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    code = (
        "import sys, time; from pathlib import Path; folder = Path(sys.argv[1])\n"
        "if sys.argv[2] == 'write': (folder / 'a').write_text('x')\n"
        "print((folder / 'a').exists(), [p.name for p in folder.glob('*')])\n"
    )

    def run(machine, action):
        line = [sys.executable, "-c", code, str(shared), action]
        env = os.environ | environment(machine, shared, tmp_path / "notes")
        return subprocess.run(line, env=env, capture_output=True, text=True, check=True).stdout

    assert run("one", "write") == "True ['a']\n"
    assert run("two", "read") == "False []\n"
    assert run("one", "read") == "True ['a']\n"


@pytest.mark.slow
@pytest.mark.long
def test_folders_of_machines_are_merged_into_one(tmp_path):
    """Each machine has some of the runs; one that both have is half done on one of them."""
    path = write(tmp_path / "g.yaml", **GRID)
    some = write(tmp_path / "some.yaml", **GRID | {"measure": {"values": ["none", "loss"]}})
    others = write(tmp_path / "others.yaml", **GRID | {"measure": {"values": ["loss", "random"]}})
    merged = tmp_path / "merged"
    for place, grid in (("one", some), ("two", others), ("alone", path)):
        out, _ = driver(grid, tmp_path / place).communicate(timeout=120)
        assert "runs are finished" in out
    half = load(others).configs[0]
    Record(tmp_path / "two" / half.run_id).summary_file.unlink()
    merged.mkdir()
    (line,) = re.findall(r"^for run in .*$", PAGE.read_text(), re.MULTILINE)
    line = line.replace("ONE", "two").replace("TWO", "one").replace("runs/", "merged/")
    subprocess.run(line, shell=True, check=True, cwd=tmp_path)
    out, _ = driver(path, merged).communicate(timeout=120)
    assert "6 of 6 runs were finished before" in out
    configs = load(path).configs
    assert numbers(merged, configs) == numbers(tmp_path / "alone", configs)
    both, alone = (load_runs(str(folder)) for folder in (merged, tmp_path / "alone"))
    assert both.finished()["run_id"].tolist() == alone.finished()["run_id"].tolist()
    assert len(read_lines(Record(merged / half.run_id).history_file)) == 4
