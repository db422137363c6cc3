"""What W&B gets of a run leads back to its record."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.config import RULES
from benchmark.errors import UserError
from benchmark.record import HISTORY_KEYS, Record
from benchmark.run import run
from benchmark.tracking.rows import (
    CUT_KEYS,
    flat,
    lacks_rows,
    part,
    record,
    sent_config,
    sent_files,
    sent_rows,
    sent_summary,
)
from tests.conftest import tiny_run
from tests.support import simulate

NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**31)
CONVS = ("b", "a.conv", "c")
SUMMARY = {"outcome": "finished"} | {key: {} for key in ("before", "after", "samples", "versions")}


def numbers(keys):
    """In this order, which hypothesis's own dictionaries do not keep."""
    keys = tuple(keys)
    values = st.tuples(*(NUMBER for _ in keys))
    return values.map(lambda found: dict(zip(keys, found, strict=True)))


CUT = st.fixed_dictionaries({"actual": numbers(["loss_change"]), "seconds": NUMBER})
ROW = st.tuples(numbers(HISTORY_KEYS), st.none() | CUT)


def returned(values):
    """As W&B returns them: through JSON, in another order, and 7.0 as 7."""
    values = {
        key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in values.items()
    }
    keys = list(values)
    random.Random(0).shuffle(keys)
    return json.loads(json.dumps({key: values[key] for key in keys}))


def known(values):
    """Without null."""
    return {key: value for key, value in values.items() if value is not None}


def as_texts(files):
    return {name: content.decode() for name, content in files.items()}


@settings(deadline=None, max_examples=50)
@given(made=st.lists(ROW, min_size=1, max_size=4), order=st.randoms(use_true_random=False))
def test_rows_lead_back_to_the_history(made, order):
    history = [{**row, "epoch": epoch} for epoch, (row, _) in enumerate(made)]
    cuts = [{"round": 1, "epoch": epoch, **cut} for epoch, (_, cut) in enumerate(made) if cut]
    sent = [returned(row) for row in sent_rows(history, cuts)]
    assert {key for row in sent for key in row} <= {*CUT_KEYS, *(k for row in history for k in row)}
    order.shuffle(sent)
    summary = SUMMARY | {"plan": {"before": dict.fromkeys(CONVS, 512)}}
    ours = record(sent, {"summary.json": json.dumps(summary)})
    assert ours[0] == history
    # what frames take from the order of keys
    assert [list(row) for row in ours[0]] == [list(row) for row in history]


@pytest.mark.parametrize("measure", ["magnitude", "random", "none"])
def test_a_simulated_record_comes_back(tmp_path, measure):
    (config,) = simulate.grid(
        measures=[measure], timings=[2], rounds=[2], seeds=[0], epochs=5, dense=False,
        probe_epochs="1,3",
    )  # fmt: skip
    world = simulate.World(diverged=("random",), flow_every=2, agreement=True)
    simulate.simulate(tmp_path, [config], world)
    local = Record(tmp_path / config.run_id)
    files = sent_files(local)
    assert set(files) == {"summary.json"} | (
        {"probes.jsonl", "probe_ranks.jsonl"} if measure == "none" else {"cuts.jsonl"}
    )
    assert files.get("cuts.jsonl", b"") == local.cuts_file.read_bytes()
    rows = [returned(row) for row in sent_rows(local.history(), local.cuts())]
    summary = returned(sent_summary(local.summary(), files))
    assert not lacks_rows(summary, as_texts(files))
    history, cuts, ended, *probes = record(rows, as_texts(files))
    assert history == local.history()
    assert cuts == local.cuts()
    assert tuple(probes) == local.probes()
    told = local.summary()
    told["plan"] = {"before": told["plan"]["before"]}
    assert ended.items() <= told.items()
    assert list(ended["plan"]["before"]) == list(told["plan"]["before"])


def test_of_a_cut_the_row_has_three_numbers(tmp_path):
    config, *_ = simulate.grid(measures=["loss"], timings=[2], rounds=[2], seeds=[0], epochs=5)
    simulate.simulate(tmp_path, [config])
    local = Record(tmp_path / config.run_id)
    history, cuts = local.history(), local.cuts()
    for row, macs in zip(history, (100, 100, 100, 60, 25, 25), strict=True):
        row["net/macs"] = macs
    rows = sent_rows(history, cuts)
    assert [row.get("cut/kept_macs") for row in rows] == [None, None, 0.6, 0.25, None, None]
    assert [row.get("cut/round") for row in rows] == [None, None, 1, 2, None, None]
    assert rows[3]["cut/loss_change"] == cuts[1]["actual"]["loss_change"]
    # a run that stopped right after its cut
    assert "cut/kept_macs" not in sent_rows(history[:3], cuts[:1])[2]
    assert "cut/round" in sent_rows(history[:3], cuts[:1])[2]


def test_a_run_logs_few_keys(options):
    """W&B's tables and its list of charts have one entry for each key of a history."""
    config = tiny_run(measure="loss", prune_epoch=1, rounds=2, epochs=4)
    run(config, options)
    local = Record(options.runs / config.run_id)
    keys = {key for row in sent_rows(local.history(), local.cuts()) for key in row}
    assert keys == {*HISTORY_KEYS, *CUT_KEYS}
    assert len(keys) <= 30


def test_files_that_lack_rows_are_noticed():
    files = {
        "cuts.jsonl": b'{"round": 1}\n{"round": 2}\n',
        "probes.jsonl": b'{"epoch": 1}\n',
        "summary.json": b"{\n}\n",
    }
    summary = sent_summary({}, files)
    assert not lacks_rows(summary, as_texts(files))
    assert lacks_rows(summary, {})
    assert lacks_rows(summary, as_texts(files | {"cuts.jsonl": b'{"round": 1}\n'}))
    assert lacks_rows(summary, as_texts(files | {"probe_ranks.jsonl": b"{}\n"}))
    assert lacks_rows({}, {})
    assert lacks_rows(summary, as_texts(files | {"summary.json": b"{}\n"}))


@pytest.mark.parametrize("text", ['{"round": ', "3", "[]"])
def test_a_file_of_something_else_is_an_error(text):
    with pytest.raises(ValueError, match=r"cuts\.jsonl, line 1, must be an object|Expecting"):
        record([], {"summary.json": json.dumps(SUMMARY), "cuts.jsonl": text})


@pytest.mark.parametrize("text", ["{", "3", "[]", "{}", '{"outcome": 1, "before": 2}'])
def test_a_summary_of_something_else_is_an_error(text):
    with pytest.raises((TypeError, ValueError, KeyError)):
        record([], {"summary.json": text})


def test_the_configuration_names_the_run():
    config = tiny_run()
    assert sent_config(config) == {
        **config.to_dict(),
        "run_id": config.run_id,
        "cell": config.cell,
        "rules": RULES,
    }


def test_nested_values_get_flat_names_and_back():
    tree = {"a": {"b": 1, "c": {"d": 2.5}}, "e": "text", "f": 0.0}
    odd = {"a": None, "b": math.nan, "c": {"d": math.inf}}
    assert flat(tree) == {"a/b": 1, "a/c/d": 2.5, "e": "text", "f": 0.0}
    assert flat(odd) == {}
    assert part(flat(tree), "a/") == {"b": 1, "c/d": 2.5}


def test_the_later_of_two_rows_and_numbers_as_texts():
    rows = [
        {"epoch": 0, "lr": 1},
        {"epoch": 1.0, "lr": "NaN", "test/loss": math.inf},
        {"epoch": 0, "lr": 2},
        {"_step": 3},
    ]
    files = {"summary.json": json.dumps(SUMMARY | {"plan": {"before": {}}})}
    history, *_ = record(rows, files)
    assert [(row["epoch"], row["lr"]) for row in history] == [(0, 2), (1, None)]
    assert history[1]["test/loss"] is None
    with pytest.raises(UserError, match="epoch must be a whole number"):
        record([{"epoch": -1}], files)
