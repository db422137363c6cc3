"""Rank correlations over filters: of measures with each other, and of a score with how far its
filter moves."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmark.measures import MEASURES
from benchmark.pruning.ranks import agreement, correlations, movement, squared_norms
from benchmark.record import MOVED, Record
from benchmark.run import run
from tests.conftest import tiny_net, tiny_run


def random_scores(net, seed):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.rand(filters, generator=draw) for name, filters in net.plan.items()}


def live(net, layers):
    """All scores that a cut would rank, one after the other."""
    return np.concatenate(
        [layers[name][net.mask(name)].numpy() for name, c in net.convs.items() if c.prunable]
    )


@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet20"])
def test_agreement_is_spearmans_over_the_live_prunable_filters(arch):
    net = tiny_net(arch)
    net.set_mask(next(n for n, c in net.convs.items() if c.prunable), torch.arange(8) != 3)
    scores = {name: random_scores(net, seed) for seed, name in enumerate(("b", "a", "c"))}
    scores["c"] = {name: layer.exp() * 7 for name, layer in scores["a"].items()}
    found = agreement(scores, net)
    assert list(found) == ["a|b", "a|c", "b|c"]
    assert found["a|c"] == pytest.approx(1)
    assert found["a|b"] == pytest.approx(
        spearmanr(live(net, scores["a"]), live(net, scores["b"])).statistic
    )


def test_ties_share_their_mean_rank():
    a, b = np.random.default_rng(0).integers(0, 4, size=(2, 50)).astype(float)
    assert correlations({"a": a, "b": b}) == {"a|b": pytest.approx(spearmanr(a, b).statistic)}


def test_a_correlation_that_does_not_exist_is_left_out():
    x = np.array([3.0, 1.0, 2.0])
    assert correlations({"a": x, "b": np.ones(3), "c": np.array([1.0, np.nan, 2.0]), "d": -x}) == {
        "a|d": -1.0
    }
    assert correlations({"a": x[:2], "b": x[:2]}) == {}


def test_movement_ranks_the_change_of_each_filters_squared_norm():
    net = tiny_net("vgg13")
    norms = squared_norms(net)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in net.convs:
            weight = net.get_submodule(name).weight
            weight.mul_(torch.rand(len(weight), 1, 1, 1, generator=draw) * 2)
    change = {name: (squared_norms(net)[name] - norms[name]).abs() for name in norms}
    found = movement({"same": change, "reverse": {n: -c for n, c in change.items()}}, net, norms)
    assert found == {"same": pytest.approx(1), "reverse": pytest.approx(-1)}


def test_the_row_after_a_cut_and_no_other_says_how_far_filters_moved(options):
    config = tiny_run(measure="loss", prune_epoch=1, rounds=2, epochs=5, arch="vgg13")
    run(config, dataclasses.replace(options, score_all=True))
    record = Record(options.runs / config.run_id)
    recorded = {name for name in MEASURES if name not in ("none", "oracle")}
    for row in record.history():
        moved = {key.removeprefix(MOVED) for key in row if key.startswith(MOVED)}
        assert moved == (recorded if row["epoch"] in (2, 3) else set())
        assert all(-1 <= row[MOVED + name] <= 1 for name in moved)
    for cut in record.cuts():
        assert len(cut["agreement"]) == len(recorded) * (len(recorded) - 1) / 2


def test_without_other_scores_there_is_no_agreement(options):
    config = tiny_run(measure="loss", prune_epoch=1, epochs=2)
    run(config, options)
    record = Record(options.runs / config.run_id)
    assert record.cuts()[0]["agreement"] == {}
    assert [key for key in record.history()[2] if key.startswith(MOVED)] == ["moved/loss"]
