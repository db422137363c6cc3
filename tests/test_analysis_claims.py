"""Planted effects are found, absent ones are not, and too little data decides nothing."""

import json
from collections import Counter

import numpy as np
import pytest

from analysis.claims import CLAIMS, INCONCLUSIVE, REFUTED, SUPPORTED, decide, judge, judge_all
from analysis.frame import outcomes
from analysis.sources import load
from tests import simulate
from tests.simulate import World


def judged(path, configs=None, world=None):
    simulate.simulate(path, configs or simulate.grid(), world)
    return {item.claim.id: item for item in judge_all(load(str(path)))}


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(-0.1, SUPPORTED), (0.0, INCONCLUSIVE), (+0.1, REFUTED)],
)
def test_c1_follows_the_planted_effect(tmp_path, shift, verdict):
    item = judged(tmp_path, world=World(loss={"magnitude": shift}))["C1"]
    assert item.verdict == verdict
    assert item.number.effect == pytest.approx(shift, abs=0.03)
    low, high = item.number.interval
    assert low < item.number.effect < high
    assert (item.number.n, item.parts[0].arch, item.parts[0].dataset) == (6, "vgg13", "digits")


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [(+0.1, SUPPORTED), (0.0, INCONCLUSIVE), (-0.1, REFUTED)],
)
def test_c5_follows_the_planted_effect(tmp_path, shift, verdict):
    item = judged(tmp_path, world=World(accuracy={"grasp": -shift}, growth={"grasp": 2}))["C5"]
    assert item.verdict == verdict
    growth = next(number for number in item.details if number.label.startswith("change of log10"))
    assert growth.effect == pytest.approx(-2, abs=0.1)
    assert growth.interval[1] < 0


def test_an_effect_in_one_part_is_told_apart(tmp_path):
    vgg = simulate.grid(archs=["vgg13"])
    resnet = simulate.grid(archs=["resnet56"])
    simulate.simulate(tmp_path, vgg, World(loss={"magnitude": -0.1}))
    item = judged(tmp_path, resnet, World(loss={"magnitude": +0.1}))["C1"]
    assert {part.arch: part.verdict for part in item.parts} == {"vgg13": SUPPORTED, "resnet56": REFUTED}
    assert item.verdict == INCONCLUSIVE
    assert len(item.settings) == 4


def test_one_seed_is_inconclusive_and_says_why(tmp_path):
    item = judged(tmp_path, simulate.grid(seeds=[0]), World(loss={"magnitude": -1}))["C1"]
    assert (item.verdict, item.number.interval, item.number.n) == (INCONCLUSIVE, None, 2)
    assert item.number.effect == pytest.approx(-1, abs=0.1)
    assert "at least two seeds" in item.message


def test_missing_measures_are_named(tmp_path):
    items = judged(tmp_path, simulate.grid(measures=["magnitude", "grasp"]))
    assert items["C1"].number.n == 6
    assert (items["C5"].verdict, items["C5"].number.effect) == (INCONCLUSIVE, None)
    assert "no finished run of grad_preservation" in items["C5"].message.lower()


def test_dropped_pairs_are_counted(tmp_path):
    configs = [c for c in simulate.grid() if (c.measure, c.seed) != ("grasp", 2)]
    assert "2 pairs dropped: grasp missing (2)" in judged(tmp_path, configs)["C5"].message


def test_diverged_runs_are_said(tmp_path):
    item = judged(tmp_path, world=World(diverged=("grasp",)))["C5"]
    assert item.verdict == INCONCLUSIVE
    assert "grasp diverged (6)" in item.message


def test_only_the_dense_control_is_no_crash(tmp_path):
    assert {item.verdict for item in judged(tmp_path, simulate.grid(measures=[])).values()} == {INCONCLUSIVE}


def test_numbers_are_reproducible_and_plain_json(tmp_path):
    simulate.simulate(tmp_path, simulate.grid())
    frames = load(str(tmp_path))
    once, again = (json.dumps([item.to_dict() for item in judge_all(frames)], allow_nan=False) for _ in range(2))
    assert once == again


def test_a_claim_without_an_effect_is_supported_at_most_at_its_nominal_rate(tmp_path):
    """60 worlds of noise: at 2.5 % a side, five or more `supported` (or `refuted`) would be a chance of 2 %."""
    simulate.simulate(tmp_path, simulate.grid(measures=["grasp", "grad_preservation"], dense=False))
    table, rng = outcomes(load(str(tmp_path))), np.random.default_rng(5)
    verdicts = Counter()
    for world in range(60):
        noise = table.assign(final_accuracy=rng.normal(0.9, 0.02, size=len(table)))
        verdicts[judge(CLAIMS["C5"], noise, world).verdict] += 1
    assert verdicts[SUPPORTED] < 5
    assert verdicts[REFUTED] < 5


@pytest.mark.parametrize(
    ("interval", "sign", "verdict"),
    [
        ((-2.0, -1.0), -1, SUPPORTED),
        ((-2.0, -1.0), +1, REFUTED),
        ((1.0, 2.0), +1, SUPPORTED),
        ((-1.0, 1.0), +1, INCONCLUSIVE),
        ((0.0, 1.0), +1, INCONCLUSIVE),
        ((float("nan"), 1.0), +1, INCONCLUSIVE),
        (None, +1, INCONCLUSIVE),
    ],
)
def test_the_rule(interval, sign, verdict):
    assert decide(interval, sign) == verdict


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_claim_states_its_rule_before_any_number(claim):
    assert claim.sentence.endswith(".")
    assert claim.statistic.endswith(".")
    assert "95 %" in claim.rule
    assert "upported if" in claim.rule
    assert claim.sign in (-1, 1)
