"""Published studies: the archive holds what the runs hold, and what is committed can be made
again."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.claims import judge_all
from analysis.report.build import build
from analysis.report.publish import publish
from analysis.runs.frames import TABLES, to_frames
from analysis.runs.load import load
from analysis.settings import completeness, named
from analysis.verdicts import NOT_TESTED
from benchmark.errors import UserError
from tests.support import simulate
from tests.support.commands import command, refusal
from tests.support.simulate import World

pytestmark = pytest.mark.xdist_group("archive")  # one process publishes it
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of runs, some of them unfinished or diverged, and what was published of it."""
    folder = tmp_path_factory.mktemp("study")
    configs = simulate.grid(timings=(4,), probe_epochs="1,3")
    simulate.simulate(
        folder / "runs", configs, World(loss={"magnitude": -0.1}, diverged=("grasp",))
    )
    (folder / "runs" / configs[0].run_id / "summary.json").unlink()
    publish(str(folder / "runs"), folder / "results")
    return folder


def test_an_archive_has_the_frames_of_the_runs(published):
    ours, runs = load(str(published / "results")), load(str(published / "runs"))
    runs = runs.only(runs.finished()["run_id"])
    assert (ours.runs["outcome"] == "diverged").any()
    assert len(ours.probes)
    assert len(ours.probe_ranks)
    assert ours.digest() == runs.digest()
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(ours, name), getattr(runs, name), check_exact=True)


@pytest.mark.slow
def test_its_report_is_the_one_of_the_runs(published, tmp_path):
    build(str(published / "runs"), tmp_path)
    ours, runs = (
        json.loads((folder / "claims.json").read_text())
        for folder in (published / "results", tmp_path)
    )
    assert ours["claims"] == runs["claims"]
    figures = {path.name for path in (published / "results" / "figures").iterdir()}
    assert figures == {path.name for path in (tmp_path / "figures").glob("*.png")}
    result = command("analysis", "publish", published / "runs", "--out", tmp_path / "study")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "study" / "claims.json").read_text())["claims"] == ours["claims"]


def test_a_broken_archive_is_one_line(published, tmp_path):
    shutil.copytree(published / "results", tmp_path / "study")
    file = tmp_path / "study" / "history.parquet"
    file.write_bytes(file.read_bytes()[:100])
    for break_it in (lambda: None, file.unlink):
        break_it()
        result = command("analysis", tmp_path / "study", "--out", tmp_path / "report")
        assert refusal(result).startswith(f"archive file {file} cannot be read")


def test_an_archive_of_others_is_named_and_an_older_one_is_read(published, tmp_path):
    shutil.copytree(published / "results", tmp_path, dirs_exist_ok=True)
    runs = pd.read_parquet(tmp_path / "runs.parquet")
    runs.drop(columns=["precision", "cut_momentum"]).to_parquet(tmp_path / "runs.parquet")
    assert load(str(tmp_path)).digest() == load(str(published / "results")).digest()
    assert set(load(str(tmp_path)).runs["precision"]) == {"float32"}
    runs.drop(columns=["measure"]).to_parquet(tmp_path / "runs.parquet")
    with pytest.raises(UserError, match=r"runs\.parquet lacks the columns measure$"):
        load(str(tmp_path))
    runs.to_parquet(tmp_path / "runs.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "kept.parquet")
    with pytest.raises(
        UserError,
        match=r"kept\.parquet lacks the columns conv, kept, layer, original, round, run_id$",
    ):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("table", "damage", "said"),
    [
        (
            "history",
            lambda t: t.assign(**{"train/loss": "low"}),
            "column train/loss must hold numbers",
        ),
        (
            "runs",
            lambda t: t.assign(epochs="many"),
            "runs.parquet: column epochs must hold numbers",
        ),
        (
            "history",
            lambda t: t.assign(run_id="x"),
            "history.parquet has rows of runs that are not in runs.parquet",
        ),
        ("runs", lambda t: pd.concat([t, t.head(1)]), "runs.parquet has run .* twice"),
        ("runs", lambda t: t.assign(rules=99), "rules must be 2 in this version, got 99"),
    ],
)
def test_an_archive_is_checked_and_blocks_no_other_source(
    published, tmp_path, table, damage, said, capsys
):
    shutil.copytree(published / "results", tmp_path / "broken")
    file = tmp_path / "broken" / f"{table}.parquet"
    damage(pd.read_parquet(file)).to_parquet(file)
    with pytest.raises(UserError, match=said):
        load(str(tmp_path / "broken"))
    frames = load([str(tmp_path / "broken"), str(published / "results")])
    assert frames.digest() == load(str(published / "results")).digest()
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("table", "damage", "said"),
    [
        (
            "history",
            lambda t, run: t[(t["run_id"] != run) | (t["epoch"] != 1)],
            "history has rows up to epoch",
        ),
        ("history", lambda t, run: t[t["run_id"] != run], "history has no rows"),
        (
            "history",
            lambda t, run: spoilt(t, run, "lr", 1e301),
            "row 1: lr must be a number or null",
        ),
        ("cuts", lambda t, run: t[t["run_id"] != run], r"cuts has 0 of \d cuts"),
        (
            "cuts",
            lambda t, run: spoilt(t, run, "epoch", 1.5),
            "cut 1: epoch must be a whole number",
        ),
        ("kept", lambda t, run: t[t["run_id"] != run], "cuts does not say for each conv"),
        (
            "probes",
            lambda t, run: t[(t["run_id"] != run) | (t["epoch"] != 3)],
            "probes does not have each cut of epoch 3 once",
        ),
        (
            "probes",
            lambda t, run: spoilt(t, run, "share", 0.3),
            "probe 1: share must be one of",
        ),
        (
            "probe_ranks",
            lambda t, run: t[t["run_id"] != run],
            "ranks does not have the same epochs as the probes",
        ),
        (
            "runs",
            lambda t, run: spoilt(t, run, "outcome", "splendid"),
            "outcome must be finished or diverged or coll",
        ),
        ("runs", lambda t, run: spoilt(t, run, "lr", 0.3), "its fields are those of"),
        ("runs", lambda t, run: spoilt(t, run, "lr", -1.0), "lr must be"),
    ],
)
def test_a_run_of_an_archive_that_is_not_whole_is_left_out_alone(
    published, tmp_path, table, damage, said, capsys
):
    shutil.copytree(published / "results", tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"{table}.parquet"
    whole = load(str(tmp_path)).runs
    measure = "none" if table.startswith("probe") else "random"
    run = whole.loc[whole["measure"] == measure, "run_id"].iloc[0]
    damage(pd.read_parquet(file), run).to_parquet(file)
    assert set(whole["run_id"]) - set(load(str(tmp_path)).runs["run_id"]) == {run}
    assert re.search(f"left out: archive .*, run {run}.*{said}", capsys.readouterr().err)


def spoilt(table, run, column, value):
    rows = table.astype({column: type(value)}) if isinstance(value, float) else table.copy()
    rows.loc[rows.index[rows["run_id"] == run][0], column] = value
    return rows


def test_an_archive_of_0_1_is_published_and_read_again(tmp_path):
    publish(str(ROOT / "tests" / "analysis" / "archive-0.1"), tmp_path)
    assert set(load(str(tmp_path)).runs["rules"]) == {1}


def test_an_archive_of_0_1_is_read(capsys):
    frames = load(str(ROOT / "tests" / "analysis" / "archive-0.1"))
    assert set(frames.runs["rules"]) == {1}  # their ids are not those that these fields have now
    assert len(frames.finished()) == len(frames.runs) == 36
    whole = completeness(frames)
    assert (whole.expected, len(whole.missing), whole.extra) == (36, 0, 0)
    assert len(frames.cuts) == 36 * 5
    empty = to_frames((), (), "")
    for name in ("probes", "probe_ranks"):  # its files are of before there were any
        pd.testing.assert_frame_equal(getattr(frames, name), getattr(empty, name))
    assert {item.verdict for item in judge_all(named(frames))} == {NOT_TESTED}
    assert capsys.readouterr().err == ""
