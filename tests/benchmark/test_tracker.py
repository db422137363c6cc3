"""Mirroring to W&B: offline, online, over interruptions and faults, with the real client."""

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark import run as run_module
from benchmark.__main__ import from_agent
from benchmark.errors import UserError
from benchmark.record import Record
from benchmark.run import run
from benchmark.tracking import tracker as track
from benchmark.tracking.rows import (
    FILES,
    file_name,
    sent_config,
    sent_files,
    sent_rows,
    sent_summary,
)
from benchmark.tracking.tracker import default_mode
from benchmark.training import probes
from benchmark.training.cut import CutError
from tests.benchmark.test_probes import few
from tests.conftest import tiny_run
from tests.support.wandb_server import MANIFEST

CUT = {"measure": "loss", "prune_epoch": 1, "rounds": 2, "epochs": 3}
FINISHING = "Timed out finishing run"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(track.DetachedTracker, "paused_until", -math.inf)


@pytest.fixture
def online(options, server):
    return dataclasses.replace(options, wandb="online")


def record_of(config, options):
    return Record(options.runs / config.run_id)


def mirrored(record):
    """The rows, summary and files that a server must have of a record."""
    files = sent_files(record)
    rows = sent_rows(record.history(), record.cuts())
    return rows, sent_summary(record.summary(), files), files


def ours(files):
    """Those of the files of a W&B run that are not wandb's own."""
    return {name: content for name, content in files.items() if name in map(file_name, FILES)}


def assert_complete(run, record):
    rows, summary, files = mirrored(record)
    assert [{k: v for k, v in row.items() if not k.startswith("_")} for row in run.history] == rows
    assert [row["_step"] for row in run.history] == [row["epoch"] for row in rows]
    assert summary.items() <= run.summary.items()
    assert files == ours(run.files)
    assert run.state == "finished"


def stop_at(epoch, error):
    def watch(progress):
        if progress.row["epoch"] == epoch:
            raise error

    return watch


def inspect(folder):
    """The records of an offline run, by wandb's own reader."""
    (file,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_one_offline_run_per_run_with_all_rows(options):
    options = dataclasses.replace(options, wandb="offline")
    config = tiny_run(measure="loss", prune_epoch=1, epochs=2)
    run(config, options)
    folders = list((options.runs / "wandb").glob("offline-run-*"))
    assert [folder.name.endswith(config.run_id) for folder in folders] == [True]
    text = inspect(folders[0])
    for row in Record(options.runs / config.run_id).history():
        assert json.dumps(row["test/loss"]) in text
    assert "cut/loss_change" in text
    assert "cuts.jsonl" in text
    assert (folders[0] / "files" / "cuts.jsonl").read_bytes() == record_of(
        config, options
    ).cuts_file.read_bytes()
    assert config.cell in text


def test_an_interrupted_run_leaves_one_complete_offline_run(options):
    options = dataclasses.replace(options, wandb="offline")
    config = tiny_run(epochs=3)
    with pytest.raises(KeyboardInterrupt):
        run(config, options, stop_at(2, KeyboardInterrupt))
    run(config, options)
    (folder,) = (options.runs / "wandb").glob("offline-run-*")
    text = inspect(folder)
    assert all(
        json.dumps(row["test/loss"]) in text
        for row in Record(options.runs / config.run_id).history()
    )


def test_the_server_gets_the_record(online, server, capsys):
    config = tiny_run(**CUT, seed=3).canonical()
    run(config, online)
    mirror = server.run("flowprune")
    assert_complete(mirror, record_of(config, online))
    assert mirror.name == config.run_id
    assert mirror.config == sent_config(config)
    assert mirror.group == "loss vgg13 digits p0.5 @1x2"
    assert mirror.job_type == "pruned"
    assert set(mirror.tags) == {"loss", "vgg13", "digits", "seed-3"}
    assert {key for row in mirror.history for key in row if key.startswith("cut/")} == {
        "cut/round", "cut/loss_change", "cut/kept_macs",
    }  # fmt: skip
    assert len({key for row in mirror.history for key in row if not key.startswith("_")}) <= 30
    assert len(mirror.summary) <= 40, sorted(mirror.summary)
    since = record_of(config, online).history()[3:]
    assert mirror.summary["best/test/accuracy"] == max(row["test/accuracy"] for row in since)
    assert mirror.summary["best/train/loss"] == min(row["train/loss"] for row in since)
    captured = capsys.readouterr()
    assert captured.out == f"W&B: {server.url}/tester/flowprune/runs/{config.run_id}\n"
    assert captured.err == ""


def test_the_server_gets_probes(online, server, monkeypatch):
    few(monkeypatch)
    monkeypatch.setattr(probes, "PROBE_SHARES", (0.1,))
    config = tiny_run(measure="none", probe_epochs="1", epochs=1)
    run(config, online)
    mirror, record = server.run("flowprune"), record_of(config, online)
    assert_complete(mirror, record)
    assert mirror.job_type == "probes"
    assert mirror.files["probes.jsonl"] == record.probes_file.read_bytes()
    assert mirror.files["probe_ranks.jsonl"] == record.probe_ranks_file.read_bytes()


def test_files_are_sent_once_at_the_end(online, server):
    def uploads(progress):
        counts.append(server.requests["CreateRunFiles"])

    counts, config = [], tiny_run(**CUT)
    run(config, online, uploads)
    assert set(ours(server.run("flowprune").files)) == {"cuts.jsonl", "summary.json"}
    assert counts[-1] <= 1  # W&B's own files
    assert server.requests["storage"] <= 5


def test_files_that_do_not_arrive_are_one_warning(online, server, monkeypatch, capsys):
    monkeypatch.setattr(track, "CONFIRM_PAUSES", (0.0, 0.1))
    server.fail(404, math.inf, "storage")
    config = tiny_run(**CUT | {"epochs": 3})
    assert run(config, online)["outcome"] == "finished"
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "W&B failed (4 of 4 rows arrived, but not all of cuts.jsonl, summary.json); the run" in line
    )
    assert "python -m sweeps push" in line


def test_the_final_net_is_sent_as_an_artifact_if_asked_for(online, server, capsys):
    config = tiny_run(measure="none", epochs=1)
    kept = dataclasses.replace(online, keep_model=True)
    run(config, kept)
    assert server.artifacts == []
    run(config, dataclasses.replace(kept, wandb_model=True))  # a finished run sends it too
    (artifact,) = server.artifacts
    names = (artifact.collection, artifact.type, artifact.run, artifact.state)
    assert names == (f"model-{config.run_id}", "model", config.run_id, "COMMITTED")
    assert artifact.files["model.pt"] == record_of(config, kept).model_file.read_bytes()
    assert str(kept.runs) not in artifact.files[MANIFEST].decode()
    assert_complete(server.run("flowprune"), record_of(config, kept))
    other = tiny_run(measure="none", epochs=1, seed=1)
    run(other, dataclasses.replace(kept, wandb_model=True))
    assert [a.run for a in server.artifacts] == [config.run_id, other.run_id]
    assert capsys.readouterr().err == ""


def test_the_scores_are_sent_as_an_artifact_if_asked_for(online, server):
    config = tiny_run(**CUT)
    run(config, dataclasses.replace(online, wandb_scores=True))
    (artifact,) = server.artifacts
    names = (artifact.collection, artifact.type, artifact.run, artifact.state)
    assert names == (f"scores-{config.run_id}", "scores", config.run_id, "COMMITTED")
    scores = record_of(config, online).scores_folder
    assert {name: artifact.files[name] for name in ("cut-01.npz", "cut-02.npz")} == {
        path.name: path.read_bytes() for path in scores.iterdir()
    }
    run(tiny_run(measure="none"), dataclasses.replace(online, wandb_scores=True))
    assert len(server.artifacts) == 1  # no cuts, no scores


def test_a_final_net_that_does_not_arrive_is_one_warning(online, server, capsys):
    server.fail(400, times=math.inf, path="CreateArtifact")
    options = dataclasses.replace(online, keep_model=True, wandb_model=True)
    config = tiny_run(measure="none", epochs=1)
    assert run(config, options)["outcome"] == "finished"
    assert capsys.readouterr().err.count("warning: W&B failed (") == 1
    assert_complete(server.run("flowprune"), record_of(config, options))


def test_an_offline_run_has_the_final_net(options):
    options = dataclasses.replace(options, wandb="offline", keep_model=True, wandb_model=True)
    config = tiny_run(measure="none", epochs=1)
    run(config, options)
    (folder,) = (options.runs / "wandb").glob("offline-run-*")
    assert f"model-{config.run_id}" in inspect(folder)


def test_only_a_net_that_is_kept_can_be_sent(options):
    with pytest.raises(UserError, match="wandb_model needs keep_model"):
        dataclasses.replace(options, wandb_model=True)


def test_the_environment_names_project_and_entity(online, server, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    run(tiny_run(epochs=1), online)
    assert server.run("mine").entity == "us"


@pytest.mark.parametrize(
    ("error", "state"),
    [(KeyboardInterrupt(), "failed"), (SystemExit(143), "preempted"), (OSError("disk"), "failed")],
)
def test_an_interrupted_run_goes_on_with_no_row_twice_or_missing(online, server, error, state):
    config = tiny_run(**CUT)
    with pytest.raises(type(error)):
        run(config, online, stop_at(2, error))
    mirror = server.run("flowprune")
    assert mirror.state == state
    assert [row["epoch"] for row in mirror.history] == [0, 1]
    sent = [row["_timestamp"] for row in mirror.history]
    run(config, online)
    assert_complete(server.run("flowprune"), record_of(config, online))
    assert [row["_timestamp"] for row in mirror.history][
        :2
    ] == sent  # what is there is not sent again


def test_a_run_that_begins_anew_replaces_what_the_server_has(online, server, tmp_path):
    config = tiny_run(**CUT)
    run(config, online)
    elsewhere = dataclasses.replace(online, runs=tmp_path / "elsewhere")
    run(config, elsewhere)
    assert_complete(server.run("flowprune"), record_of(config, elsewhere))


def test_a_finished_run_is_reported_once(online, server):
    config = tiny_run(**CUT)
    run(config, dataclasses.replace(online, wandb="disabled"))
    for _ in range(2):
        run(config, online)
        assert_complete(server.run("flowprune"), record_of(config, online))


def test_a_sweep_gets_a_run_that_is_finished_already(online, server, monkeypatch):
    config = tiny_run(measure="none", epochs=2)
    run(config, dataclasses.replace(online, wandb="disabled"))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    monkeypatch.setenv("WANDB_PROJECT", "swept")
    run(config, online)
    mirror = server.run("swept", "given")
    assert mirror.sweep == "sweep1"
    assert_complete(mirror, record_of(config, online))


def test_a_sweeps_run_that_stops_in_its_dense_phase_is_handed_on(online, server, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    monkeypatch.setenv("WANDB_PROJECT", "swept")
    with pytest.raises(SystemExit):
        run(tiny_run(measure="loss", prune_epoch="trained"), online, stop_at(2, SystemExit(143)))
    assert server.run("swept", "given").state == "preempted"


def test_a_sweeps_run_goes_on_where_its_checkpoint_is_not(online, server, monkeypatch, tmp_path):
    """SIGTERM on one machine, the run is handed to another that has another runs folder: it begins
    anew."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    monkeypatch.setenv("WANDB_PROJECT", "swept")
    config, elsewhere = tiny_run(**CUT), dataclasses.replace(online, runs=tmp_path / "elsewhere")
    with pytest.raises(SystemExit):
        run(config, online, stop_at(3, SystemExit(143)))
    assert server.run("swept", "given").state == "preempted"
    run(config, elsewhere)
    assert_complete(server.run("swept", "given"), record_of(config, elsewhere))


def test_a_diverged_run_reaches_the_server(online, server):
    config = tiny_run(lr=1e30, momentum=0.0)
    assert run(config, online)["outcome"] == "diverged"
    assert_complete(server.run("flowprune"), record_of(config, online))


def test_a_collapsed_run_reaches_the_server(online, server, monkeypatch):
    def collapse(*_, **__):
        raise CutError("collapsed")

    monkeypatch.setattr(run_module, "make_cut", collapse)
    config = tiny_run(**CUT)
    assert run(config, online)["outcome"] == "collapsed"
    assert_complete(server.run("flowprune"), record_of(config, online))


def test_no_server_at_the_start(online, monkeypatch, capsys):
    monkeypatch.setattr(track, "INIT_SECONDS", 1.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert_unharmed(tiny_run(epochs=2), online, capsys)
    start = time.monotonic()
    run(tiny_run(epochs=2, seed=1), online)  # the next run does not wait again
    assert track.DetachedTracker.paused_until > start
    assert capsys.readouterr().err == ""


def test_without_a_key_nothing_is_trained(online, server, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    track.require_key.cache_clear()
    with pytest.raises(UserError, match=r"^wandb online needs an API key: `wandb login`"):
        run(tiny_run(epochs=2), online)
    assert not online.runs.exists()


@pytest.mark.parametrize("full", [False, True])
def test_nothing_private_is_sent(online, server, full):
    run(tiny_run(epochs=2), dataclasses.replace(online, wandb_full=full))
    mirror = server.run("flowprune")
    sent = json.dumps(
        [
            mirror.raw_config,
            mirror.summary,
            [list(lines.values()) for lines in mirror.lines.values()],
        ]
    )
    sent += "".join(f"{name} {content}" for name, content in mirror.files.items())
    for private in (
        socket.gethostname(),
        sys.executable,
        sys.argv[0],
        str(online.runs),
        os.getcwd(),
    ):
        assert private not in sent
    assert ("commit" in mirror.config) == full


@pytest.mark.slow
def test_a_server_that_fails_for_a_while_gets_everything(online, server, capsys):
    server.fail(500, 1, "file_stream")
    server.fail(429, 1, "file_stream")
    config = tiny_run(**CUT)
    run(config, online)
    assert_complete(server.run("flowprune"), record_of(config, online))
    assert server.requests["file_stream"] >= 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("limit", "fault", "reason"),
    [
        ("INIT_SECONDS", lambda server: server.fail(500, math.inf, "UpsertBucket"), "500"),
        pytest.param(
            "INIT_SECONDS", lambda server: server.hang("UpsertBucket"), "Timed out",
            marks=pytest.mark.slow,
        ),
        ("FINISH_SECONDS", lambda server: server.fail(500, math.inf, "file_stream"), FINISHING),
        pytest.param(
            "FINISH_SECONDS", lambda server: server.hang("file_stream"), FINISHING,
            marks=pytest.mark.slow,
        ),
        (
            "INIT_SECONDS", lambda server: server.fail(404, math.inf, "file_stream"),
            "0 of 3 rows arrived",
        ),
    ],
)  # fmt: skip
def test_a_broken_server_harms_no_run(online, server, monkeypatch, capsys, limit, fault, reason):
    monkeypatch.setattr(track, limit, 3.0 if "rows" in reason else 1.0)
    monkeypatch.setattr(track, "CONFIRM_PAUSES", (0.0, 0.1))
    fault(server)
    assert reason in assert_unharmed(tiny_run(epochs=2), online, capsys)


def assert_unharmed(config, options, capsys):
    """The record is whole and the user gets one warning, which is returned."""
    assert run(config, options)["outcome"] == "finished"
    record = record_of(config, options)
    assert record.finished
    assert [row["epoch"] for row in record.history()] == [0, 1, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: W&B failed (")
    assert line.endswith(f"python -m sweeps push {options.runs} --project flowprune")
    return line


def test_arguments_of_an_agent(monkeypatch):
    given = [
        "--prune_epoch=trained",
        "--score_all=True",
        "--_wandb={'t': {'1': [1]}}",
        "--seed=1",
        "--run_id=a-s1",
    ]
    assert from_agent(given) == [
        "--prune_epoch=trained",
        "--score_all",
        "--seed=1",
        "--run_id=a-s1",
    ]
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    assert from_agent([*given, "--cell=a"]) == ["--prune_epoch=trained", "--score_all", "--seed=1"]
    assert from_agent(["--score_all=False"]) == ["--no-score_all"]


def test_mode_without_an_option(monkeypatch):
    assert default_mode() == "offline"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    assert default_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert default_mode() == "disabled"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "status", "state"),
    [(signal.SIGKILL, -9, "running"), (signal.SIGTERM, 143, "preempted")],
)
def test_the_command_is_killed_and_given_again(server, tmp_path, number, status, state):
    config = tiny_run(**CUT | {"epochs": 8, "train_limit": 400})
    flags = [f"--{name}={value}" for name, value in config.to_dict().items()]
    command = [
        sys.executable,
        "-m",
        "benchmark",
        *flags,
        "--runs",
        tmp_path / "runs",
        "--wandb",
        "online",
    ]
    record = Record(tmp_path / "runs" / config.run_id)
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--threads", "1"], stderr=subprocess.PIPE, text=True
    )
    try:
        while record.last_epoch() < 4 or not server.runs:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait() == status
    finally:
        process.kill()
        errors = process.communicate()[1]
    assert errors == ""
    assert server.run("flowprune").state == state
    subprocess.run([*command, "--device", "cpu", "--threads", "1"], check=True, capture_output=True)
    assert_complete(server.run("flowprune"), record)


@pytest.mark.slow
def test_a_server_that_answers_null_is_one_warning(server, tmp_path):
    """wandb's service crashes then; its stack, and that of what wandb does about it, are not the
    user's business."""
    code = """
import sys
from pathlib import Path
from benchmark.tracking import tracker as track
from benchmark.options import Options
from benchmark.run import run
from tests.conftest import tiny_run
track.INIT_SECONDS = track.FINISH_SECONDS = 5.0
run(tiny_run(epochs=2), Options(runs=Path(sys.argv[1]), wandb="online", device="cpu"))
"""
    server.null = True
    line = [sys.executable, "-c", code, str(tmp_path / "runs")]
    result = subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("warning: W&B failed (")
    assert result.stderr.count("\n") == 1
