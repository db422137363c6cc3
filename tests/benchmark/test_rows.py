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
from benchmark.tracking.rows import (
    STATE_KEYS,
    flat,
    part,
    record,
    sent_config,
    sent_row,
    sent_summary,
)
from tests.conftest import tiny_run
from tests.support import simulate

NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**31)
CONVS = ("b", "a.conv", "c")


def numbers(keys):
    """In this order, which hypothesis's own dictionaries do not keep."""
    keys = tuple(keys)
    values = st.tuples(*(NUMBER for _ in keys))
    return values.map(lambda found: dict(zip(keys, found, strict=True)))


CUT = st.fixed_dictionaries(
    {
        "kept": st.integers(1, 512).map(lambda first: dict(zip(CONVS, (first, 7, 8), strict=True))),
        **{name: numbers(keys) for name, keys in STATE_KEYS.items()},
        "agreement": numbers(["grasp|loss", "loss|mine@0123456789ab"]),
        "seconds": NUMBER,
    }
)
ROW = st.tuples(numbers(HISTORY_KEYS), numbers(["moved/grasp", "moved/loss"]), st.none() | CUT)


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


@settings(deadline=None, max_examples=50)
@given(made=st.lists(ROW, min_size=1, max_size=4), order=st.randoms(use_true_random=False))
def test_rows_lead_back_to_history_and_cuts(made, order):
    history, cuts = [], []
    for epoch, (row, moved, cut) in enumerate(made):
        history.append({**row, **known(moved), "epoch": epoch})
        if cut:
            agreement = known(cut["agreement"])
            cuts.append({"round": len(cuts) + 1, "epoch": epoch, **cut, "agreement": agreement})
    by_epoch = {cut["epoch"]: cut for cut in cuts}
    sent = [returned(sent_row(row, by_epoch.get(row["epoch"]))) for row in history]
    order.shuffle(sent)
    summary = {"outcome": "finished", "plan": {"before": dict.fromkeys(CONVS, 512)}}
    ours = record(sent, returned(sent_summary(summary)))
    assert ours[:2] == (history, cuts)
    # what frames take from the order of keys
    assert [list(row) for row in ours[0]] == [list(row) for row in history]
    for mine, cut in zip(ours[1], cuts, strict=True):
        assert [list(mine[name]) for name in (*STATE_KEYS, "kept")] == [
            list(cut[name]) for name in (*STATE_KEYS, "kept")
        ]


@pytest.mark.parametrize("measure", ["magnitude", "random", "none"])
def test_a_simulated_record_comes_back(tmp_path, measure):
    (config,) = simulate.grid(
        measures=[measure], timings=[2], rounds=[2], seeds=[0], epochs=5, dense=False
    )
    world = simulate.World(diverged=("random",), flow_every=2, agreement=True)
    simulate.simulate(tmp_path, [config], world)
    local = Record(tmp_path / config.run_id)
    cuts = {cut["epoch"]: cut for cut in local.cuts()}
    rows = [returned(sent_row(row, cuts.get(row["epoch"]))) for row in local.history()]
    history, made, summary = record(rows, returned(sent_summary(local.summary())))
    assert history == local.history()
    assert made == [{k: v for k, v in cut.items() if k != "scores"} for cut in local.cuts()]
    told = local.summary()
    told["plan"] = {"before": told["plan"]["before"]}
    assert summary.items() <= told.items()
    assert list(summary["plan"]["before"]) == list(told["plan"]["before"])


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
    history, cuts, _ = record(rows, {"outcome": "finished"})
    assert [(row["epoch"], row["lr"]) for row in history] == [(0, 2), (1, None)]
    assert history[1]["test/loss"] is None
    assert cuts == []
    with pytest.raises(UserError, match="epoch must be a whole number"):
        record([{"epoch": -1}], {"outcome": "finished"})
