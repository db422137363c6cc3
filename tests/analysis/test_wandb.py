"""Runs that come back from W&B give the frames of the local records, cell by cell."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.runs import wandb as wandb_source
from analysis.runs.frames import TABLES, UNFINISHED, Frames
from analysis.runs.load import load
from analysis.runs.pull import Pull
from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.files import write_json, write_lines
from benchmark.record import Record
from benchmark.tracking import api as wandb_api
from benchmark.tracking.rows import sent_rows
from benchmark.tracking.tracker import WandbTracker, replay
from tests.support import simulate, time_pull
from tests.support.commands import command, refusal
from tests.support.planted import plant
from tests.support.wandb_server import ENTITY, HISTORY, Run

PROJECT = "pulled"
SOURCE = f"wandb:{ENTITY}/{PROJECT}"
TINY = {
    "measures": ["magnitude", "grasp"],
    "timings": [2],
    "seeds": [0, 1],
    "epochs": 5,
    "rounds": [2],
    "probe_epochs": "1,3",
}
"""Two measures cut twice, and dense controls with cut probes."""


@pytest.fixture
def pull(tmp_path):
    return Pull(cache=tmp_path / "cache")


def simulated(runs: Path, world: simulate.World | None = None, **fields: object) -> list[Record]:
    configs = simulate.grid(**{**TINY, **fields})
    simulate.simulate(runs, configs, world)
    return [Record(runs / config.run_id) for config in configs]


@pytest.fixture
def records(tmp_path, server):
    """Finished runs, here and on the server."""
    records = simulated(tmp_path / "runs")
    for record in records:
        plant(server, record, PROJECT)
    return records


def assert_same(theirs: Frames, ours: Frames) -> None:
    """Every cell, its type, and the order of rows and columns."""
    for name in TABLES:
        pd.testing.assert_frame_equal(
            getattr(theirs, name), getattr(ours, name), check_exact=True, obj=name
        )
    assert theirs.digest() == ours.digest()


def outcomes(frames: Frames) -> dict[str, str]:
    return dict(zip(frames.runs["run_id"], frames.runs["outcome"], strict=True))


def track(record: Record, files: Path, *, rows: int | None = None) -> None:
    """Tell the server of a record by the real tracker: all of it, or its first rows as an
    interrupted run does."""
    tracker = WandbTracker(record.config(), files, "online", project=PROJECT)
    if rows is None:
        replay(record, tracker)
        return
    for row in sent_rows(record.history()[:rows], ()):
        tracker.log(row)
    tracker.abandon(1)


def collapse(record: Record) -> None:
    """Make it a run whose second cut left no net to train."""
    history, (cut, *_) = record.history()[:4], record.cuts()
    write_lines(record.history_file, history)
    write_lines(record.cuts_file, [cut])
    write_json(record.summary_file, {**record.summary(), **history[-1], "outcome": "collapsed"})


def test_what_the_tracker_sends_comes_back_as_the_same_frames(server, pull, tmp_path):
    """Dense, one cut, several cuts, diverged, collapsed and unfinished runs; flow measured at some
    epochs alone."""
    runs = tmp_path / "runs"
    world = simulate.World(diverged=("random",), flow_every=2)
    records = simulated(
        runs, world, measures=["magnitude", "grasp", "random"], rounds=[1, 3], seeds=[0]
    )
    collapse(next(r for r in records if r.config().measure == "grasp" and r.config().rounds == 3))
    unfinished = next(record for record in records if record.config().measure == "magnitude")
    for record in records:
        track(record, tmp_path / "files", rows=3 if record is unfinished else None)
    unfinished.summary_file.unlink()
    local = load(str(runs))
    assert set(outcomes(local).values()) == {"finished", "diverged", "collapsed", UNFINISHED}
    assert all(len(getattr(local, name)) for name in TABLES)
    assert_same(load(SOURCE, pull), local)


def test_numbers_that_are_not_finite_come_back_as_nan(records, server, pull, tmp_path):
    record, mirror = records[0], server.runs[0]
    history = record.history()
    history[2]["flow/g_hg"] = history[3]["test/loss"] = history[4]["train/loss"] = None
    write_lines(record.history_file, history)
    for epoch, values in (
        (2, {"flow/g_hg": math.nan}),
        (3, {"test/loss": "NaN"}),
        (4, {"train/loss": "Infinity"}),
    ):
        mirror.lines[HISTORY][epoch] = json.dumps(json.loads(mirror.lines[HISTORY][epoch]) | values)
    assert_same(load(SOURCE, pull), load(str(tmp_path / "runs")))


def test_a_second_pull_asks_for_no_history_and_an_offline_one_for_nothing(
    records, server, pull, tmp_path
):
    local = load(str(tmp_path / "runs"))
    assert_same(load(SOURCE, pull), local)
    asked = [server.requests[name] for name in ("HistoryPage", "RunFiles", "storage")]
    dense = sum(bool(record.config().probed) for record in records)
    assert asked == [len(records), len(records), 2 * len(records) + dense]
    assert_same(load(SOURCE, pull), local)
    assert [server.requests[name] for name in ("HistoryPage", "RunFiles", "storage")] == asked
    requests = server.requests.total()
    assert_same(load(SOURCE, replace(pull, offline=True)), local)
    assert server.requests.total() == requests


@pytest.mark.parametrize("change", [{"heartbeat": "2031-01-01T00:00:00Z"}, {"state": "crashed"}])
def test_a_run_that_changed_is_pulled_again(records, server, pull, change):
    load(SOURCE, pull)
    asked, mirror = server.requests["HistoryPage"], server.runs[0]
    lines = mirror.lines[HISTORY]
    lines[1] = json.dumps(json.loads(lines[1]) | {"test/loss": 17.5})
    for name, value in change.items():
        setattr(mirror, name, value)
    history = load(SOURCE, pull).history.set_index(["run_id", "epoch"])
    assert server.requests["HistoryPage"] == asked + 1
    assert history.loc[(mirror.name, 1), "test/loss"] == 17.5


@pytest.mark.parametrize("content", ['{"id": ', '{"id": 1}', "[]"])
def test_a_broken_copy_is_pulled_again_and_named_offline(records, server, pull, content):
    load(SOURCE, pull)
    (copy,) = pull.cache.rglob(f"{records[0].folder.name}.json")
    copy.write_text(content)
    with pytest.raises(
        UserError, match=f"cache file {copy} is missing or broken: pull without --offline"
    ):
        load(SOURCE, replace(pull, offline=True))
    asked = server.requests["HistoryPage"]
    load(SOURCE, pull)
    assert server.requests["HistoryPage"] == asked + 1
    load(SOURCE, replace(pull, offline=True))


def test_of_several_runs_with_one_run_id_the_whole_one_counts(records, server, pull, tmp_path):
    """Agents, requeued and crashed runs: cut short, without rows, without a summary, and those of
    another time."""
    first, second, *_ = records
    plant(
        server,
        first,
        PROJECT,
        "short",
        state="crashed",
        heartbeat="2031-01-01T00:00:00Z",
        summary={},
    )
    gap = plant(server, first, PROJECT, "gap", heartbeat="2031-01-01T00:00:00Z")
    del gap.lines[HISTORY][2]
    plant(server, second, PROJECT, "empty", heartbeat="2031-01-01T00:00:00Z", lines={})
    older = plant(server, second, PROJECT, "older", heartbeat="2001-01-01T00:00:00Z")
    older.lines[HISTORY] = {
        k: json.dumps(json.loads(v) | {"test/loss": 9}) for k, v in older.lines[HISTORY].items()
    }
    assert_same(load(SOURCE, pull), load(str(tmp_path / "runs")))


def test_of_a_row_that_was_sent_twice_the_later_one_counts(records, server, pull, tmp_path):
    lines = server.runs[0].lines[HISTORY]
    rows = [json.loads(line) for line in lines.values()]
    again = [rows[2] | {"time/seconds": 99, "_step": 6}, rows[3] | {"_step": 7}]
    lines.update(enumerate(map(json.dumps, again), start=6))
    history = Record(records[0].folder).history()
    history[2]["time/seconds"] = 99.0
    write_lines(records[0].history_file, history)
    assert_same(load(SOURCE, pull), load(str(tmp_path / "runs")))


def test_an_ended_run_that_lacks_rows_counts_as_unfinished_with_a_warning(
    records, server, pull, capsys
):
    del server.runs[0].lines[HISTORY][2]
    found = outcomes(load(SOURCE, pull))
    assert [run_id for run_id, outcome in found.items() if outcome == UNFINISHED] == [
        server.runs[0].name
    ]
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        f"warning: 1 runs of W&B project {ENTITY}/{PROJECT} ended, but lack rows"
    )
    assert line.endswith(server.runs[0].name)


@pytest.mark.parametrize(
    "name", ["cuts.jsonl", "probes.jsonl", "probe_ranks.jsonl", "summary.json"]
)
@pytest.mark.parametrize("left", [None, pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_ended_run_that_lacks_a_file_or_rows_of_it_counts_as_unfinished(
    records, server, pull, capsys, name, left
):
    mirror = next(run for run in server.runs if name in run.files)
    if left is None:
        del mirror.files[name]
    else:
        lines = mirror.files[name].splitlines(keepends=True)
        mirror.files[name] = b"".join(lines[:left])
    found = outcomes(load(SOURCE, pull))
    assert [run_id for run_id, outcome in found.items() if outcome == UNFINISHED] == [mirror.name]
    assert capsys.readouterr().err.strip().endswith(f"completes them: {mirror.name}")


def test_a_diverged_run_that_lacks_its_cuts_counts_as_unfinished(server, pull, tmp_path):
    """Nothing but the summary says how many cuts it made."""
    records = simulated(tmp_path / "runs", simulate.World(diverged=("grasp",)))
    for record in records:
        plant(server, record, PROJECT)
    mirror = next(run for run in server.runs if run.config["measure"] == "grasp")
    del mirror.files["cuts.jsonl"]
    found = outcomes(load(SOURCE, pull))
    assert [run_id for run_id, outcome in found.items() if outcome == UNFINISHED] == [mirror.name]


def test_a_file_that_nobody_sent_does_not_count(records, server, pull, tmp_path):
    """What an earlier attempt with other cuts left on the server."""
    mirror = next(run for run in server.runs if "probes.jsonl" in run.files)
    mirror.files["cuts.jsonl"] = b'{"round": 1}\n'
    assert_same(load(SOURCE, pull), load(str(tmp_path / "runs")))


def test_many_files_are_in_pages_and_others_are_left_alone(records, server, pull, tmp_path):
    mirror = server.runs[0]
    others = {f"media/{number}.png": b"image" for number in range(60)}
    mirror.files = others | mirror.files
    assert_same(load(SOURCE, pull), load(str(tmp_path / "runs")))
    assert len(list(wandb_api.connect().run(f"{ENTITY}/{PROJECT}/{mirror.name}").files())) == len(
        mirror.files
    )


ODD_FILES = [
    ("cuts.jsonl", {"after": None}, "cuts.jsonl, line 1, after must be an object of numbers"),
    ("cuts.jsonl", None, "cuts.jsonl, line 1, must be an object, got None"),
    ("probes.jsonl", {"share": 0.3}, "probes.jsonl, line 1: share must be one of"),
    ("probes.jsonl", {"draw": -1}, "probes.jsonl, line 1: draw must be a whole number"),
    ("probes.jsonl", {"before": {"loss": "low"}}, "line 1, before: loss must be a number or null"),
    ("probe_ranks.jsonl", {"a": 3}, "probe_ranks.jsonl, line 1: a must be a text, got 3"),
]


@pytest.mark.parametrize(("name", "damage", "said"), ODD_FILES)
def test_an_odd_file_blocks_no_other_run(records, server, pull, capsys, name, damage, said):
    mirror = next(run for run in server.runs if name in run.files)
    first, *others = mirror.files[name].splitlines()
    changed = json.dumps(damage and json.loads(first) | damage).encode()
    mirror.files[name] = b"\n".join([changed, *others, b""])
    assert len(load(SOURCE, pull).finished()) == len(records) - 1
    told = capsys.readouterr().err.strip()
    assert told.startswith(f"warning: left out: W&B run {ENTITY}/{PROJECT}/{mirror.name}")
    assert said in told
    assert "\n" not in told


def test_a_file_that_is_nested_too_deeply_blocks_no_other_run(records, server, pull, capsys):
    mirror = next(run for run in server.runs if "cuts.jsonl" in run.files)
    mirror.files["cuts.jsonl"] = b"[" * 100_000
    mirror.summary["lines/cuts"] = 1
    assert len(load(SOURCE, pull).finished()) == len(records) - 1
    assert "RecursionError" in capsys.readouterr().err


def test_runs_of_others_are_left_out_and_pages_are_turned(records, server, pull, tmp_path):
    server.runs[:0] = [
        Run(ENTITY, PROJECT, f"other{i}", state="finished") for i in range(wandb_api.PAGE + 3)
    ]
    assert_same(load(SOURCE, pull), load(str(tmp_path / "runs")))
    assert server.requests["Runs"] == 2


def test_filters(records, server, pull):
    def measures(*conditions):
        frames = load(SOURCE, replace(pull, filter=conditions))
        return sorted(zip(frames.runs["measure"], frames.runs["seed"], strict=True))

    assert measures("measure=grasp", "seed=1") == [("grasp", 1)]
    assert measures("measure=grasp,none", "width=1") == [
        ("grasp", 0),
        ("grasp", 1),
        ("none", 0),
        ("none", 1),
    ]
    assert measures('{"config.seed": {"$gt": 0}, "state": "finished"}') == [
        ("grasp", 1),
        ("magnitude", 1),
        ("none", 1),
    ]
    offline = replace(pull, filter=("measure=grasp", "seed=1"), offline=True)
    assert load(SOURCE, offline).runs["measure"].tolist() == ["grasp"]
    with pytest.raises(
        UserError, match=r'no run of this suite that meets the filter \{"config.measure": "loss"\}$'
    ):
        load(SOURCE, replace(pull, filter=("measure=loss",)))
    with pytest.raises(
        UserError, match=r'has no pull of .* with the filter \{"config.seed": 1\}: it has .*"grasp"'
    ):
        load(SOURCE, replace(pull, filter=("seed=1",), offline=True))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            "mesure=loss",
            "filter must be a JSON object, or FIELD=VALUE with a field among measure, .* "
            "got 'mesure=loss'",
        ),
        (
            "prune_epoch=0,trained",
            r"filter prune_epoch must be a number of epochs \(.* retrain=restart\), got 'trained'",
        ),
        ("seed=one", "seed must be a whole number, got 'one'"),
        ("seed", "filter must be a JSON object, or FIELD=VALUE"),
        ('{"a": ', "is not valid JSON"),
    ],
)
def test_a_bad_filter_is_a_user_error(pull, condition, message):
    with pytest.raises(UserError, match=message):
        load(SOURCE, replace(pull, filter=(condition,)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            f"wandb:{ENTITY}/nope",
            f"W&B project {ENTITY}/nope does not exist, or is not yours to see",
        ),
        ("wandb:nope", r"source must be a runs folder or wandb:ENTITY/PROJECT, got 'wandb:nope'"),
    ],
)
def test_an_unknown_project_is_a_user_error(records, pull, source, message):
    with pytest.raises(UserError, match=message):
        load(source, pull)


def test_a_project_without_finished_runs_is_a_user_error(records, server, pull):
    for run in server.runs:
        run.state, run.summary = "running", {}
    with pytest.raises(
        UserError, match=f"W&B project {SOURCE} has no finished run \\(6 unfinished\\)"
    ):
        load(SOURCE, pull)


def test_a_configuration_of_another_run_is_named(records, server, pull, capsys):
    mirror, place = server.runs[0], f"warning: left out: W&B run {ENTITY}/{PROJECT}"
    mirror.raw_config["epochs"] = {"value": 7}
    assert len(load(SOURCE, pull).finished()) == len(records) - 1
    assert (
        capsys.readouterr()
        .err.strip()
        .startswith(f"{place}/{mirror.name} has run_id {mirror.name}, but")
    )
    mirror.raw_config["epochs"] = {"value": -7}
    assert len(load(SOURCE, pull).finished()) == len(records) - 1
    assert (
        capsys.readouterr()
        .err.strip()
        .startswith(f"{place}/{mirror.name}: epochs must be at least 1")
    )


def retell(mirror, **values):
    """Change its `summary.json`."""
    told = json.loads(mirror.files["summary.json"]) | values
    mirror.files["summary.json"] = json.dumps(told).encode() + b"\n"
    mirror.summary["lines/summary"] = 1


ODD_VALUES = [
    (
        "raw_config",
        "run_id",
        {"value": "2024-05-01"},
        "has run_id '2024-05-01', which is none of this suite",
    ),
    ("raw_config", "run_id", {"value": 17}, "has run_id 17, which is none"),
    ("raw_config", "run_id", {"value": ["a"]}, "has run_id ['a'], which is none"),
    ("raw_config", "run_id", {"value": "x" * 300}, "which is none of this suite"),
    ("raw_config", "rules", {"value": 1}, "was made by flowprune 0.1"),
    ("raw_config", "lr", {"value": "NaN"}, "lr must be"),
    ("raw_config", "measure", {"value": None}, "measure must be a text, got None"),
    ("summary", "epoch", 1e30, "epoch must be a whole number"),
    ("summary", "epoch", "four", "epoch must be a whole number"),
    ("summary", "seconds", "long", "seconds"),
    ("summary", "outcome", "splendid", "outcome must be finished"),
    ("summary", "outcome", ["finished"], "outcome must be finished"),
    ("summary", "device", 5, "device must be a text"),
    ("row", "epoch", 1e30, "epoch must be a whole number"),
    ("row", "epoch", "NaN", "epoch must be a whole number"),
]


@pytest.mark.parametrize(("part", "key", "value", "said"), ODD_VALUES)
def test_an_odd_run_blocks_no_other(records, server, pull, capsys, part, key, value, said):
    mirror = server.runs[0]
    if part == "row":
        place, line = next(iter(mirror.lines[HISTORY].items()))
        mirror.lines[HISTORY][place] = json.dumps(json.loads(line) | {key: value})
    elif part == "summary":
        retell(mirror, **{key: value})
    else:
        getattr(mirror, part)[key] = value
    assert len(load(SOURCE, pull).finished()) == len(records) - 1
    told = capsys.readouterr().err.strip()  # the progress bar leaves an empty line
    assert told.startswith(f"warning: left out: W&B run {ENTITY}/{PROJECT}/{mirror.name}")
    assert said in told
    assert "\n" not in told
    assert len(told) < 800


def test_an_odd_copy_of_a_run_does_not_stand_in_the_way_of_a_whole_one(
    records, server, pull, capsys
):
    plant(server, records[0], PROJECT, "another", heartbeat="2999-01-01T00:00:00Z")
    retell(server.runs[-1], device=5)
    assert len(load(SOURCE, pull).finished()) == len(records)
    assert f"{PROJECT}/another, summary.json: device must be a text" in capsys.readouterr().err


def test_local_and_pulled_runs_combine_with_a_filter(records, server, pull, tmp_path):
    frames = load([SOURCE, str(tmp_path / "runs")], replace(pull, filter=("seed=1",)))
    assert len(frames.finished()) == len(records)


def test_a_pull_that_fails_keeps_what_it_got(records, server, pull, monkeypatch):
    real, asked = wandb_source.pulled_run, []

    def some(run, cache):
        asked.append(run.id)
        if len(asked) > 3:
            raise UserError("the server is gone")
        return real(run, cache)

    with monkeypatch.context() as patch:
        patch.setattr(wandb_source, "pulled_run", some)
        patch.setattr(wandb_source, "THREADS", 1)
        with pytest.raises(UserError, match="the server is gone"):
            load(SOURCE, pull)
    assert set(load(SOURCE, replace(pull, offline=True)).finished()["run_id"]) == set(asked[:3])


def test_what_a_sweep_adds_to_a_configuration_does_not_matter(records, server, pull, tmp_path):
    cut = next(run for run in server.runs if run.config["measure"] == "grasp")
    cut.raw_config |= {"runs": {"value": "elsewhere"}, "score_all": {"value": True}}
    dense = next(run for run in server.runs if run.config["measure"] == "none")
    dense.raw_config["rounds"] = {"value": 5}  # a grid's value, which a dense run has no use for
    assert RunConfig(measure="none", rounds=5).canonical() == RunConfig(measure="none")
    assert_same(load(SOURCE, pull), load(str(tmp_path / "runs")))


@pytest.mark.slow
def test_lost_answers_are_asked_for_again(records, server, pull, tmp_path):
    server.fail(500, 1, "Runs")
    server.fail(429, 2, "HistoryPage")
    server.fail(500, 1, "RunFiles")
    server.fail(500, 1, "storage")
    assert_same(load(SOURCE, pull), load(str(tmp_path / "runs")))


@pytest.mark.slow
def test_a_server_that_gives_no_history_ends_the_pull(records, server, pull, monkeypatch):
    monkeypatch.setattr(wandb_source, "PATIENCE_SECONDS", 2)
    server.fail(500, math.inf, "HistoryPage")
    with pytest.raises(
        UserError, match="no run arrived within 2 s; the runs pulled so far are kept"
    ):
        load(SOURCE, pull)
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(10)
            assert not thread.is_alive()  # or the process could not end
    server.release()
    assert len(load(SOURCE, pull).finished()) == len(records)


def test_a_forbidden_history_is_one_line(records, server, pull):
    server.fail(403, math.inf, "HistoryPage")
    with pytest.raises(UserError, match=r"^W&B server http://[^\n]* error 403[^\n]*$"):
        load(SOURCE, pull)


def test_the_command_says_in_one_line_what_is_wrong(server, pull):
    done = command("analysis", SOURCE, "--cache", pull.cache, "--offline")
    said = f"has no pull of W&B project {ENTITY}/{PROJECT}: it has none of this project"
    assert said in refusal(done)


def test_without_a_key_is_one_line(records, pull, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match=r"^W&B server http://[^\n]*: No API key configured[^\n]*$"):
        load(SOURCE, pull)


@pytest.mark.parametrize(
    "given", [{"filter": ("seed=1",)}, {"offline": True}, {"cache": Path("cache")}]
)
def test_arguments_of_a_pull_are_for_projects_alone(records, given):
    with pytest.raises(
        UserError,
        match="source must be wandb:ENTITY/PROJECT if --filter, --offline or --cache is giv",
    ):
        load(str(records[0].folder.parent), Pull(**given))


def test_a_server_that_is_not_there_is_one_line(pull, server, monkeypatch):
    monkeypatch.setattr(wandb_api, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"^W&B server http://127.0.0.1:9: [^\n]*--offline uses them alone$"
    ):
        load(SOURCE, pull)


@pytest.mark.slow
def test_many_long_runs_are_pulled(server, pull, tmp_path):
    local = time_pull.plant_many(server, tmp_path / "runs", 200, 160)
    source = f"wandb:{ENTITY}/{time_pull.PROJECT}"
    for way in (pull, pull, replace(pull, offline=True)):
        assert_same(load(source, way), local)
    assert server.requests["HistoryPage"] == 200


@pytest.mark.slow
def test_the_command_gives_the_claims_of_the_local_source(records, server, pull, tmp_path):
    for name, source in (
        ("local", (tmp_path / "runs",)),
        ("pulled", (SOURCE, "--cache", pull.cache)),
    ):
        done = command("analysis", *source, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    local, pulled = (
        json.loads((tmp_path / name / "claims.json").read_text()) for name in ("local", "pulled")
    )
    assert pulled["claims"] == local["claims"]
    assert pulled["provenance"] == local["provenance"] | {"source": SOURCE}
