"""The local engine when things go wrong: hangs, failures, interruptions, full disks, a second
driver."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml

from benchmark.options import Options
from benchmark.record import Record
from sweeps.engines import local
from sweeps.engines import slots as slots_module
from sweeps.engines import worker as worker_module
from sweeps.engines.events import Done, Failed, Leaving, Ready, Waits
from sweeps.engines.jobs import Job
from sweeps.engines.worker import work
from sweeps.grid import load
from tests.conftest import tiny_run
from tests.support.commands import command, refusal
from tests.sweeps.test_sweeps import FLAGS, TINY

SCRIPT = """
import json, multiprocessing, os, signal, sys
from pathlib import Path
from benchmark.options import Options
from sweeps.grid import load
from functools import partial
from sweeps.engines.drive import drive
from sweeps.engines.local import LocalEngine
from sweeps.engines.events import Epoch

if __name__ == "__main__":
    epochs = []
    def watch(event):
        if isinstance(event, Epoch):
            epochs.append([event.run_id, event.row["epoch"]])
            if len(epochs) == 1:
                {first}
    options = Options(runs=Path(sys.argv[2]), wandb="disabled", device="cpu", threads=1)
    engine = partial(LocalEngine, workers=1, epoch_limit={epoch_limit})
    outcome = drive(load(sys.argv[1]).configs, options, engine, watch, retries={retries})
    print(json.dumps([outcome.done, outcome.failed, epochs]))
"""


@pytest.fixture
def grid(tmp_path):
    """A file of three runs of four epochs."""
    path = tmp_path / "grid.yaml"
    parameters = TINY | {"epochs": {"value": 4}, "seed": {"values": [0, 1, 2]}}
    path.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    return path


def start(grid, runs, first="pass", retries=2, epoch_limit=0):
    script = grid.with_name("drive.py")
    script.write_text(SCRIPT.format(first=first, retries=retries, epoch_limit=epoch_limit))
    return subprocess.Popen([sys.executable, script, grid, runs], stdout=subprocess.PIPE, text=True)


def outcome(process):
    out, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(out)


def signalled(name):
    return f"os.kill(multiprocessing.active_children()[0].pid, signal.{name})"


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_run_tried_again(grid, tmp_path):
    done, failed, epochs = outcome(start(grid, tmp_path / "runs", signalled("SIGKILL")))
    assert (len(done), failed) == (3, {})
    assert len(epochs) <= 13  # twelve, and the one that was in flight


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(grid, tmp_path):
    hang = start(grid, tmp_path / "runs", signalled("SIGSTOP"), retries=0, epoch_limit=5)
    done, failed, _ = outcome(hang)
    assert len(done) == 2
    ((run_id, error),) = failed.items()
    assert error == "no epoch was finished within 5 s"
    assert Record(tmp_path / "runs" / run_id).failure()["error"] == error


@pytest.mark.slow
def test_a_failing_run_is_tried_again_then_reported_and_stays_claimable(grid, tmp_path):
    runs, first = tmp_path / "runs", load(grid).configs[0]
    obstacle = Record(runs / first.run_id).scores_folder
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    flags = ["--runs", runs, *FLAGS, "--workers", "1"]
    result = command("sweeps", "run", grid, *flags, "--retries", "1")
    assert result.returncode == 1
    assert "FileExistsError" in result.stdout
    assert "2 of 3 runs are finished" in result.stdout
    assert "FileExistsError" in command("sweeps", "status", grid, "--runs", runs, "--json").stdout
    obstacle.unlink()
    again = command("sweeps", "run", grid, *flags)
    assert again.returncode == 0, again.stdout
    assert Record(runs / first.run_id).failure() is None


@pytest.mark.slow
def test_two_drivers_do_not_run_the_same_run_twice(grid, tmp_path):
    drivers = [start(grid, tmp_path / "runs") for _ in range(2)]
    seen = [{tuple(epoch) for epoch in outcome(driver)[2]} for driver in drivers]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 12


@pytest.mark.parametrize(
    ("program", "name", "status"),
    [
        ("benchmark", "SIGINT", 130),
        ("sweeps", "SIGTERM", 143),
        pytest.param("benchmark", "SIGTERM", 143, marks=pytest.mark.slow),
        pytest.param("sweeps", "SIGINT", 130, marks=pytest.mark.slow),
    ],
)
def test_an_interruption_stops_within_seconds_and_costs_no_finished_epoch(
    tmp_path, grid, program, name, status
):
    runs, config = tmp_path / "runs", tiny_run(epochs=200)
    if program == "sweeps":
        parameters = {key: {"value": value} for key, value in config.to_dict().items()}
        grid.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
        arguments = ["run", grid]
    else:
        arguments = [f"--{key}={value}" for key, value in config.to_dict().items()]
    line = [sys.executable, "-m", program, *arguments, "--runs", runs, *FLAGS]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
    record = Record(runs / config.run_id)
    while not record.previous_checkpoint_file.exists():
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    os.killpg(process.pid, getattr(signal, name))
    assert process.wait(timeout=10) == status
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert len(record.history()) >= 2
    assert not record.lock_file.exists()


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("program", ["benchmark", pytest.param("sweeps", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path, grid, program):
    """A limit on the size of files stands for the full disk: checkpoints are larger."""
    runs, config = tmp_path / "runs", tiny_run(epochs=2)
    parameters = {key: {"value": value} for key, value in config.to_dict().items()}
    grid.write_text(yaml.safe_dump({"method": "grid", "parameters": parameters}))
    arguments = (
        ["run", grid]
        if program == "sweeps"
        else [f"--{k}={v}" for k, v in config.to_dict().items()]
    )
    line = [program, *arguments, "--runs", runs, *FLAGS]
    full = command(*line, before=small_files)
    assert "File too large" in refusal(full)
    assert len(Record(runs / config.run_id).history()) == 1
    assert command(*line).returncode == 0
    assert not list((runs / config.run_id).glob(".*"))


@pytest.mark.slow
def test_a_folder_that_holds_another_run_fails_and_keeps_its_configuration(grid, tmp_path):
    first, record = load(grid).configs[0], Record(tmp_path / "runs" / load(grid).configs[0].run_id)
    record.start(tiny_run(seed=9))
    result = command("sweeps", "run", grid, "--runs", tmp_path / "runs", *FLAGS, "--workers", "1")
    assert result.returncode == 1
    assert f"failed: {first.run_id}" in result.stdout.replace("\n", " ")
    assert "2 of 3 runs are finished" in result.stdout
    assert record.config().seed == 9


def test_the_limit_of_an_epoch_begins_when_the_worker_is_ready(monkeypatch):
    """A start, with its imports, may take longer than an epoch; but not for ever."""
    worker = object.__new__(local.Worker)
    worker.pipe, theirs = multiprocessing.Pipe()
    worker.ready, worker.jobs = False, {"a": None, "b": None}
    worker.heard = {"a": time.monotonic() - 10, "b": time.monotonic()}
    assert worker.silent(5) == []
    monkeypatch.setattr(local, "START_SECONDS", 8.0)
    assert worker.silent(5) == ["a"]
    assert worker.silent(20) == []
    theirs.send(Ready())
    assert worker.receive() == []
    assert worker.silent(5) == []
    worker.heard["b"] -= 6
    assert worker.silent(5) == ["b"]


def test_a_driver_that_is_gone_ends_the_worker_also_with_events_unread(options):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, options))
    process.start()
    theirs.close()
    assert ours.poll(60)  # it is ready, which nobody reads
    ours.close()
    process.join(60)
    assert process.exitcode == 0


def pool(devices, runs=1):
    """An engine whose workers are pipes: (engine, the other ends)."""
    engine, ends = object.__new__(local.LocalEngine), []
    engine.epoch_limit, engine.pool = 0, []
    for device in devices:
        worker = object.__new__(local.Worker)
        worker.options, worker.leaving = Options(device=device), False
        worker.pipe, theirs = multiprocessing.Pipe()
        worker.runs, worker.ready = runs, True
        configs = [tiny_run(seed=seed) for seed in range(runs)]
        worker.jobs = {config.run_id: Job(config) for config in configs}
        worker.heard = dict.fromkeys(worker.jobs, time.monotonic())
        worker.process = SimpleNamespace(kill=lambda: None, join=lambda timeout=None: None)
        engine.pool.append(worker)
        ends.append(theirs)
    return engine, ends


def test_a_worker_without_memory_is_taken_off_its_device_but_not_the_last_one():
    engine, ends = pool(["cuda:0", "cuda:0", "cuda:1"])
    full = Failed(tiny_run().run_id, "CUDA out of memory", again=True, memory=True)
    for end, slots in zip(ends, (2, 2, 2), strict=True):
        end.send(full)
        assert engine.events() == [full]
        assert engine.slots() == slots
    ordinary = replace(full, memory=False)
    engine, ends = pool(["cuda:0", "cuda:0"])
    ends[0].send(ordinary)
    assert engine.events() == [ordinary]
    assert engine.slots() == 2


def test_a_packed_worker_without_memory_gets_one_run_less():
    engine, (end,) = pool(["cuda:0"], runs=3)
    full = Failed(tiny_run().run_id, "CUDA out of memory", again=True, memory=True)
    end.send(full)
    assert engine.events() == [full]
    assert (engine.slots(), engine.pool[0].room) == (2, 0)
    end.send(replace(full, run_id=tiny_run(seed=1).run_id))
    engine.events()
    end.send(replace(full, run_id=tiny_run(seed=2).run_id))
    engine.events()
    assert engine.slots() == 1  # not the last one


def test_a_packed_worker_that_hangs_fails_the_silent_runs_alone(tmp_path):
    engine, _ = pool(["cuda:0"], runs=3)
    worker, engine.epoch_limit = engine.pool[0], 5
    worker.options = Options(device="cuda:0", runs=tmp_path)
    one, other, third = worker.jobs
    worker.heard[other] -= 6
    failed, *rest = engine.events()
    assert (failed.run_id, failed.error) == (other, "no epoch was finished within 5 s")
    assert rest == [Waits(one), Waits(third)]
    assert worker.jobs == {}


def test_all_runs_of_a_packed_worker_that_dies_have_failed(tmp_path):
    engine, (end,) = pool(["cuda:0"], runs=2)
    engine.pool[0].options = Options(device="cuda:0", runs=tmp_path)
    engine.pool[0].process.exitcode = -9
    end.close()
    events = engine.events()
    assert [event.run_id for event in events] == [tiny_run(seed=seed).run_id for seed in (0, 1)]
    assert {event.error for event in events} == {
        "the worker died (signal 9, probably out of memory)"
    }


def test_a_worker_whose_gpu_fails_for_good_ends_after_its_event(options, monkeypatch, tmp_path):
    """CUDA's calls fail in such a process: the driver starts another one for the next run."""
    ended, sent = [], []
    config = tiny_run()
    pipe = SimpleNamespace(send=sent.append, recv=iter([config]).__next__, poll=lambda: False)

    def broken(*_, **__):
        raise RuntimeError("illegal access")
        yield

    monkeypatch.setattr(slots_module, "run_steps", broken)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def poisoned():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def leave(status):
        ended.append(status)
        raise EOFError

    options = replace(options, device="cpu")

    monkeypatch.setattr(torch.cuda, "synchronize", poisoned)
    monkeypatch.setattr(worker_module.os, "_exit", leave)
    monkeypatch.setattr(worker_module.signal, "signal", lambda *_: None)
    work(pipe, options)
    assert [type(event) for event in sent] == [Ready, Leaving, Failed]
    assert ended == [1]
    assert "illegal access" in sent[-1].error
    engine, (end, *_) = pool(["cuda:0"])
    joined = []
    engine.pool[0].process.join = lambda timeout=None: joined.append(1)
    end.send(Leaving())
    end.send(sent[-1])
    end.close()
    assert engine.events() == []
    assert engine.events() == [sent[-1]]
    assert joined == [1]


def test_the_neighbours_of_a_run_that_breaks_a_gpu_are_started_again():
    engine, (end,) = pool(["cuda:0"], runs=4)
    broken, done, *others = engine.pool[0].jobs
    events = [Failed(broken, "illegal access", again=True), Done(done, {})]
    for event in (Leaving(), *events):
        end.send(event)
    end.close()
    assert engine.events() == []
    assert engine.events() == [*events, *map(Waits, others)]


def test_memory_is_given_back_after_each_run(monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: called.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("empty_cache"))
    assert worker_module.gpu_works()
    assert called == ["synchronize", "empty_cache"]
