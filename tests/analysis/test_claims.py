"""Planted effects are found, absent ones are not, and too little data decides nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from analysis.claims import CLAIMS, judge_all
from analysis.probed import averaged, probed
from analysis.report.figures import FIGURES
from analysis.report.text import finding
from analysis.runs.load import load
from analysis.verdicts import (
    INCONCLUSIVE,
    NOT_TESTED,
    REFUTED,
    SUPPORTED,
    Number,
    conclude,
    corrected,
)
from tests.support import simulate, worlds
from tests.support.make_golden_claims import golden_claims
from tests.support.simulate import World


def judged(path, configs=None, world=None, ids=CLAIMS):
    simulate.simulate(path, configs or simulate.study(), world)
    return {
        item.claim.id: item
        for item in judge_all(load(str(path)), claims=[CLAIMS[id] for id in ids])
    }


WORLDS = {
    "C1": lambda s: World(loss={"magnitude": -0.1 * s}),
    "C2": lambda s: World(change={"loss": -0.3 * s}, shift={"loss": -0.2 * s}),
    "C3": lambda s: World(change={"random": 0.5 * s}),
    "C4": lambda s: World(change={"grasp_t1": 0.5 * s}, rho=0.5 * s),
    "C5": lambda s: World(accuracy={"grasp_t1": -0.1 * s}, shift={"grasp_t1": 0.2 * s}),
}
"""For each claim a world in which it holds (+1), nothing does (0), or its opposite (-1)."""


@pytest.mark.parametrize(("sign", "verdict"), [(+1, SUPPORTED), (0, INCONCLUSIVE), (-1, REFUTED)])
@pytest.mark.parametrize("id", CLAIMS)
def test_a_verdict_follows_the_planted_effect(tmp_path, id, sign, verdict):
    seeds = range(1, 7) if sign == 0 else range(5)
    item = judged(tmp_path, simulate.study(seeds=seeds), WORLDS[id](sign), [id])[id]
    assert item.verdict == verdict
    assert [part.verdict for part in item.parts] == [verdict]
    assert finding(item).startswith(verdict.capitalize())
    for number in (*item.primary, *item.checks):
        assert number.interval[0] < number.effect < number.interval[1]
        assert number.seeds == len(seeds)
    decided = item.number
    assert decided.side == {SUPPORTED: 1, INCONCLUSIVE: 0, REFUTED: -1}[verdict]
    assert (item.verdict_holm == verdict) == (item.p_holm < 0.05 or verdict == INCONCLUSIVE)


def test_an_open_claim_says_what_it_could_have_seen(tmp_path):
    item = judged(tmp_path / "six", simulate.study(seeds=range(1, 7)), ids=["C1"])["C1"]
    least = f"The smallest detectable effect is {item.number.smallest:.3g} nats (80 % power)."
    assert finding(item).endswith(least)
    four = judged(tmp_path / "four", simulate.study(seeds=range(4)), WORLDS["C1"](1), ["C1"])["C1"]
    assert four.number.differs
    assert finding(four).endswith("A verdict needs 5 seeds; this number has 4.")
    assert four.number.smallest is four.number.power is None


def test_effects_have_the_planted_size(tmp_path):
    world = World(
        loss={"magnitude": -0.1}, accuracy={"grasp_t1": -0.2}, change={"grasp_t1": 0.4}, rho=0.3
    )
    items = judged(tmp_path, world=world, ids=["C1", "C4", "C5"])
    assert items["C1"].number.effect == pytest.approx(-0.1, abs=0.02)
    assert items["C5"].number.effect == pytest.approx(0.2, abs=0.02)
    assert items["C4"].primary[0].effect == pytest.approx(0.4 * 17 / 60, abs=0.02)  # of 2, 5, 10 %
    assert items["C4"].checks[0].effect == pytest.approx(0.3, abs=0.1)


def test_changes_of_the_loss_are_clipped_at_twice_that_of_chance(tmp_path):
    item = judged(tmp_path, world=World(change={"grasp_t1": 1000.0}), ids=["C4"])["C4"]
    assert item.primary[0].effect == pytest.approx(2 * np.log(10), abs=0.2)


@pytest.mark.parametrize(("change", "verdict"), [(0.2, SUPPORTED), (0.4, REFUTED)])
def test_loss_biased_may_change_the_loss_a_little_more_than_loss(tmp_path, change, verdict):
    """The allowance is a tenth of ln C - L: here 0.14 nats, of 0.46 times these changes."""
    world = World(change={"loss_biased": change, "random": 1.0})
    item = judged(tmp_path, world=world, ids=["C3"])["C3"]
    assert item.primary[0].effect < 0
    assert item.verdict == verdict


def test_the_first_epoch_is_early_and_a_quarter_of_the_schedule_late(tmp_path):
    probes = {"early": "1", "late": "3,8", "neither": "2"}
    for name, epochs in probes.items():
        configs = simulate.grid(measures=["none"], probe_epochs=epochs, seeds=range(5), dense=False)
        items = judged(tmp_path / name, configs, WORLDS["C2"](+1), ["C2", "C3"])
        assert (items["C2"].verdict == SUPPORTED) == (name == "early")
        assert items["C2"].verdict in (SUPPORTED, NOT_TESTED)
        assert [number.n for number in items["C3"].checks] == [5 * (name == "late")] * 2
        assert items["C3"].primary[0].n == 5


def test_a_check_on_the_other_side_makes_a_claim_inconclusive_and_is_named(tmp_path):
    world = World(change={"loss": -0.3}, shift={"loss": 0.3})
    item = judged(tmp_path, world=world, ids=["C2"])["C2"]
    assert item.verdict == INCONCLUSIVE
    assert item.number is item.checks[0]
    assert "a check speaks against it" in finding(item)


def test_equal_filters_decide_nothing(tmp_path):
    configs = simulate.grid(measures=simulate.CLAIMED, seeds=range(5))
    item = judged(tmp_path, configs, World(loss={"magnitude": -0.1}), ["C1"])["C1"]
    assert item.verdict == NOT_TESTED
    beside = {number.label: number for number in item.beside}
    number = beside[
        "training loss, magnitude minus the mean of loss, grasp and grad_preservation, "
        "at equal filters"
    ]
    assert number.interval[1] < 0
    assert "runs with `budget=macs`" in finding(item)


def test_random_in_the_layers_of_magnitude_is_paired_across_allocation(tmp_path):
    world = World(loss={"random": 0.2})
    item = judged(tmp_path, world=world, ids=["C1"])["C1"]
    (check,) = item.checks
    assert check.n == 5
    assert check.effect == pytest.approx(-0.2, abs=0.02)
    assert "random in the layers of magnitude" in item.message


def test_cuts_at_initialisation_count_with_fresh_statistics_alone(tmp_path):
    configs = simulate.study(timings=[0], score_bn="running")
    items = judged(tmp_path / "running", configs, ids=["C1", "C5"])
    assert [item.verdict for item in items.values()] == [NOT_TESTED] * 2
    items = judged(tmp_path / "fresh", simulate.study(timings=[0]), ids=["C1", "C5"])
    assert [item.number.n for item in items.values()] == [5, 5]
    for name, count in (("running", 0), ("fresh", 5)):
        probing = simulate.grid(
            measures=["none"], probe_epochs="0", seeds=range(5), dense=False, score_bn=name
        )
        items = judged(tmp_path / f"probes-{name}", probing, ids=["C2", "C4", "C5"])
        assert [item.number.n for item in items.values()] == [count, count, 0]
        assert [items[id].checks[0].n for id in ("C4", "C5")] == [count] * 2


def without_rows(path, configs, file, gone):
    """Take the rows of a file for which `gone` holds out of the records."""
    for config in configs:
        lines = (path / config.run_id / file).read_text().splitlines()
        kept = [line for line in lines if not gone(json.loads(line))]
        (path / config.run_id / file).write_text("".join(f"{line}\n" for line in kept))


def test_a_measure_without_scores_at_an_epoch_is_not_averaged_over_the_others(tmp_path):
    configs = simulate.grid(measures=["none"], probe_epochs="1,8", seeds=range(6), dense=False)
    simulate.simulate(tmp_path, configs)
    some = configs[:1]
    without_rows(
        tmp_path, some, "probes.jsonl", lambda r: (r["measure"], r["epoch"]) == ("loss", 1)
    )
    without_rows(
        tmp_path, some, "probe_ranks.jsonl",
        lambda r: (r["a"], r["b"], r["epoch"]) == ("theta_g", "theta_hg", 1),
    )  # fmt: skip
    (item,) = judge_all(load(str(tmp_path)), claims=[CLAIMS["C4"]])
    assert [number.n for number in (*item.primary, *item.checks)] == [6, 5, 5]
    assert "loss without a finite value (1)" in item.message


def test_a_dense_run_that_diverged_between_its_probes_is_dropped_and_named(tmp_path):
    configs = simulate.grid(measures=["none"], probe_epochs="1,8", seeds=range(6), dense=False)
    simulate.simulate(tmp_path, configs[1:])
    simulate.simulate(tmp_path, configs[:1], World(diverged=("none",)))
    without_rows(tmp_path, configs[:1], "probes.jsonl", lambda row: row["epoch"] == 8)
    without_rows(tmp_path, configs[:1], "probe_ranks.jsonl", lambda row: row["epoch"] == 8)
    frames = load(str(tmp_path))
    table = probed(frames)
    late = averaged(table, table["epoch"] == 8)
    assert set(late["run_id"]) == {config.run_id for config in configs}
    assert set(late.loc[late["loss_change"].isna(), "run_id"]) == {configs[0].run_id}
    for item in judge_all(frames, claims=[CLAIMS["C3"], CLAIMS["C4"]]):
        assert {number.n for number in (*item.primary, *item.checks)} == {5}
        assert "diverged" in item.message


def test_an_effect_in_one_part_is_told_apart(tmp_path):
    simulate.simulate(tmp_path, simulate.study(), World(loss={"magnitude": -0.1}))
    resnet = simulate.study(archs=["resnet56"])
    item = judged(tmp_path, resnet, World(loss={"magnitude": +0.1}), ["C1"])["C1"]
    assert {part.arch: part.verdict for part in item.parts} == {
        "vgg13": SUPPORTED,
        "resnet56": REFUTED,
    }
    assert item.verdict == INCONCLUSIVE
    assert len(item.settings) == 2 * 2  # primary and check
    assert item.number.spread > 0.1
    assert abs(item.number.seed_correlation) <= 1


def test_a_part_with_few_seeds_has_its_numbers_beside_a_fuller_one(tmp_path):
    simulate.simulate(tmp_path, simulate.study())
    item = judged(tmp_path, simulate.study(archs=["resnet56"], seeds=range(3)), ids=["C1"])["C1"]
    assert item.number.n == 5
    assert {part.arch: (part.verdict, part.number.n) for part in item.parts} == {
        "vgg13": (item.verdict, 5),
        "resnet56": (INCONCLUSIVE, 3),
    }
    assert [number.n for number in item.settings] == [3, 5] * 2


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_few_seeds_give_no_verdict_and_say_why(tmp_path, seeds):
    item = judged(
        tmp_path, simulate.study(seeds=range(seeds)), World(loss={"magnitude": -1}), ["C1"]
    )["C1"]
    assert (item.verdict, item.number.n) == (INCONCLUSIVE, seeds)
    assert item.number.effect == pytest.approx(-1, abs=0.1)
    assert "no verdict, which takes 5 seeds" in item.message.lower()
    assert (item.number.interval is None) == (seeds == 1)
    assert (item.p is None) == (seeds == 1)


def test_settings_with_too_few_seeds_are_left_out_and_named(tmp_path):
    few = simulate.study(archs=["resnet56"], seeds=range(3))
    simulate.simulate(tmp_path, few, World(loss={"magnitude": 5.0}))
    item = judged(tmp_path, world=World(loss={"magnitude": -0.1}), ids=["C1"])["C1"]
    assert (item.verdict, item.number.n) == (SUPPORTED, 5)
    assert "too few complete seeds in this setting: 3 (3)" in item.message


def test_settings_with_other_seeds_are_reported_apart(tmp_path):
    more = simulate.study(archs=["resnet56"], seeds=range(10))
    simulate.simulate(tmp_path, more, World(loss={"magnitude": -0.1}))
    item = judged(tmp_path, world=World(loss={"magnitude": -0.3}), ids=["C1"])["C1"]
    blocks = [number for number in item.blocks if "the mean of" in number.label]
    assert [number.n for number in blocks] == [10, 5]
    assert [number.effect for number in blocks] == pytest.approx([-0.1, -0.3], abs=0.02)
    assert item.number.effect == pytest.approx(-0.2, abs=0.02)  # each setting counts once
    assert item.verdict == SUPPORTED


GOLDEN = Path(__file__).parent / "claims.json"
"""Numbers to three digits, of `golden_claims`: made anew by `python -m
tests.support.make_golden_claims`."""


def test_claims_are_the_golden_ones(tmp_path):
    assert_close(golden_claims(tmp_path), json.loads(GOLDEN.read_text()))


def assert_close(ours, golden):
    """Equal but for the last digit of numbers, which may differ between machines."""
    if isinstance(golden, dict):
        assert list(ours) == list(golden)
        ours, golden = list(ours.values()), list(golden.values())
    if not isinstance(golden, list):
        assert ours == (
            pytest.approx(golden, rel=0.02, abs=1e-6) if isinstance(golden, float) else golden
        )
        return
    assert len(ours) == len(golden)
    for one, other in zip(ours, golden, strict=True):
        assert_close(one, other)


def rewritten(history, change):
    """Change the rows of a history file."""
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    history.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


def test_a_hole_in_a_history_drops_its_pair_and_says_so(tmp_path):
    configs = simulate.study(seeds=range(6))
    simulate.simulate(tmp_path, configs)
    broken = next(c for c in configs if (c.measure, c.seed, c.prune_epoch) == ("magnitude", 1, 4))
    rewritten(
        tmp_path / broken.run_id / "history.jsonl",
        lambda rows: [*rows[:7], rows[7] | {"train/loss": None}, *rows[8:]],
    )
    (item,) = judge_all(load(str(tmp_path)), claims=[CLAIMS["C1"]])
    assert item.number.n == 5
    assert "1 pair dropped: magnitude without a finite value (1)" in item.message


def test_a_run_that_collapsed_between_its_cuts_counts_for_nothing(tmp_path):
    configs = simulate.study(rounds=[2], timings=[0], seeds=range(6))
    simulate.simulate(tmp_path, configs)
    broken = next(c for c in configs if (c.measure, c.seed, c.prune_epoch) == ("grasp_t1", 0, 0))
    folder = tmp_path / broken.run_id
    for name, rows in (("history", 2), ("cuts", 1)):
        rewritten(folder / f"{name}.jsonl", lambda lines, rows=rows: lines[:rows])
    summary = json.loads((folder / "summary.json").read_text()) | {
        "outcome": "collapsed",
        "epoch": 1,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (item,) = judge_all(load(str(tmp_path)), claims=[CLAIMS["C5"]])
    assert item.number.n == 5
    assert "1 pair dropped: grasp_t1 collapsed (1)" in item.message


def test_runs_of_unequal_length_are_not_paired(tmp_path):
    fields = {"budget": "macs", "seeds": range(5)}
    simulate.simulate(tmp_path, simulate.grid(measures=["grad_preservation"], epochs=10, **fields))
    longer = simulate.grid(measures=["grasp_t1"], epochs=12, **fields)
    item = judged(tmp_path, longer, ids=["C5"])["C5"]
    assert (item.verdict, item.number.n) == (NOT_TESTED, 0)
    assert "grasp_t1 missing (10)" in item.message
    assert "grad_preservation missing (10)" in item.message


def test_missing_measures_are_named(tmp_path):
    fields = {"budget": "macs", "seeds": range(5)}
    items = judged(tmp_path, simulate.grid(measures=["magnitude", "grasp_t1"], **fields))
    for id, lacking in (("C1", "loss missing, grasp missing, grad_preservation missing (10)"),
                        ("C5", "grad_preservation missing (10)")):  # fmt: skip
        assert (items[id].verdict, items[id].number.effect) == (NOT_TESTED, None)
        assert f"10 pairs dropped: {lacking}" in items[id].message
    for id in ("C2", "C3", "C4"):
        assert items[id].verdict == NOT_TESTED
        assert "cut probes" in finding(items[id])


def test_dropped_pairs_are_counted(tmp_path):
    configs = [c for c in simulate.study(seeds=range(6)) if (c.measure, c.seed) != ("grasp_t1", 2)]
    item = judged(tmp_path, configs, ids=["C5"])["C5"]
    assert "1 pair dropped: grasp_t1 missing (1)" in item.message


def test_diverged_runs_are_said(tmp_path):
    item = judged(tmp_path, world=World(diverged=("grasp_t1",)), ids=["C5"])["C5"]
    assert item.verdict == NOT_TESTED
    assert "grasp_t1 diverged (5)" in item.message


def test_only_the_dense_control_is_no_crash(tmp_path):
    assert {item.verdict for item in judged(tmp_path, simulate.grid(measures=[])).values()} == {
        NOT_TESTED
    }


def test_numbers_are_reproducible_and_plain_json(tmp_path):
    simulate.simulate(tmp_path, simulate.study())
    frames = load(str(tmp_path))
    once, again = (
        json.dumps([item.to_dict() for item in judge_all(frames)], allow_nan=False)
        for _ in range(2)
    )
    assert once == again


MANY = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("count", "level"),
    [
        (100, 0.999),
        pytest.param(
            2000, 0.95, marks=[pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]
        ),
    ],
)
@pytest.mark.parametrize("id", CLAIMS)
def test_what_chance_alone_decides_is_decided_at_most_at_the_nominal_rate(id, count, level):
    """In worlds of five seeds, whatever confounds them, the lower bound of the share of verdicts
    is at most 5 %."""
    for name, kind in worlds.NULL.items():
        found = worlds.verdicts(CLAIMS[id], kind, count, 5)
        wrong = found[SUPPORTED] + found[REFUTED]
        assert found[INCONCLUSIVE] + wrong == count
        least = binomtest(wrong, count, alternative="greater").proportion_ci(level).low
        assert least <= 0.05, (name, found)


@pytest.mark.parametrize(("sign", "verdict"), [(+1, SUPPORTED), (-1, REFUTED)])
@pytest.mark.parametrize("id", CLAIMS)
def test_effects_of_three_standard_deviations_are_mostly_found(id, sign, verdict):
    found = worlds.verdicts(CLAIMS[id], worlds.planted(sign)[id], 100, 5)
    assert found[verdict] >= 90, found


def number(effect, p, sign=+1, seeds=5):
    interval = None if p is None else (effect, effect) if p < 0.05 else (-1.0, 1.0)
    return Number("", "", effect, interval, 3, seeds, sign, p)


NOTHING = Number("", "", None, None, 0, sign=+1)


@pytest.mark.parametrize(
    ("primary", "checks", "verdict", "p", "decides"),
    [
        ([number(2.0, 0.01)], [], SUPPORTED, 0.01, 0),
        ([number(2.0, 0.01, -1)], [], REFUTED, 0.01, 0),
        ([number(2.0, 0.06)], [], INCONCLUSIVE, 0.06, 0),
        ([number(2.0, 0.01, seeds=4)], [], INCONCLUSIVE, 0.01, 0),
        ([number(2.0, 0.01), number(1.0, 0.04)], [], SUPPORTED, 0.04, 1),
        ([number(2.0, 0.01), number(1.0, 0.2)], [], INCONCLUSIVE, 0.2, 1),
        ([number(2.0, 0.01), number(-1.0, 0.02)], [], REFUTED, 0.02, 1),
        ([number(2.0, 0.01), NOTHING], [], INCONCLUSIVE, 1.0, 1),
        ([number(-2.0, 0.01), NOTHING], [], REFUTED, 0.01, 0),
        ([NOTHING], [], NOT_TESTED, None, 0),
        ([NOTHING], [number(2.0, 0.01)], NOT_TESTED, None, 0),
        ([number(2.0, 0.01)], [number(-1.0, 0.01)], INCONCLUSIVE, 0.01, 1),
        ([number(2.0, 0.01)], [number(-1.0, 0.2)], SUPPORTED, 0.01, 0),
        ([number(2.0, 0.01)], [NOTHING], SUPPORTED, 0.01, 0),
        ([number(-2.0, 0.01)], [number(1.0, 0.01)], REFUTED, 0.01, 0),
        ([number(-1.0, 0.02), number(-2.0, 0.01, seeds=4)], [], REFUTED, 0.02, 0),
        ([number(2.0, 0.01)], [number(-1.0, 0.01, seeds=4)], INCONCLUSIVE, 0.01, 1),
    ],
)
def test_the_rule(primary, checks, verdict, p, decides):
    found = conclude(primary, checks)
    assert (found.verdict, found.p) == (verdict, p)
    assert found.number is [*primary, *checks][decides]


def test_holm_takes_back_what_several_claims_together_cannot_bear(tmp_path):
    configs = simulate.grid(measures=["grasp_t1", "grad_preservation"])
    items = judged(tmp_path, configs, ids=["C5"])
    alone = replace(items["C5"], verdict=SUPPORTED, p=0.03)
    two = [
        alone,
        replace(alone, verdict=REFUTED, p=0.001),
        replace(alone, verdict=NOT_TESTED, p=None),
    ]
    assert [(item.p_holm, item.verdict_holm) for item in corrected(two)] == [
        (0.03, SUPPORTED), (0.002, REFUTED), (None, NOT_TESTED),
    ]  # fmt: skip
    three = [*two[:2], replace(alone, p=0.5, verdict=INCONCLUSIVE)]
    assert [(item.p_holm, item.verdict_holm) for item in corrected(three)] == [
        (0.06, INCONCLUSIVE), (0.003, REFUTED), (0.5, INCONCLUSIVE),
    ]  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_every_claim_states_its_rule_before_any_number(claim):
    assert claim.sentence.endswith(".")
    assert claim.plain.endswith(".")
    assert claim.statistic.endswith(".") or claim.statistic.endswith(")")
    assert "95 %" in claim.rule
    assert "upported if" in claim.rule
    assert set(claim.figures) <= set(FIGURES)


def test_no_interval_of_a_rank_correlation_leaves_its_range(tmp_path):
    few = simulate.study(seeds=range(2))
    check = judged(tmp_path, few, World(rho=0.97), ["C4"])["C4"].checks[0]
    assert check.label.startswith("rank correlation")
    assert check.interval[1] == 1 > check.effect > 0.9
