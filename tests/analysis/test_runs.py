"""Run records become tidy frames, and a bad folder one clear line."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.report.build import build
from analysis.runs.frames import TABLES, UNFINISHED, dense_controls, to_frames
from analysis.runs.load import load
from benchmark.config import RULES, RunConfig
from benchmark.errors import UserError
from benchmark.files import write_json, write_lines
from benchmark.record import HISTORY_KEYS, Record, run_folders
from tests.support import simulate

TINY = {
    "measures": ["magnitude", "grasp"],
    "timings": [2],
    "seeds": [0, 1],
    "epochs": 5,
    "rounds": [2],
}


def test_frames_hold_what_the_records_say(tmp_path):
    configs = simulate.grid(**TINY)
    simulate.simulate(tmp_path, configs)
    frames = load(str(tmp_path))
    assert set(frames.runs["run_id"]) == {config.run_id for config in configs}
    assert list(frames.history.columns) == ["run_id", *HISTORY_KEYS]
    assert len(frames.history) == len(configs) * 6
    run = next(config for config in configs if config.measure == "grasp")
    row = frames.runs.set_index("run_id").loc[run.run_id]
    assert (row["seed"], row["first_cut"], row["last_cut"], row["total"]) == (run.seed, 2, 3, 5)
    assert row["dense_id"] == run.dense().run_id
    assert row["dense_id"] in set(frames.runs["run_id"])
    cuts = [
        json.loads(line) for line in (tmp_path / run.run_id / "cuts.jsonl").read_text().splitlines()
    ]
    mine = frames.cuts[frames.cuts["run_id"] == run.run_id]
    assert mine["round"].tolist() == [1, 2]
    assert mine["after.grad_norm"].tolist() == [cut["after"]["grad_norm"] for cut in cuts]
    kept = frames.kept[(frames.kept["run_id"] == run.run_id) & (frames.kept["round"] == 2)]
    assert dict(zip(kept["conv"], kept["kept"], strict=True)) == cuts[1]["kept"]
    assert dict(zip(kept["conv"], kept["original"], strict=True)) == simulate.PLAN


def test_rank_correlations_of_a_cut_are_columns(tmp_path):
    configs = simulate.grid(**TINY)
    simulate.simulate(tmp_path, configs, simulate.World(agreement=True))
    frames = load(str(tmp_path))
    run = next(config for config in configs if config.measure == "grasp")
    cuts = [
        json.loads(line) for line in (tmp_path / run.run_id / "cuts.jsonl").read_text().splitlines()
    ]
    mine = frames.cuts[frames.cuts["run_id"] == run.run_id]
    assert mine["agreement.grasp|loss"].tolist() == [cut["agreement"]["grasp|loss"] for cut in cuts]


PROBE_COLUMNS = [
    "run_id", "epoch", "measure", "share", "draw", "kept_macs", "seconds",
    "before.loss", "before.grad_norm", "before.theta_g", "before.theta_hg",
    "after.loss", "after.grad_norm", "after.theta_g", "after.theta_hg",
    "predicted.loss_change", "predicted.grad_norm_sq_change",
    "actual.loss_change", "actual.grad_norm_sq_change",
]  # fmt: skip


@pytest.fixture
def probed(tmp_path):
    """The record of a dense run with cut probes, beside two pruned runs."""
    configs = simulate.grid(**TINY | {"seeds": [0]}, probe_epochs="1,3")
    simulate.simulate(tmp_path, configs)
    (record,) = (Record(tmp_path / config.run_id) for config in configs if config.probed)
    return record


def test_probes_are_frames(probed):
    frames = load(str(probed.folder.parent))
    rows, ranks = probed.probes()
    assert sorted(frames.probes.columns) == sorted(PROBE_COLUMNS)
    assert list(frames.probe_ranks.columns) == ["run_id", "epoch", "a", "b", "rho"]
    assert len(frames.probes) == len(rows) == 2 * 5 * 8
    assert set(frames.probes["run_id"]) == {probed.folder.name}
    for place in (0, 5, 79):
        cell, row = frames.probes.iloc[place], rows[place]
        for key in ("epoch", "measure", "share", "draw", "kept_macs", "seconds"):
            assert cell[key] == row[key]
        for state in ("before", "after", "predicted", "actual"):
            for key, value in row[state].items():
                found = cell[f"{state}.{key}"]
                assert np.isnan(found) if value is None else found == value
    assert frames.probe_ranks.drop(columns="run_id").to_dict("records") == ranks
    other = frames.only(set(frames.runs["run_id"]) - {probed.folder.name})
    assert other.probes.empty
    assert other.probe_ranks.empty


def test_frames_of_probes_have_their_columns_and_types_without_rows(probed):
    whole, empty = load(str(probed.folder.parent)), to_frames((), (), "")
    for name in ("probes", "probe_ranks"):
        ours, theirs = getattr(whole, name), getattr(empty, name)
        assert ours.dtypes.to_dict() == theirs.dtypes.to_dict()


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("probes.jsonl", lambda rows: rows[:-1], "does not have each cut of epoch 3 once"),
        ("probes.jsonl", lambda rows: rows[:40], "does not have each cut of epoch 3 once"),
        ("probes.jsonl", lambda rows: rows[40:], "does not have each cut of epoch 1 once"),
        ("probes.jsonl", lambda rows: [*rows, rows[0]], "does not have each cut of epoch 1 once"),
        (
            "probes.jsonl",
            lambda rows: [row for row in rows if row["share"] != 0.4],
            "does not have each cut of epoch 1 once",
        ),
        (
            "probes.jsonl",
            lambda rows: [*rows, rows[0] | {"epoch": 2}],
            "has rows of epoch 2, which is not to be probed",
        ),
        (
            "probes.jsonl",
            lambda rows: [rows[0] | {"seconds": "long"}, *rows[1:]],
            "probes.jsonl, line 1: seconds must be a number or null, got 'long'",
        ),
        (
            "probes.jsonl",
            lambda rows: [rows[0] | {"after": 3}, *rows[1:]],
            "probes.jsonl, line 1, after must be an object of numbers, got 3",
        ),
        ("probe_ranks.jsonl", lambda rows: rows[:3], "does not have the same epochs as the probes"),
        (
            "probe_ranks.jsonl",
            lambda rows: [rows[0] | {"rho": "high"}, *rows[1:]],
            "probe_ranks.jsonl, line 1: rho must be a number or null, got 'high'",
        ),
    ],
)
def test_probes_that_are_not_whole_are_named(probed, file, damage, said):
    path = probed.folder / file
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, damage(rows))
    frames = load(str(probed.folder.parent))
    assert probed.folder.name not in set(frames.runs["run_id"])
    (reason,) = frames.set_aside
    assert reason.startswith(f"record file {path}")
    assert reason.endswith(said)


@pytest.mark.parametrize("outcome", ["finished", "diverged"])
def test_a_net_that_diverged_need_not_be_probed(probed, outcome):
    """As `probe()` has it."""
    probed.probes_file.unlink()
    probed.probe_ranks_file.unlink()
    if outcome == "diverged":
        write_json(probed.summary_file, probed.summary() | {"outcome": outcome})
    else:
        history = probed.history()
        write_lines(probed.history_file, [row | {"test/loss": None} for row in history])
    assert load(str(probed.folder.parent)).set_aside == ()


def test_a_run_with_probes_is_the_dense_control_unless_there_is_a_plain_one(probed):
    runs, plain = probed.folder.parent, probed.config().dense()
    assert plain.run_id != probed.folder.name
    frames = load(str(runs))
    assert set(frames.runs["dense_id"]) == {plain.run_id}
    assert dense_controls(frames.runs).to_dict() == {plain.run_id: probed.folder.name}
    assert dense_controls(frames.runs[frames.runs["measure"] != "none"]).empty
    grid = [plain, RunConfig(measure="loss", epochs=5)]
    assert set(frames.of(grid).runs["run_id"]) == {probed.folder.name}
    simulate.simulate(runs, [plain])
    both = load(str(runs))
    assert dense_controls(both.runs).to_dict() == {plain.run_id: plain.run_id}
    assert set(both.of(grid).runs["run_id"]) == {plain.run_id}


def test_probes_of_several_sources_are_together(probed, tmp_path):
    other = tmp_path / "other"
    simulate.simulate(other, simulate.grid(**TINY | {"seeds": [1]}, probe_epochs="2"))
    (second,) = (record for record in map(Record, run_folders(other)) if record.config().probed)
    whole = load([str(probed.folder.parent), str(other)])
    assert whole.probes.groupby("run_id").size().to_dict() == {
        probed.folder.name: 80, second.folder.name: 40,
    }  # fmt: skip
    assert len(whole.probe_ranks) == 9


def test_null_is_nan_in_columns_of_floats(tmp_path):
    simulate.simulate(tmp_path, simulate.grid(**TINY), simulate.World(flow_every=100))
    history = load(str(tmp_path)).history
    assert history["flow/g_hg"].dtype == np.float64
    assert history.loc[history["epoch"] > 0, "flow/g_hg"].isna().all()
    assert history.loc[history["epoch"] == 0, "train/loss"].isna().all()


def test_unfinished_runs_are_known_but_have_no_rows(tmp_path):
    first, *others = simulate.grid(**TINY)
    simulate.simulate(tmp_path, others)
    simulate.simulate(tmp_path, [first], finished=False)
    frames = load(str(tmp_path))
    assert frames.runs.set_index("run_id").loc[first.run_id, "outcome"] == UNFINISHED
    assert first.run_id not in set(frames.history["run_id"]) | set(frames.cuts["run_id"])
    assert first.run_id not in set(frames.finished()["run_id"])


def test_the_digest_depends_on_the_set_of_runs_alone(tmp_path):
    configs = simulate.grid(**TINY)
    simulate.simulate(tmp_path / "a", configs)
    simulate.simulate(tmp_path / "b", configs[::-1])
    simulate.simulate(tmp_path / "c", configs[1:])
    a, b, c = (load(str(tmp_path / name)).digest() for name in "abc")
    assert a == b != c


def test_a_folder_without_finished_runs_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no finished run \(none at all\)"):
        load(str(tmp_path))
    simulate.simulate(tmp_path, simulate.grid(**TINY)[:2], finished=False)
    with pytest.raises(UserError, match=r"no finished run \(2 unfinished\)"):
        load(str(tmp_path))


def test_a_record_that_is_not_understood_blocks_no_other(tmp_path, capsys):
    configs = simulate.grid(**TINY)
    simulate.simulate(tmp_path, configs)
    broken, old, outside = (tmp_path / config.run_id for config in configs[:3])
    (broken / "history.jsonl").write_text("{}\nx\n")
    write_json(old / "config.json", Record(old).config().to_dict())
    own = RunConfig(
        **configs[2].to_dict() | {"measure": "cosine@0123456789ab", "arch": "ours@0123456789ab"}
    )
    outside.rename(tmp_path / own.run_id)
    write_json(tmp_path / own.run_id / "config.json", {"rules": RULES, **own.to_dict()})
    frames = load(str(tmp_path))
    assert len(frames.finished()) == len(configs) - 2
    assert own.run_id in set(frames.finished()["run_id"])
    assert len(frames.set_aside) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(line.startswith("warning: left out: ") for line in told)
    assert any("history.jsonl, line 2, is not valid JSON" in line for line in told)
    assert any("was made by flowprune 0.1" in line for line in told)
    build(str(tmp_path), tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "ours@0123456789ab" in page
    assert "was made by flowprune 0.1" in page


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", '{"rules": 2, "wight": 1}'),
        ("history.jsonl", "{}\nx\n"),
        ("summary.json", ""),
    ],
)
def test_a_broken_record_is_named(tmp_path, file, content):
    config = simulate.grid(**TINY)[0]
    simulate.simulate(tmp_path, [config])
    (tmp_path / config.run_id / file).write_text(content)
    with pytest.raises(UserError, match=f"{config.run_id}/{file}"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        (
            "history.jsonl",
            {"train/loss": "low"},
            "history.jsonl, line 1: train/loss must be a number or null, got 'low'",
        ),
        (
            "cuts.jsonl",
            {"after": None},
            "cuts.jsonl, line 1, after must be an object of numbers, got None",
        ),
        (
            "cuts.jsonl",
            {"kept": {"a": None}},
            "cuts.jsonl, line 1, kept: a must be a whole number, got None",
        ),
        ("cuts.jsonl", {"epoch": "0"}, "cuts.jsonl, line 1: epoch must be a whole number, got '0'"),
        (
            "cuts.jsonl",
            {"agreement": [1]},
            "cuts.jsonl, line 1, agreement must be an object of numbers, got [1]",
        ),
        (
            "summary.json",
            {"outcome": "done"},
            "outcome must be finished or diverged or collapsed, got 'done'",
        ),
        ("summary.json", {"before": 3}, "summary.json, before must be an object of numbers, got 3"),
        (
            "summary.json",
            {"plan": {}},
            "summary.json, plan.before must be an object of numbers, got None",
        ),
        (
            "summary.json",
            {"versions": "new"},
            "summary.json: versions must be an object, got 'new'",
        ),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path, file, damage, said):
    config = simulate.grid(**TINY)[0]
    simulate.simulate(tmp_path, [config])
    path = tmp_path / config.run_id / file
    first, *others = path.read_text().splitlines() if file.endswith("jsonl") else [path.read_text()]
    path.write_text("\n".join([json.dumps(json.loads(first) | damage), *others, ""]))
    with pytest.raises(UserError) as raised:
        load(str(tmp_path))
    assert str(raised.value).endswith(said)


def test_several_sources_are_one_where_a_run_counts_once(tmp_path):
    configs = simulate.grid(seeds=[0, 1])
    simulate.simulate(tmp_path / "all", configs)
    simulate.simulate(tmp_path / "one", configs[:4])
    simulate.simulate(tmp_path / "other", configs[2:])
    simulate.simulate(tmp_path / "begun", configs[:1], finished=False)
    together = load([str(tmp_path / name) for name in ("begun", "one", "other")])
    whole = load(str(tmp_path / "all"))
    assert together.source == " + ".join(str(tmp_path / name) for name in ("begun", "one", "other"))
    for name in TABLES:
        ours, theirs = (getattr(frames, name) for frames in (together, whole))
        keys = [key for key in ("run_id", "epoch", "round", "layer") if key in theirs]
        ours, theirs = (frame.sort_values(keys, ignore_index=True) for frame in (ours, theirs))
        pd.testing.assert_frame_equal(ours, theirs, check_like=True)
