"""Whole runs: the record, resume, the shared dense phase, cuts."""

import contextlib
import dataclasses
import json
import math
import platform
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmark import __version__, provenance
from benchmark import run as run_module
from benchmark.config import RunConfig
from benchmark.cost import cost
from benchmark.errors import UserError
from benchmark.locks import BusyError, held
from benchmark.measures import MEASURES
from benchmark.models import build
from benchmark.record import DENSE, HISTORY_KEYS, LATENCY_KEYS, DenseFolder, Record
from benchmark.run import run
from benchmark.tracking import tracker as track_module
from benchmark.tracking.tracker import NoTracker
from benchmark.training import cut as cut_module
from benchmark.training import epoch as epoch_module
from tests.conftest import tiny_run

CUT_KEYS = {
    "round", "epoch", "kept", "before", "after", "after_fresh", "predicted", "actual", "scores",
    "agreement", "seconds", "score_seconds",
}  # fmt: skip
STATE_KEYS = {"loss", "accuracy", "grad_norm", "weight_norm_sq", "theta_g", "theta_hg", "g_hg"}
TIMES = ("time/seconds", "time/images_per_second", "seconds", "score_seconds", *LATENCY_KEYS)


def record_of(config, options):
    return Record(options.runs / config.run_id)


def without_times(rows):
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def science(config, options):
    """Everything in a record but the times."""
    record = record_of(config, options)
    scores = {
        p.name: {k: v.tolist() for k, v in np.load(p).items()}
        for p in sorted(record.scores_folder.glob("*"))
    }
    return (
        without_times(record.history()),
        without_times(record.cuts()),
        without_times([record.summary()]),
        scores,
    )


def test_record_has_exactly_the_agreed_keys(options):
    config = tiny_run(measure="loss", prune_epoch=1, rounds=2, epochs=4)
    summary = run(config, options)
    record = record_of(config, options)
    assert record.finished
    assert record.config() == config
    assert {p.name for p in record.folder.iterdir()} == {
        "config.json", "history.jsonl", "cuts.jsonl", "scores", "summary.json",
    }  # fmt: skip
    history, cuts = record.history(), record.cuts()
    assert [row["epoch"] for row in history] == [0, 1, 2, 3, 4]
    assert all(tuple(row) == HISTORY_KEYS for row in history)
    assert history[0]["train/loss"] is None
    assert all(value is not None for row in history[1:] for value in row.values())
    assert [(cut["round"], cut["epoch"]) for cut in cuts] == [(1, 1), (2, 2)]
    for cut in cuts:
        assert set(cut) == CUT_KEYS
        assert set(cut["before"]) == set(cut["after"]) == STATE_KEYS
        assert set(cut["after_fresh"]) == {"loss", "accuracy", "grad_norm"}
        assert set(cut["predicted"]) == set(cut["actual"]) == {"loss_change", "grad_norm_sq_change"}
        assert cut["actual"]["loss_change"] == cut["after"]["loss"] - cut["before"]["loss"]
    assert summary == record.summary()
    assert summary["run_id"] == config.run_id
    assert summary["outcome"] == "finished"
    assert summary["samples"] == {
        "train": 60,
        "test": 364,
        "probe": 20,
        "scoring": 30,
        "overlap": 0,
    }
    assert summary["versions"] == {
        "flowprune": __version__, "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
    assert (summary["threads"], summary["device"], summary["commit"]) == (
        1,
        "cpu",
        provenance.commit(),
    )
    assert torch.backends.cpu.get_cpu_capability() in summary["processor"]
    assert {key: summary[key] for key in HISTORY_KEYS} == history[-1]
    filters = summary["before"]["net/filters"]
    assert (
        summary["after"]["net/filters"]
        == sum(cuts[-1]["kept"].values())
        == history[-1]["net/filters"]
        == filters / 2
    )
    assert [row["net/filters"] for row in history[:2]] == [filters, filters]
    with np.load(record.scores_folder / "cut-01.npz") as scores:
        assert set(scores) == {f"loss/{conv}" for conv in cuts[0]["kept"]}


def test_flow_keys_are_null_between_measurements(options):
    config = tiny_run(epochs=4)
    run(config, dataclasses.replace(options, flow_every=3))
    measured = [
        row["epoch"] for row in record_of(config, options).history() if row["flow/g_hg"] is not None
    ]
    assert measured == [0, 3]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "fields",
    [
        {"measure": "magnitude", "rounds": 2},
        {"measure": "grasp", "prune_epoch": 2, "rounds": 2, "epochs": 5},
        {"measure": "random", "prune_epoch": 1, "retrain": "restart", "epochs": 2},
        {"measure": "none"},
        {
            "measure": "loss",
            "prune_epoch": 1,
            "cut_momentum": "carry",
            "arch": "mobilenet_v1",
            "width": 0.125,
        },
        pytest.param(
            {
                "measure": "loss",
                "ablation": "layer_shuffle",
                "rounds": 2,
                "arch": "resnet20",
                "epochs": 2,
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda fields: "-".join(str(value) for value in fields.values()),
)
def test_a_run_killed_after_any_epoch_resumes_exactly(options, tmp_path, fields):
    config = tiny_run(**fields)
    undisturbed = dataclasses.replace(options, runs=tmp_path / "undisturbed")
    run(config, undisturbed)
    epochs_seen = []

    def kill(progress):
        if progress.row["epoch"] not in epochs_seen:
            epochs_seen.append(progress.row["epoch"])
            raise Killed

    while not record_of(config, options).finished:
        try:
            run(config, options, kill)
        except Killed:
            continue
    assert len(epochs_seen) == len(record_of(config, options).history()) - 1
    assert science(config, options) == science(config, undisturbed)


def test_a_torn_last_line_and_rows_after_the_checkpoint_are_forgotten(options, tmp_path):
    config = tiny_run(measure="loss", epochs=4)
    undisturbed = dataclasses.replace(options, runs=tmp_path / "undisturbed")
    run(config, undisturbed)

    def kill(progress):
        if progress.row["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        run(config, options, kill)
    record = record_of(config, options)
    with record.history_file.open("a") as file:
        file.write(json.dumps(record.history()[-1] | {"epoch": 3}) + '\n{"epoch": 4, "tra')
    run(config, options)
    assert science(config, options) == science(config, undisturbed)


def test_the_dense_phase_is_shared_and_equals_one_trained_alone(options, tmp_path, monkeypatch):
    configs = [tiny_run(measure=m, prune_epoch=1) for m in ("magnitude", "loss")]
    later, dense = tiny_run(measure="loss", prune_epoch=2), tiny_run(measure="none")
    alone = {}
    for i, config in enumerate([*configs, later, dense]):
        own = dataclasses.replace(options, runs=tmp_path / f"alone-{i}")
        run(config, own)
        alone[config.run_id] = science(config, own)
    trained = []
    original = run_module.dense_steps.__globals__["advance"]

    def counting(state, *args, **kwargs):
        trained.append(state.epoch)
        return original(state, *args, **kwargs)

    monkeypatch.setitem(run_module.dense_steps.__globals__, "advance", counting)
    for config in [*configs, later, dense]:
        run(config, options)
        assert science(config, options) == alone[config.run_id]
    assert trained == [0, 1, 2]
    folder = options.runs / DENSE / dense.run_id
    assert {path.name for path in folder.iterdir()} == {
        f"epoch-{epoch:04d}.{kind}" for epoch in (1, 2, 3) for kind in ("pt", "wanted")
    }


def test_measures_of_one_seed_share_initial_weights_and_data_order(options):
    configs = [tiny_run(measure=m) for m in ("magnitude", "random")]
    rows = []
    for config in configs:
        run(config, options)
        rows.append(record_of(config, options).history()[0])
    assert without_times(rows)[0] == without_times(rows)[1]
    other = tiny_run(seed=1)
    run(other, options)
    assert record_of(other, options).history()[0]["test/loss"] != rows[0]["test/loss"]


def test_a_finished_run_is_not_touched(options):
    config = tiny_run(epochs=1)
    first = run(config, options)
    stamp = record_of(config, options).summary_file.stat().st_mtime_ns
    assert run(config, options) == first
    assert record_of(config, options).summary_file.stat().st_mtime_ns == stamp


def test_a_run_that_diverges_ends_as_diverged(options):
    config = tiny_run(lr=1e30, momentum=0.0)
    summary = run(config, options)
    assert summary["outcome"] == "diverged"
    assert record_of(config, options).finished


@pytest.mark.parametrize(
    "fields", [{"lr": 1e30, "momentum": 0.0}, {"measure": "loss"}, {"measure": "none"}]
)
def test_the_tracker_gets_each_row_once_whatever_the_outcome(options, monkeypatch, fields):
    class Rows(NoTracker):
        def log(self, row):
            logged.append(row["epoch"])

    logged = []
    monkeypatch.setattr(track_module, "NoTracker", Rows)
    if fields == {"measure": "loss"}:
        monkeypatch.setattr(
            cut_module,
            "select",
            lambda net, *_, **__: {n: torch.tensor([False]) for n in net.convs},
        )
    config = tiny_run(**fields)
    run(config, options)
    assert logged == [row["epoch"] for row in record_of(config, options).history()]


def test_scores_that_are_no_numbers_end_the_run_as_diverged(options, monkeypatch):
    config = tiny_run(measure="loss", prune_epoch=1)

    def nothing(net, *_, **__):
        return {
            "loss": {name: torch.full((filters,), torch.nan) for name, filters in net.plan.items()}
        }

    monkeypatch.setattr(cut_module, "score_all", nothing)
    summary = run(config, options)
    assert (summary["outcome"], summary["epoch"]) == ("diverged", 1)
    assert record_of(config, options).cuts() == []


def test_a_cut_that_empties_a_layer_ends_the_run_as_collapsed(options, monkeypatch):
    def empty(net, scores, *_, **__):
        return {name: torch.full((net.plan[name],), i != 2) for i, name in enumerate(net.convs)}

    monkeypatch.setattr(cut_module, "select", empty)
    config = tiny_run(measure="loss")
    summary = run(config, options)
    assert summary["outcome"] == "collapsed"
    assert record_of(config, options).finished


@pytest.mark.parametrize("seconds", [0, 3600])
def test_the_tracker_gets_each_row_once_when_a_checkpoint_has_it(options, monkeypatch, seconds):
    sent = []

    class Log(NoTracker):
        def log(self, row):
            sent.append((row["epoch"], row.get("cut/round")))

    monkeypatch.setattr(run_module, "tracked", lambda *_: contextlib.nullcontext(Log()))
    config, seen = tiny_run(measure="loss", prune_epoch=1, rounds=2, epochs=5), {}
    there = dataclasses.replace(options, checkpoint_seconds=seconds)
    run(config, there, lambda progress: seen.update({progress.row["epoch"]: len(sent)}))
    assert sent == [(0, None), (1, 1), (2, 2), (3, None), (4, None), (5, None)]
    if seconds:
        assert seen[4] <= 2  # the last checkpoint is that of the cut at epoch 2
    else:
        assert seen[4] == 4  # all but the row of epoch 4, at which a cut could be made


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_a_run_ends_within_its_budget(options, budget):
    fields = {"budget": budget, "grouping": "stream", "rounds": 2, "ratio": 0.6, "epochs": 2}
    config = tiny_run(arch="resnet20", **fields)
    summary = run(config, options)
    key = f"net/{budget}"
    assert (
        summary["after"][key]
        <= 0.4 * summary["before"][key]
        == pytest.approx(0.4 * cost(build("resnet20", width=config.width))[key])
    )


def test_a_cut_behind_which_nothing_gets_a_gradient_ends_the_run_as_collapsed(options, monkeypatch):
    shrink = cut_module.shrink

    def dead(net, keep, **how):
        shrunk = shrink(net, keep, **how)
        torch.nn.init.zeros_(shrunk.net.get_submodule("classifier").weight)
        return shrunk

    monkeypatch.setattr(cut_module, "shrink", dead)
    assert run(tiny_run(measure="loss"), options)["outcome"] == "collapsed"


def test_a_run_that_another_process_executes_is_waited_for_or_busy(options):
    config = tiny_run(epochs=1)
    record = record_of(config, options)
    record.folder.mkdir(parents=True)
    pool = ThreadPoolExecutor(1)
    with held(record.lock_file, wait=False):
        with pytest.raises(BusyError):
            run(config, options, wait=False)
        waiting = pool.submit(run, config, options)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1)
        record.finish({"outcome": "elsewhere"})
    assert waiting.result() == {"outcome": "elsewhere"}
    assert not record.lock_file.exists()


def test_a_dense_phase_in_other_hands_is_busy(options, monkeypatch):
    config = tiny_run(measure="loss", prune_epoch=1)
    begun = []
    monkeypatch.setattr(
        run_module,
        "tracked",
        lambda *a, real=run_module.tracked, **k: begun.append(a) or real(*a, **k),
    )
    folder = DenseFolder(options.runs, config)
    folder.want(1)
    with held(folder.lock_file, wait=False), pytest.raises(BusyError):
        run(config, options, wait=False)
    assert not begun  # a look at it is nothing that W&B should hear of
    assert run(config, options, wait=False)["outcome"] == "finished"


def test_states_of_a_dense_phase_are_ordered_by_their_epochs(tmp_path):
    """Also those whose numbers have more digits."""
    folder = DenseFolder(tmp_path, tiny_run(measure="loss", prune_epoch=1))
    folder.want(2)
    for epoch in (2, 800, 9_000, 10_000):
        folder.state_file(epoch).touch()
    assert folder.nearest(1) is None
    for epoch, latest in {799: 2, 9_999: 9_000, 10_000: 10_000, 50_000: 10_000}.items():
        assert folder.nearest(epoch) == folder.state_file(latest)
    folder.drop_before(9_500)
    states = {folder.state_file(epoch) for epoch in (2, 10_000)}
    assert set(folder.folder.glob("*.pt")) == states


def test_a_folder_that_holds_another_run_is_not_touched(options):
    config = tiny_run(epochs=1)
    record = record_of(config, options)
    record.start(tiny_run(epochs=1, seed=5))
    with pytest.raises(UserError, match=config.run_id):
        run(config, options)
    assert record.config().seed == 5


def test_a_corrupt_checkpoint_costs_an_epoch_at_most(options, tmp_path):
    config = tiny_run(measure="loss", epochs=4)
    undisturbed = dataclasses.replace(options, runs=tmp_path / "undisturbed")
    run(config, undisturbed)

    def kill(progress):
        if progress.row["epoch"] == 3:
            raise Killed

    with pytest.raises(Killed):
        run(config, options, kill)
    record, epochs = record_of(config, options), []
    record.checkpoint_file.write_bytes(record.checkpoint_file.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="set aside"):
        run(config, options, lambda progress: epochs.append(progress.row["epoch"]))
    assert epochs == [3, 4]
    assert science(config, options) == science(config, undisturbed)


def test_a_corrupt_dense_state_is_trained_again(options, tmp_path):
    configs = [tiny_run(measure=m, prune_epoch=1, epochs=2) for m in ("loss", "random")]
    undisturbed = dataclasses.replace(options, runs=tmp_path / "undisturbed")
    for config in configs:
        run(config, undisturbed)
    run(configs[0], options)
    DenseFolder(options.runs, configs[1]).state_file(1).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="set aside"):
        run(configs[1], options)
    assert science(configs[1], options) == science(configs[1], undisturbed)


def test_predicted_changes_are_first_order_exact(options):
    """Shrink the removed filters' parameters a little: the loss moves as the prediction says, times
    that little."""
    from benchmark.flow import measure_flow
    from benchmark.pruning import masked, select
    from benchmark.training.cut import predicted_changes
    from tests.conftest import tiny_images, tiny_net

    net, (images, labels) = tiny_net("vgg13", dtype=torch.float64), tiny_images(6)
    keep = select(
        net,
        {
            name: net.get_submodule(name).weight.detach().flatten(1).norm(dim=1)
            for name in net.convs
        },
        0.3,
    )
    before = measure_flow(net, images, labels, 5.0)
    without = masked(net, keep)
    predicted = predicted_changes(net, without, before)
    gone = dict(without.named_parameters())
    step = 1e-6
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.add_(gone[name] - p, alpha=step)
    after = measure_flow(net, images, labels, 5.0).numbers
    assert (after["loss"] - before.numbers["loss"]) / step == pytest.approx(
        predicted["loss_change"], rel=1e-3
    )
    change = (after["grad_norm"] ** 2 - before.numbers["grad_norm"] ** 2) / step
    assert change == pytest.approx(predicted["grad_norm_sq_change"], rel=1e-3)


def test_run_id_is_the_folder(options):
    config = RunConfig(**{**tiny_run().to_dict(), "epochs": 1})
    run(config, options)
    assert (options.runs / config.run_id / "config.json").exists()


@pytest.mark.slow
def test_score_all_records_every_measure(options):
    config = tiny_run(measure="taylor", arch="resnet20", prune_epoch=1, epochs=2)
    run(config, dataclasses.replace(options, score_all=True))
    scores = np.load(record_of(config, options).scores_folder / "cut-01.npz")
    net = build("resnet20", width=config.width)
    expected = {
        f"{name}/{conv}"
        for name in MEASURES
        if name not in ("none", "oracle", "grad_accumulation")
        for conv in net.convs
    }
    assert set(scores) == expected
    run(config, dataclasses.replace(options, runs=options.runs / "alone"))
    alone = np.load(options.runs / "alone" / config.run_id / "scores" / "cut-01.npz")
    assert set(alone) == {f"taylor/{conv}" for conv in net.convs}
    assert all(np.array_equal(alone[key], scores[key]) for key in alone)


@pytest.mark.parametrize(
    "fields", [{"measure": "none"}, {"measure": "loss", "prune_epoch": "trained"}]
)
def test_a_part_is_tested_on_until_the_last_epoch(options, fields):
    config = tiny_run(epochs=2, test_limit=0, **fields)
    run(config, options)
    run(dataclasses.replace(config, test_limit=20), options)
    records = [
        record_of(c, options).history()
        for c in (config, dataclasses.replace(config, test_limit=20))
    ]
    last = (
        [2] if config.measure == "none" else [2, 4]
    )  # the dense control ends at epoch 2, and shares its epochs
    for whole, part in zip(*records, strict=True):
        assert whole["train/loss"] == part["train/loss"]
        assert (whole["test/loss"] == part["test/loss"]) == (whole["epoch"] in last)
        assert whole["epoch"] in last or (part["test/accuracy"] * 20).is_integer()


def test_a_long_epoch_reports_its_parts(options, monkeypatch):
    monkeypatch.setattr(run_module, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(epoch_module, "MOST_STEPS", 1)
    parts, config = [], tiny_run(measure="loss", prune_epoch=1, epochs=2)
    run(config, options, watch_part=parts.append)
    assert {(part.run_id, part.total, part.of) for part in parts} == {(config.run_id, 2, 60)}
    assert [(part.epoch, part.images) for part in parts] == [(1, 20), (1, 40), (2, 20), (2, 40)]


def test_a_short_epoch_reports_none(options):
    parts = []
    run(tiny_run(measure="none", epochs=1), options, watch_part=parts.append)
    assert parts == []


def test_parts_are_reported_after_twice_the_time_each(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(run_module.time, "monotonic", lambda: next(clock))
    parts, state = [], SimpleNamespace(epoch=3)
    reporter = run_module.Reporter(tiny_run(epochs=9), lambda progress: None, parts.append)
    for second in range(50):
        reporter.images(state, second, 50)
    assert [part.images for part in parts] == [5, 10, 20, 40]
    assert {part.epoch for part in parts} == {4}


def test_the_best_values_are_those_since_the_last_cut():
    keys = run_module.BEST
    history = [
        {"epoch": epoch} | dict.fromkeys(keys, value)
        for epoch, value in enumerate((0.9, 0.1, 0.3, 0.2, None, math.inf))
    ]
    found = run_module.best(history, [{"epoch": 1}])
    assert found == {"test/accuracy": 0.3, "test/loss": 0.2, "train/loss": 0.2}
    assert run_module.best(history, [])["test/loss"] == 0.1
    assert set(run_module.best(history[:2], [{"epoch": 1}]).values()) == {None}
