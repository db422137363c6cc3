"""Rank correlations over filters: of measures with each other, and of a score with how far its
filter moves."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmark.measures import MEASURES
from benchmark.pruning.ranks import agreement, correlations
from benchmark.record import Record
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


def test_the_measures_recorded_at_a_cut_are_compared_in_pairs(options, monkeypatch):
    monkeypatch.setitem(MEASURES["synflow"].function.__globals__, "ITERATIONS", 3)
    config = tiny_run(measure="loss", prune_epoch=1, rounds=2, epochs=3, arch="vgg13")
    run(config, dataclasses.replace(options, score_all=True))
    recorded = {name for name in MEASURES if name not in ("none", "oracle", "grad_accumulation")}
    for cut in Record(options.runs / config.run_id).cuts():
        assert len(cut["agreement"]) == len(recorded) * (len(recorded) - 1) / 2


def test_without_other_scores_there_is_no_agreement(options):
    config = tiny_run(measure="loss", prune_epoch=1, epochs=2)
    run(config, options)
    record = Record(options.runs / config.run_id)
    assert record.cuts()[0]["agreement"] == {}
