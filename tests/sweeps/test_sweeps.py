"""The commands `run` and `status` of `python -m sweeps`, as a user meets them."""

import io
import json
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import rmtree

import pytest
import yaml
from rich.console import Console

from benchmark.files import write_json
from benchmark.locks import held
from benchmark.record import Record
from sweeps import commands
from sweeps import grid as grids
from sweeps.engines.events import Epoch, Failed
from sweeps.engines.jobs import jobs
from tests.support.commands import command, refusal
from tests.support.simulate import World, simulate

SWEEPS = Path(grids.__file__).parent
TINY = {
    "width": {"value": 0.0625}, "epochs": {"value": 2}, "train_limit": {"value": 60},
    "score_samples": {"value": 20}, "probe_samples": {"value": 20}, "ratio": {"value": 0.5},
}  # fmt: skip
FLAGS = ["--wandb", "disabled", "--device", "cpu", "--threads", "1", "--checkpoint-seconds", "0"]


def write(path, **parameters):
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": TINY | parameters}))
    return path


def test_the_longest_dense_phase_comes_first(tmp_path):
    fields = {"measure": {"values": ["loss", "none"]}, "prune_epoch": {"values": [0, 1]}}
    order = jobs(grids.load(write(tmp_path / "g.yaml", **fields)).configs)
    assert [(job.config.measure, job.config.prune_epoch) for job in order] == [
        ("none", 0),
        ("loss", 1),
        ("loss", 0),
    ]


@pytest.mark.slow
def test_run_skips_what_is_finished_reports_failures_and_status(tmp_path):
    path = write(tmp_path / "g.yaml", measure={"values": ["none", "loss"]}, seed={"values": [0, 1]})
    runs = tmp_path / "runs"
    files = [Record(runs / config.run_id).summary_file for config in grids.load(path).configs]
    assert command("sweeps", "status", path, "--runs", runs).returncode == 1
    assert not runs.exists()
    first = command("sweeps", "run", path, "--runs", runs, *FLAGS, "--workers", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "4 of 4 runs are finished" in first.stdout
    assert first.stdout.endswith(f"next: python -m analysis {runs} --out report\n")
    assert "of their time on training, tests and cuts" in first.stdout
    lost, *kept = files
    rmtree(lost.parent)
    stamps = [file.stat().st_mtime_ns for file in kept]
    second = command("sweeps", "run", path, "--runs", runs, *FLAGS, "--workers", "2")
    assert "3 of 4 runs were finished before" in second.stdout
    assert "[4/4] finished" in second.stdout
    assert stamps == [file.stat().st_mtime_ns for file in kept]
    status = command("sweeps", "status", path, "--runs", runs)
    assert status.returncode == 0
    assert "4 finished of 4 runs" in status.stdout


def test_a_failed_run_is_reported_and_the_status_is_non_zero(tmp_path):
    good, bad = "digits", f"folder:{tmp_path / 'nowhere'}"
    path = write(tmp_path / "g.yaml", dataset={"values": [bad, good]})
    result = command("sweeps", "run", path, "--runs", tmp_path / "runs", *FLAGS, "--workers", "1")
    assert result.returncode == 1
    assert "1 of 2 runs are finished" in result.stdout
    assert "images/s" not in result.stdout
    assert "nowhere/train is missing" in result.stdout.replace("\n", "")
    status = command("sweeps", "status", path, "--runs", tmp_path / "runs")
    assert status.returncode == 1
    assert "1 failed, 1 finished of 2 runs" in status.stdout


ERROR = "RuntimeError: [enforce fail] out of memory"
LOG = "\n".join(f"line {i}" for i in range(20)) + f"\n{ERROR}\n"


@pytest.fixture
def states(tmp_path):
    """A grid whose runs are in every state, its runs folder, and the record of the one whose lock
    should be held."""
    fields = {
        "measure": {"values": ["magnitude", "loss"]},
        "prune_epoch": {"values": [1, 2]},
        "seed": {"values": [0, 1]},
    }
    path, runs = write(tmp_path / "g.yaml", epochs={"value": 5}, **fields), tmp_path / "runs"
    first, second, third, fourth, fifth, sixth, _, _ = grids.load(path).configs
    simulate(runs, [first, second])
    simulate(runs, [third], World(diverged=(third.measure,)))
    simulate(runs, [fourth, fifth, sixth], finished=False)
    collapsed, failed, running, stopped = (
        Record(runs / config.run_id) for config in (second, fourth, fifth, sixth)
    )
    write_json(collapsed.summary_file, collapsed.summary() | {"outcome": "collapsed"})
    failed.fail(ERROR, LOG)
    for record, epochs in ((running, 3), (stopped, 1)):
        lines = record.history_file.read_text().splitlines(keepends=True)
        record.history_file.write_text(
            "".join(lines[: epochs + 1]) + '{"epoch": 9'
        )  # being written, or cut off
    stopped.lock_file.touch()  # its owner died
    return path, runs, running


def test_status_as_json_has_each_run(states):
    path, runs, running = states
    with held(running.lock_file, wait=False):
        result = command("sweeps", "status", path, "--runs", runs, "--json")
    assert result.returncode == 1
    document = json.loads(result.stdout)
    found = document["runs"]
    assert [(run["state"], run["epoch"]) for run in found] == [
        ("finished", 5),
        ("collapsed", 5),
        ("diverged", 3),
        ("failed", 5),
        ("running", 3),
        ("stopped", 1),
        ("missing", 0),
        ("missing", 0),
    ]
    assert document["states"] == {
        "finished": 1,
        "collapsed": 1,
        "diverged": 1,
        "failed": 1,
        "running": 1,
        "stopped": 1,
        "missing": 2,
    }
    assert (document["grid"], document["complete"]) == ("g", False)
    config = grids.load(path).configs[3]
    assert found[3] == {
        "run_id": config.run_id,
        "cell": config.cell,
        "label": config.label,
        "state": "failed",
        "epoch": 5,
        "total": 5,
        "error": ERROR,
        "log": ["line 16", "line 17", "line 18", "line 19", ERROR],
    }
    assert all(
        (run["error"], run["log"], run["total"]) == (None, [], 5)
        for run in found
        if run["state"] != "failed"
    )


def test_status_as_a_table_has_each_cell(states, monkeypatch):
    path, runs, running = states
    monkeypatch.setenv("COLUMNS", "160")
    with held(running.lock_file, wait=False):
        result = command("sweeps", "status", path, "--runs", runs)
    assert result.returncode == 1
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in result.stdout.splitlines()
        if "│" in line
    ]
    cells = [config.cell for config in grids.load(path).configs[::2]]
    assert rows == [
        ["magnitude vgg13 digits p0.5 @1x1", "1 finished, 1 collapsed", "10/10", "", cells[0]],
        ["magnitude vgg13 digits p0.5 @2x1", "1 diverged, 1 failed", "8/10", ERROR, cells[1]],
        ["loss vgg13 digits p0.5 @1x1", "1 running, 1 stopped", "4/10", "", cells[2]],
        ["loss vgg13 digits p0.5 @2x1", "2 missing", "0/10", "", cells[3]],
    ]
    assert f"    line 19\n    {ERROR}\n" in result.stdout
    assert "line 15" not in result.stdout


def test_the_table_names_what_tells_cells_apart(tmp_path, monkeypatch):
    path = write(
        tmp_path / "g.yaml",
        measure={"values": ["none", "loss"]},
        ablation={"values": ["none", "invert"]},
        budget={"values": ["filters", "macs"]},
    )
    monkeypatch.setenv("COLUMNS", "160")
    result = command("sweeps", "status", path, "--runs", tmp_path / "runs")
    assert "loss vgg13 digits p0.5 @0x1 ablation=invert" in result.stdout
    assert "loss vgg13 digits p0.5 of macs @0x1 ablation=invert" in result.stdout
    assert result.stdout.count("ablation") == 2
    assert "budget=" not in result.stdout


def test_status_is_complete_when_every_run_has_ended(states):
    path, runs, _ = states
    result = command(
        "sweeps",
        "status",
        write(path, epochs={"value": 5}, prune_epoch={"values": [1, 2]}),
        "--runs",
        runs,
    )
    assert "1 finished, 1 diverged of 2 runs" in result.stdout
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--address", "10.0.0.1:6379"],
            "address is for --engine ray alone, got '10.0.0.1:6379'",
        ),
        (["--packed", "2", "--per-gpu", "2"], "packed must be given without per_gpu"),
        (["--packed", "2", "--engine", "ray"], "packed with engine=ray must be 0, got 2"),
        (["--resources", "disk=1"], "resources is for --engine ray alone, got ('disk=1',)"),
        *(
            (
                ["--engine", "ray", "--resources", text],
                f"resources must be NAME=AMOUNT above 0 (--threads and --per-gpu give CPU, GPU), "
                f"got '{text}'",
            )
            for text in ("disk", "disk=much", "disk=0", "=1", "CPU=2", "disk=inf")
        ),
        (["--engine", "mpi"], "mpi"),
        (["--per-gpu", "-1"], "per_gpu must be from 0 to 10000, got -1"),
    ],
)
def test_an_engine_that_cannot_be_had_gets_one_line_and_status_2(tmp_path, arguments, message):
    line = ["run", write(tmp_path / "g.yaml"), "--runs", tmp_path, *FLAGS, *arguments]
    assert message in refusal(command("sweeps", *line))


def test_ray_that_is_not_installed_gets_one_line_and_status_2(tmp_path):
    no_ray = partial(sys.modules.__setitem__, "ray", None)
    line = ["run", write(tmp_path / "g.yaml"), "--runs", tmp_path, *FLAGS, "--engine", "ray"]
    result = command("sweeps", *line, before=no_ray)
    assert "needs Ray, which is not installed: pip install" in refusal(result)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (20, "less than a minute"), (61, "1.0 minutes"), (1500, "25 minutes"), (9000, "2.5 hours"),
        (40 * 3600, "1.7 days"), (30 * 86400, "30 days"), (400 * 86400, "1.1 years"),
    ],
)  # fmt: skip
def test_times_have_the_unit_that_people_use(seconds, text):
    assert commands.duration(seconds) == text


def test_the_display_names_the_runs_at_work_and_the_time_left(tmp_path, monkeypatch):
    fields = {"epochs": {"value": 10}, "seed": {"values": list(range(6))}}
    configs = grids.load(write(tmp_path / "g.yaml", **fields)).configs
    clock = iter([100.0, 160.0, 160.0])
    monkeypatch.setattr(commands.time, "monotonic", lambda: next(clock))
    board = commands._Board(Console(), configs, tmp_path)
    assert board.now() == ""
    board.set_at_work([config.run_id for config in configs])
    assert board.now().startswith(f"starting workers for: {configs[0].label}, ")
    row = {"epoch": 1, "time/images_per_second": 5.0}
    board.show(Epoch(configs[0].run_id, row, 1.0))
    labels = [config.label for config in configs]
    assert board.now() == f"at work: {', '.join(labels[:4])}, and 2 more"
    fields = board.progress.tasks[0].fields  # 59 of 60 epochs are left
    assert fields["left"] == "59 minutes left"
    board.show(Failed(configs[0].run_id, "error", again=False))
    board.set_at_work([config.run_id for config in configs[1:]])
    assert labels[0] not in board.now()


def test_the_display_ends_with_a_whole_line_and_no_run_at_work(tmp_path):
    configs = grids.load(write(tmp_path / "g.yaml", seed={"values": [0, 1]})).configs
    file = io.StringIO()
    board = commands._Board(Console(file=file, width=100), configs, tmp_path)
    with suppress(KeyboardInterrupt), board.shown():
        board.set_at_work([configs[0].run_id])
        raise KeyboardInterrupt
    assert configs[0].label not in file.getvalue()
    assert file.getvalue().endswith("\n")
