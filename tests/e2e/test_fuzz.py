"""Random records, W&B rows, archives and command lines: an answer or one line, never a
traceback."""

import copy
import json
import math
import shutil

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from analysis.runs import wandb_run as mirrors
from analysis.runs.archive import write
from analysis.runs.frames import to_frames
from analysis.runs.load import load
from benchmark.__main__ import Command, from_agent
from benchmark.cli import parse
from benchmark.errors import UserError
from benchmark.record import Record
from benchmark.tracking.rows import sent_config, sent_files, sent_rows, sent_summary
from tests.support import simulate

MANY = settings(
    max_examples=500, deadline=None, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5),
    st.sampled_from([1e30, -1e30, 10**40, math.nan, math.inf, 0.5]), st.text(max_size=20),
    st.sampled_from(["NaN", "2024-05-01", "x" * 300, "None", "1e-4", "trained", "none"]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip
CONFIGS = simulate.grid(measures=("magnitude", "loss"), timings=(2,), seeds=(0,), epochs=4)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    simulate.simulate(folder, CONFIGS)
    return folder


def places(value, path=()):
    """Every place in nested JSON."""
    yield path
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in inside:
        yield from places(part, (*path, key))


def changed(value, path, new):
    """A copy with another value in one place."""
    if not path:
        return new
    value = copy.deepcopy(value)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = new
    return value


def read(*sources):
    """The frames, which may leave out records that are not understood."""
    try:
        return load(list(map(str, sources)))
    except UserError as error:
        return str(error)


@pytest.mark.slow
@seed(1)
@MANY
@given(data=st.data(), new=ODD)
def test_records(records, tmp_path, data, new):
    folder = tmp_path / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(records, folder)
    record = Record(folder / CONFIGS[0].run_id)
    name = data.draw(
        st.sampled_from(["config.json", "history.jsonl", "cuts.jsonl", "summary.json"])
    )
    file = record.folder / name
    lines = name.endswith("l")
    content = (
        [json.loads(line) for line in file.read_text().splitlines()]
        if lines
        else json.loads(file.read_text())
    )
    content = changed(content, data.draw(st.sampled_from(list(places(content)))), new)
    texts = (
        map(json.dumps, content) if lines and isinstance(content, list) else [json.dumps(content)]
    )
    file.write_text("".join(text + "\n" for text in texts))
    frames = read(folder)
    assert set(frames.finished()["run_id"]) >= {config.run_id for config in CONFIGS[1:]}


@pytest.mark.slow
@seed(2)
@MANY
@given(data=st.data(), new=ODD)
def test_rows_of_wandb(records, data, new):
    found = []
    for config in CONFIGS:
        record = Record(records / config.run_id)
        files = sent_files(record)
        found.append(
            {
                "config": sent_config(config),
                "summary": sent_summary(record.summary(), files),
                "history": sent_rows(record.history(), record.cuts()),
                "files": {name: content.decode() for name, content in files.items()},
            }
        )
    told = json.loads(found[0]["files"]["summary.json"])
    told = changed(told, data.draw(st.sampled_from([(), *places(told)])), data.draw(ODD))
    if data.draw(st.booleans()):
        found[0]["files"]["summary.json"] = json.dumps(told)
        found[0]["summary"]["lines/summary"] = 1
    part = data.draw(st.sampled_from(["config", "summary", "history"]))
    inside = [place for place in places(found[0][part]) if len(place) > (part == "history")]
    found[0][part] = changed(found[0][part], data.draw(st.sampled_from(inside or [()])), new)
    if not isinstance(found[0][part], list if part == "history" else dict):
        return  # the client never gives this
    made = [mirrors.Mirror(str(i), "finished", "2026", 5, **parts) for i, parts in enumerate(found)]
    runs, broken, set_aside = mirrors.runs(made, "entity/project")
    frames = to_frames(runs, set_aside, "wandb:entity/project")
    assert len(frames.finished()) + len(broken) + len(set_aside) >= len(CONFIGS) - 1


@pytest.mark.slow
@seed(3)
@MANY
@given(data=st.data(), new=ODD)
def test_archives(records, tmp_path, data, new):
    folder = tmp_path / "study"
    if not folder.exists():
        write(load(str(records)), folder)
    whole = tmp_path / "whole"
    if not whole.exists():
        shutil.copytree(folder, whole)
    name = data.draw(st.sampled_from(["runs", "history", "cuts", "kept"]))
    table = pd.read_parquet(whole / f"{name}.parquet")
    column = data.draw(st.sampled_from(list(table)))
    values = table[column].astype(object).to_list()
    values[data.draw(st.integers(0, len(values) - 1))] = new
    try:
        table.assign(**{column: values}).to_parquet(folder / f"{name}.parquet", index=False)
    except (ValueError, TypeError, OverflowError):  # of pyarrow: such a column cannot be in a file
        shutil.copy(whole / f"{name}.parquet", folder)
        return
    assert read(folder) is not None
    assert len(read(folder, records).finished()) == len(CONFIGS)
    shutil.copy(whole / f"{name}.parquet", folder)


WORDS = [
    "--measure", "--epochs", "--lr", "--seed", "--wandb", "--prune-epoch", "--ratio=0.5",
    "--score-all=True", "--x", "loss", "1e-4", "-3", "", "trained", "magnitude", "--threads", "1",
    "--runs", "é", "9" * 40, "--help-me", "=",
]  # fmt: skip


@pytest.mark.slow
@seed(4)
@MANY
@given(words=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8)), max_size=6))
def test_command_lines(words, capsys):
    if {"--help", "-h"} & set(words):
        return
    status = None
    try:
        parse(Command, "python -m benchmark", "", from_agent(words))
    except SystemExit as end:
        status = end.code
    told = capsys.readouterr().err
    assert status in (None, 2)
    assert (told.startswith("error: "), told.count("\n")) == ((True, 1) if status else (False, 0))
