"""The analysis on simulated records: planted effects are found, gaps are said, bad input is refused."""

import json
import re

import numpy as np
import pytest

from analysis import claims, stats
from analysis.frame import outcomes, pair
from analysis.report import build
from analysis.sources import load
from benchmark.errors import UserError
from benchmark.record import Record
from tests.simulate import World, grid, simulate

KEYS = {"id", "sentence", "statistic", "rule", "verdict", "effect", "interval", "n", "parts"}


def judged(runs, id="C1"):
    return next(item for item in claims.judge_all(load(str(runs))) if item.claim.id == id)


@pytest.mark.parametrize(("shift", "verdict"), [(-0.2, "supported"), (0.0, "inconclusive"), (0.2, "refuted")])
def test_c1_follows_the_planted_effect(tmp_path, shift, verdict):
    simulate(tmp_path, grid(), World(loss={"magnitude": shift}, noise=0.03))
    result = judged(tmp_path)
    assert result.verdict == verdict
    assert result.number.effect == pytest.approx(shift, abs=0.05)
    low, high = result.number.interval
    assert low < result.number.effect < high


@pytest.mark.parametrize(("shift", "verdict"), [(0.05, "supported"), (0.0, "inconclusive"), (-0.05, "refuted")])
def test_c5_follows_the_planted_effect(tmp_path, shift, verdict):
    simulate(tmp_path, grid(), World(accuracy={"grad_preservation": shift}))
    assert judged(tmp_path, "C5").verdict == verdict


def test_one_seed_is_inconclusive_and_says_why(tmp_path):
    simulate(tmp_path, grid(seeds=(0,)), World(loss={"magnitude": -0.5}))
    result = judged(tmp_path)
    assert (result.verdict, result.number.interval) == ("inconclusive", None)
    assert "at least two seeds per setting are needed" in result.message


def test_a_missing_run_drops_its_pair_and_is_named(tmp_path):
    configs = grid()
    absent = next(c for c in configs if c.measure == "magnitude" and c.seed == 1 and c.prune_epoch == 4)
    simulate(tmp_path, [c for c in configs if c != absent])
    result = judged(tmp_path)
    assert result.number.n == 5
    assert "1 pair dropped" in result.message
    report = build(str(tmp_path), tmp_path / "report", configs)
    assert len(report.completeness.missing) == 1
    assert absent.run_id in (tmp_path / "report" / "tables" / "missing.csv").read_text()


def test_pairs_share_setting_and_seed(tmp_path):
    """A constant per seed cancels: pairing leaves the difference between measures alone."""
    simulate(tmp_path, grid(seeds=range(5)), World(loss={"grasp": 0.3}, noise=0.0))
    pairs = pair(outcomes(load(str(tmp_path))), "loss_after_cut", ["grasp"], ["loss"])
    assert np.concatenate(pairs.differences()) == pytest.approx(0.3)


def test_diverged_runs_are_counted_not_averaged(tmp_path):
    simulate(tmp_path, grid(), World(diverged=("grasp",)))
    result = judged(tmp_path, "C5")
    assert result.verdict == "inconclusive"
    assert "diverged" in result.message


def test_report_is_complete_and_self_contained(tmp_path):
    simulate(tmp_path / "runs", grid(datasets=("digits", "cifar10")), World(loss={"magnitude": -0.2}))
    build(str(tmp_path / "runs"), tmp_path / "report", None)
    content = json.loads((tmp_path / "report" / "claims.json").read_text())
    assert [item["id"] for item in content["claims"]] == ["C1", "C5"]
    for item in content["claims"]:
        assert set(item) >= KEYS
        assert {part["dataset"] for part in item["parts"]} == {"digits", "cifar10"}

    assert content["provenance"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert all(item["sentence"] in page for item in content["claims"])
    figures = {path.stem for path in (tmp_path / "report" / "figures").glob("*.png")}
    assert figures == {path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")}
    names = ("convergence", "cut_changes", "densities", "final_accuracy")
    assert {f"{name}-vgg13-{data}" for name in names for data in ("digits", "cifar10")} <= figures


def test_the_same_records_give_the_same_claims(tmp_path):
    simulate(tmp_path / "runs", grid(timings=(0,)))
    first, second = ([item.to_dict() for item in claims.judge_all(load(str(tmp_path / "runs")))] for _ in range(2))
    assert first == second


def test_unfinished_runs_are_left_out(tmp_path):
    simulate(tmp_path, grid(seeds=(0, 1)))
    simulate(tmp_path, grid(seeds=(2,)), finished=False)
    assert set(outcomes(load(str(tmp_path)))["seed"]) == {0, 1}


def test_empty_and_broken_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        load(str(tmp_path))
    simulate(tmp_path, grid(measures=("loss",), timings=(0,), seeds=(0,), dense=False))
    (config,) = grid(measures=("loss",), timings=(0,), seeds=(0,), dense=False)
    record = Record(tmp_path / config.run_id)
    record.history_file.write_text('{"epoch": 0}\n{"epo\n')
    with pytest.raises(UserError, match=r"history\.jsonl, line 2"):
        load(str(tmp_path))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        low, high = stats.paired_interval([rng.normal(1, 1, 3), rng.normal(1, 1, 3)], rng)
        covered += low <= 1 <= high
    assert 0.88 <= covered / 150 <= 1


def test_win_probability_and_effect_size():
    value, (low, high) = stats.win_probability(np.array([1.0, 2.0, -1.0, 0.0]), +1)
    assert value == 2.5 / 4
    assert 0 < low < value < high < 1
    assert stats.effect_size([np.array([1.0, 3.0]), np.array([2.0, 4.0])]) == pytest.approx(2.5 / np.sqrt(2))
    assert np.isnan(stats.effect_size([np.array([1.0])]))
    assert stats.paired_interval([np.array([1.0])], np.random.default_rng(0)) is None
