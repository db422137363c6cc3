"""Finished records reach W&B once each, whatever was already there."""

import json
import math
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import pytest
from PIL import Image

from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.record import Record
from benchmark.tracking import tracker
from benchmark.tracking.rows import sent_files, sent_rows, sent_summary
from sweeps import push as push_module
from sweeps.push import push
from tests.benchmark.test_tracker import ours
from tests.support import simulate
from tests.support.commands import command, refusal
from tests.support.planted import plant
from tests.support.wandb_server import HISTORY

PROJECT = "pushed"
TINY = {"measures": ["grasp"], "timings": [2], "seeds": [0, 1], "epochs": 4, "rounds": [2]}


@pytest.fixture
def records(tmp_path):
    """Finished runs, two of them diverged and one with cut probes, and one that is not
    finished."""
    *finished, unfinished = simulate.grid(
        **{**TINY, "measures": ["grasp", "loss"], "seeds": [0, 1]}, probe_epochs="1,3"
    )
    simulate.simulate(tmp_path / "runs", finished, simulate.World(diverged=("loss",), flow_every=3))
    simulate.simulate(tmp_path / "runs", [unfinished], finished=False)
    return [Record(tmp_path / "runs" / config.run_id) for config in finished]


def assert_whole(server, record):
    """There is one W&B run with the id of the record, and it says the same."""
    (mirror,) = (run for run in server.runs if run.config.get("run_id") == record.folder.name)
    rows, files = sent_rows(record.history(), record.cuts()), sent_files(record)
    assert [
        {k: v for k, v in row.items() if not k.startswith("_")} for row in mirror.history
    ] == rows
    assert sent_summary(record.summary(), files).items() <= mirror.summary.items()
    assert files == ours(mirror.files)
    assert {
        **record.config().to_dict(),
        "run_id": record.folder.name,
    }.items() <= mirror.config.items()
    assert (mirror.name, mirror.project, mirror.state) == (record.folder.name, PROJECT, "finished")


def test_finished_runs_are_pushed_once(records, server, capsys):
    runs = records[0].folder.parent
    assert push(runs, PROJECT) == 0
    assert len(server.runs) == len(records)
    for record in records:
        assert_whole(server, record)
    printed = capsys.readouterr().out
    assert f"{len(records)} pushed, 0 already there, 0 failed" in printed
    assert printed.endswith(f"W&B: {server.url}/tester/{PROJECT}\n")
    lines, streamed = [dict(run.lines) for run in server.runs], server.requests["file_stream"]
    assert push(runs, PROJECT) == 0
    assert f"0 pushed, {len(records)} already there, 0 failed" in capsys.readouterr().out
    assert ([dict(run.lines) for run in server.runs], server.requests["file_stream"]) == (
        lines,
        streamed,
    )


def _cut_short(run):
    """As a kill in the middle of a push leaves it."""
    run.state, run.exitcode, run.summary = "running", None, {}
    run.lines[HISTORY] = {step: line for step, line in run.lines[HISTORY].items() if step < 3}


def _with_a_gap(run):
    del run.lines[HISTORY][1]


def _without_summary(run):
    run.state, run.summary = "running", {}


def _without_rows(run):
    run.lines.clear()


def _without_file(run):
    run.files.popitem()


def _with_a_file_that_did_not_arrive(run):
    run.files[next(iter(run.files))] = b""


def _of_an_earlier_version(run):
    """It had the numbers of cuts in the rows of its history, and a long summary."""
    run.files.clear()
    run.summary = {k: value for k, value in run.summary.items() if not k.startswith("lines/")}


def _with_another_number_of_rows(run):
    run.summary |= {key: 1 for key in run.summary if key.startswith("lines/")}


DAMAGES = [
    _cut_short, _with_a_gap, _without_summary, _without_rows, _without_file,
    _with_a_file_that_did_not_arrive, _of_an_earlier_version, _with_another_number_of_rows,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_run_is_completed(records, server, damage):
    for record in records:
        plant(server, record, PROJECT)
    broken = [run for run in server.runs if run.config["measure"] in ("grasp", "none")][-2:]
    for run in broken:
        damage(run)
    untouched = [dict(run.lines) for run in server.runs if run not in broken]
    assert push(records[0].folder.parent, PROJECT) == 0
    for record in records:
        assert_whole(server, record)
    assert [dict(run.lines) for run in server.runs if run not in broken] == untouched


def test_runs_of_agents_count_and_are_never_written_to(records, server):
    whole = plant(server, records[0], PROJECT, name="agent1")
    broken = plant(server, records[1], PROJECT, name="agent2", state="crashed")
    del broken.lines[HISTORY][1]
    before = [(dict(run.lines), dict(run.summary)) for run in (whole, broken)]
    assert push(records[0].folder.parent, PROJECT) == 0
    assert [(dict(run.lines), dict(run.summary)) for run in (whole, broken)] == before
    names = {run.name for run in server.runs}
    assert names == {"agent1", "agent2", *(record.folder.name for record in records[1:])}


def test_a_push_that_was_killed_is_completed_by_the_next(records, server):
    runs = records[0].folder.parent
    server.hang("file_stream")
    line = [sys.executable, "-m", "sweeps", "push", str(runs), "--project", PROJECT]
    process = subprocess.Popen(line, start_new_session=True)
    while len(server.runs) < len(records) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.release()
    assert len(server.runs) == len(records)
    assert push(runs, PROJECT) == 0
    for record in records:
        assert_whole(server, record)


def test_a_deleted_run_gets_a_new_id_if_asked_for(records, server, capsys, monkeypatch):
    import wandb  # here, because a machine for GPUs need not have it

    monkeypatch.setattr(tracker, "INIT_SECONDS", 2.0)  # the client asks again for so long
    runs, deleted = records[0].folder.parent, records[0].folder.name
    assert push(runs, PROJECT) == 0
    wandb.Api().run(f"tester/{PROJECT}/{deleted}").delete()
    capsys.readouterr()
    assert push(runs, PROJECT) == 1
    captured = capsys.readouterr()
    (line,) = (line for line in captured.err.splitlines() if line.startswith("failed"))
    assert line == (
        f"failed: {deleted}: W&B run {deleted} was deleted on the server, which does not take its "
        "id again: push with --suffix 2 gives a new one"
    )
    assert push(runs, PROJECT, suffix="2") == 0
    assert f"1 pushed, {len(records) - 1} already there" in capsys.readouterr().out
    (mirror,) = (run for run in server.runs if run.config["run_id"] == deleted)
    assert mirror.name == f"{deleted}-2"
    assert push(runs, PROJECT) == 0  # it counts
    assert f"0 pushed, {len(records)} already there" in capsys.readouterr().out
    with pytest.raises(UserError, match="suffix must be up to 20 letters, digits or _, got 'a b'"):
        push(runs, PROJECT, suffix="a b")


def test_failed_runs_are_named_and_the_others_pushed(records, server, monkeypatch, capsys):
    broken = records[0]
    broken.history_file.write_text("{}\n")
    assert push(broken.folder.parent, PROJECT) == 1
    captured = capsys.readouterr()
    (line,) = (line for line in captured.err.splitlines() if line.startswith("failed"))
    assert line.startswith(
        f"failed: {broken.folder.name}: record file {broken.history_file}, line 1, has epoch None"
    )
    assert f"{len(records) - 1} pushed, 0 already there, 1 failed" in captured.out
    for record in records[1:]:
        assert_whole(server, record)


def test_a_push_that_is_stopped_leaves_the_rest():
    done = []

    def execute(number):
        time.sleep(0.02)
        done.append(number)
        return push_module.PUSHED

    tasks = {str(number): partial(execute, number) for number in range(200)}
    outcomes = push_module.outcomes(tasks)
    next(outcomes)
    with pytest.raises(KeyboardInterrupt):
        outcomes.throw(KeyboardInterrupt)
    assert len(done) < 100


def test_after_failures_in_a_row_the_rest_is_not_tried(records, server, monkeypatch, capsys):
    monkeypatch.setattr(push_module, "THREADS", 1)
    monkeypatch.setattr(push_module, "GIVE_UP", 2)
    server.fail(403, math.inf, "UpsertBucket")
    assert push(records[0].folder.parent, PROJECT) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed")]
    assert len(lines) == len(records)
    assert sum("not tried after 2 failures in a row" in line for line in lines) >= len(records) - 3


def test_figures_become_one_run(records, server, tmp_path, capsys):
    runs, report = records[0].folder.parent, tmp_path / "report"
    with pytest.raises(UserError, match=r"has no figures/\*.png"):
        push(runs, PROJECT, figures=report)
    (report / "figures").mkdir(parents=True)
    for color in ("red", "blue"):
        Image.new("RGB", (8, 8), color).save(report / "figures" / f"{color}.png")
    with pytest.raises(UserError, match=r"claims\.json is missing"):
        push(runs, PROJECT, figures=report)
    write_json(report / "claims.json", {"claims": [{"id": "C1"}]})
    with pytest.raises(
        UserError, match=r"claims\.json must be a report's, with claims that have id and verdict"
    ):
        push(runs, PROJECT, figures=report)
    write_json(report / "claims.json", {"claims": [{"id": "C1", "verdict": "refuted"}]})
    for _ in range(2):
        assert push(runs, PROJECT, figures=report) == 0
    assert f"0 pushed, {len(records) + 1} already there" in capsys.readouterr().out
    (mirror,) = (run for run in server.runs if run.job_type == "report")
    images = list((report / "figures").glob("*.png"))
    assert {file.read_bytes() for file in images} == {
        c for name, c in mirror.files.items() if name.endswith(".png")
    }
    assert mirror.summary["claims/C1"] == "refuted"
    assert not {"wandb-metadata.json", "requirements.txt", "config.yaml"} & set(mirror.files) - {
        "config.yaml"
    }
    sent = json.dumps([mirror.raw_config, mirror.summary]) + "".join(map(str, mirror.files.items()))
    assert not any(
        private in sent for private in (socket.gethostname(), sys.executable, sys.argv[0])
    )
    assert len(server.runs) == len(records) + 1


@pytest.mark.parametrize("arguments", [["--project", "a/b"], ["--project", ""]])
def test_a_bad_project_is_one_line(records, arguments):
    done = command("sweeps", "push", records[0].folder.parent, *arguments)
    assert "project must be a name" in refusal(done)


def test_nothing_to_push_is_a_user_error(tmp_path, server):
    with pytest.raises(UserError, match="does not exist"):
        push(tmp_path / "nowhere", PROJECT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no finished run"):
        push(tmp_path / "empty", PROJECT)


def test_without_a_key_is_one_line(records, server, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match=r"No API key configured. Use `wandb login` to log in$"):
        push(records[0].folder.parent, PROJECT)
