"""Cut probes: what they record, that they change nothing, and that they resume."""

import dataclasses
import json
import math

import pytest
import torch

from analysis.report.build import build
from analysis.runs.folder import read_folder
from benchmark import run as run_module
from benchmark.cost import cost
from benchmark.errors import UserError
from benchmark.flow import evaluate, measure_flow, with_statistics_of
from benchmark.measures import MEASURES, score
from benchmark.pruning import masked, select
from benchmark.record import PROBE_SHARES as SHARES
from benchmark.record import DenseFolder, Record
from benchmark.run import run
from benchmark.training import probes
from benchmark.training.checkpoint import load
from benchmark.training.cut import predicted_changes
from benchmark.training.problem import make_problem
from tests.benchmark.test_run import without_times
from tests.conftest import tiny_run

pytestmark = pytest.mark.xdist_group("probes")  # one probed run for all
CONFIG = tiny_run(measure="none", probe_epochs="1,3", epochs=3)
DRAWS = 3
SCORED = ["grad_preservation", "grasp_t1", "loss", "loss_biased", "magnitude"]


def record_of(config, options):
    return Record(options.runs / config.run_id)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """The folder of a probed run."""
    from benchmark.options import Options

    runs = tmp_path_factory.mktemp("probed")
    options = Options(runs=runs, wandb="disabled", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        few(patch)
        run(CONFIG, options)
    return options


def few(patch):
    """Few measures and draws of `random`."""
    patch.setattr(probes, "NO_PROBE", tuple(set(MEASURES) - {*SCORED}))
    patch.setattr(probes, "DRAWS", DRAWS)


def numbers(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_every_measure_cuts_every_share_and_random_in_draws(probed):
    rows, ranks = record_of(CONFIG, probed).probes()
    for epoch in (1, 3):
        found = [(r["measure"], r["share"], r["draw"]) for r in rows if r["epoch"] == epoch]
        expected = [(name, share, 0) for share in SHARES for name in SCORED]
        expected += [("random", share, draw) for share in SHARES for draw in range(DRAWS)]
        assert sorted(found) == sorted(expected)
        pairs = {(row["a"], row["b"]) for row in ranks if row["epoch"] == epoch}
        assert {("theta_g", "theta_hg"), ("grasp_t1", "loss")} <= pairs
    assert all(-1 <= row["rho"] <= 1 for row in ranks)
    assert all(0 < row["kept_macs"] < 1 for row in rows)


def test_a_probe_measures_the_masked_net_on_the_probe_set(probed):
    """Recomputed from the shared dense state of its epoch."""
    problem = make_problem(CONFIG, probed.data, torch.device("cpu"))
    file = DenseFolder(probed.runs, CONFIG).state_file(3)
    net = load(file, CONFIG.dense(), torch.device("cpu"), problem.digest).model
    net = with_statistics_of(net, problem.scoring.images)
    seen, t = problem.probe, CONFIG.temperature
    before = measure_flow(net, seen.images, seen.labels, t)
    scores = score(net, "grasp_t1", problem.scoring.images, problem.scoring.labels)
    cut = masked(net, select(net, scores, 0.1))
    after = measure_flow(cut, seen.images, seen.labels, t).numbers
    (row,) = [
        row
        for row in record_of(CONFIG, probed).probes()[0]
        if (row["epoch"], row["measure"], row["share"]) == (3, "grasp_t1", 0.1)
    ]
    for key in ("loss", "grad_norm", "theta_g", "theta_hg"):
        assert row["before"][key] == pytest.approx(before.numbers[key], rel=1e-5)
        assert row["after"][key] == pytest.approx(after[key], rel=1e-3)
    assert row["predicted"] == pytest.approx(predicted_changes(net, cut, before), rel=1e-4)
    assert row["actual"]["loss_change"] == row["after"]["loss"] - row["before"]["loss"]
    assert row["kept_macs"] == cost(cut)["net/macs"] / cost(net)["net/macs"]


def test_what_is_measured_after_a_cut(probed):
    for row in record_of(CONFIG, probed).probes()[0]:
        measured = {key for key, value in row["after"].items() if value is not None}
        if row["measure"] == "random":
            whole = row["draw"] == 0
        else:
            second_order = row["measure"] in ("grad_preservation", "grasp_t1")
            whole = second_order and row["share"] <= 0.2
        if row["measure"] == "random" and row["draw"]:
            assert measured == {"loss"}
        else:
            assert measured == {"loss", "grad_norm", "theta_g"} | ({"theta_hg"} if whole else set())
        assert all(value is None or math.isfinite(value) for value in row["after"].values())


def test_its_frames_are_the_record_and_a_report_needs_no_cut(probed, tmp_path):
    frames = read_folder(str(probed.runs))
    rows, ranks = record_of(CONFIG, probed).probes()
    assert frames.set_aside == ()
    assert frames.probes["after.loss"].tolist() == [row["after"]["loss"] for row in rows]
    assert frames.probe_ranks["rho"].tolist() == [row["rho"] for row in ranks]
    build(str(probed.runs), tmp_path)
    assert (tmp_path / "index.html").exists()
    assert json.loads((tmp_path / "claims.json").read_text())["claims"]


def test_probing_changes_no_bit_of_training(probed, options):
    plain = dataclasses.replace(CONFIG, probe_epochs="")
    run(plain, options)
    histories = (record_of(CONFIG, probed).history(), record_of(plain, options).history())
    assert without_times(histories[0]) == without_times(histories[1])


@pytest.mark.slow
def test_a_run_that_stops_between_probes_ends_with_the_same_ones(probed, options, monkeypatch):
    few(monkeypatch)
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return probe(*arguments)

    probe = run_module.probe
    monkeypatch.setattr(run_module, "probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, options)
    record = record_of(CONFIG, options)
    assert {row["epoch"] for row in record.probes()[0]} == {1}
    lines = record.probe_ranks_file.read_text()
    record.probe_ranks_file.write_text(lines + lines.replace('"epoch": 1', '"epoch": 3'))
    run(CONFIG, options)
    assert len(calls) == 3
    for ours, theirs in zip(record.probes(), record_of(CONFIG, probed).probes(), strict=True):
        assert numbers(ours) == numbers(theirs)


def test_draws_of_random_are_of_seed_epoch_and_draw(probed):
    assert probes.DRAWS == 20
    rows = [row for row in record_of(CONFIG, probed).probes()[0] if row["measure"] == "random"]
    assert len({row["after"]["loss"] for row in rows}) > 0.8 * len(rows)


def test_a_net_without_a_finite_loss_has_no_probes(options):
    config = tiny_run(measure="none", probe_epochs="2", epochs=2, lr=1e30)
    assert run(config, options)["outcome"] == "diverged"
    assert record_of(config, options).probes() == ([], [])


def test_identities():
    assert CONFIG.dense().run_id == dataclasses.replace(CONFIG, probe_epochs="").run_id
    assert dataclasses.replace(CONFIG, probe_epochs="3,1,3").run_id == CONFIG.run_id
    pruned = tiny_run(measure="loss")
    assert dataclasses.replace(pruned, probe_epochs="1,3").run_id == pruned.run_id
    other = dataclasses.replace(CONFIG, score_samples=50)
    assert other.run_id != CONFIG.run_id
    assert other.dense() == CONFIG.dense()
    assert dataclasses.replace(CONFIG, probe_epochs=3).probed == (3,)


@pytest.mark.parametrize(
    ("epochs", "said"),
    [("1;3", "whole numbers with commas"), ("1,9", "up to 3"), ("x", "whole numbers")],
)
def test_bad_epochs_are_named(epochs, said):
    with pytest.raises(UserError, match=f"probe_epochs must be {said}.*got '{epochs}'"):
        tiny_run(measure="none", epochs=3, probe_epochs=epochs)


def test_the_loss_of_a_cut_is_that_of_the_compact_net(probed):
    (row, *_) = [r for r in record_of(CONFIG, probed).probes()[0] if r["measure"] == "magnitude"]
    problem = make_problem(CONFIG, probed.data, torch.device("cpu"))
    file = DenseFolder(probed.runs, CONFIG).state_file(1)
    net = load(file, CONFIG.dense(), torch.device("cpu"), problem.digest).model
    net = with_statistics_of(net, problem.scoring.images)
    scores = score(net, "magnitude", problem.scoring.images, problem.scoring.labels)
    cut = masked(net, select(net, scores, row["share"]))
    loss = evaluate(cut, problem.probe.images, problem.probe.labels, CONFIG.temperature)[0]
    assert row["after"]["loss"] == pytest.approx(loss, rel=1e-5)
