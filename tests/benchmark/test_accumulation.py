"""Gradients that a measure needs are accumulated in training, in a dense phase of their own."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.measures import MEASURES, score
from benchmark.options import Options
from benchmark.record import Record
from benchmark.run import run
from benchmark.training import checkpoint as checkpoints
from benchmark.training import state as states
from benchmark.training.cut import make_cut, scorable
from benchmark.training.dense import start
from benchmark.training.epoch import advance, train_epoch
from benchmark.training.problem import make_problem
from benchmark.training.step import Step, make_optimizer
from benchmark.training.steps import finished
from tests.conftest import tiny_images, tiny_net, tiny_run

CPU = torch.device("cpu")
MEASURE = "grad_accumulation"


def trained(tmp_path, **fields):
    config = tiny_run(measure=MEASURE, rounds=2, **fields)
    problem = make_problem(config, tmp_path, CPU)
    state = start(config, problem, accumulates=True)
    finished(advance(state, problem, config, 0.1, flow_every=1))
    return config, problem, state


def test_each_step_adds_the_norms_of_its_gradients():
    config, net = RunConfig(measure=MEASURE, lr=0.1), tiny_net("resnet20")
    total = states.no_gradients(net)
    step = Step(net, make_optimizer(net, config), config, total)
    expected = {name: torch.zeros(filters) for name, filters in net.plan.items()}
    for _ in range(3):
        x, y = torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
        weights = [net.get_submodule(name).weight for name in net.convs]
        net.train()
        found = torch.autograd.grad(cross_entropy(net(x) / 5, y), weights)
        for name, gradient in zip(net.convs, found, strict=True):
            expected[name] += gradient.flatten(1).square().sum(dim=1).sqrt()
        step(x, y)
    for name, layer in expected.items():
        torch.testing.assert_close(total[name], layer, rtol=1e-4, atol=0)


def test_its_scores_are_the_sums_and_a_cut_keeps_those_of_the_filters_that_stay(tmp_path):
    config, problem, state = trained(tmp_path)
    sums = dict(state.accumulated)
    make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    with np.load(tmp_path / "scores.npz") as scores:
        for name, layer in sums.items():
            assert np.array_equal(scores[f"{MEASURE}/{name}"], layer.numpy())
    for name, layer in state.accumulated.items():
        kept = state.origin[state.model.convs[name].writes]
        assert torch.equal(layer, sums[name][kept])
        assert len(layer) == state.model.plan[name]
        assert layer.min() >= sums[name].min()
    before = {name: layer.clone() for name, layer in state.accumulated.items()}
    finished(train_epoch(state, problem, config, 0.1))
    assert all((state.accumulated[name] > layer).all() for name, layer in before.items())


def test_new_weights_begin_new_sums(tmp_path):
    config, problem, state = trained(tmp_path, ablation="reinit")
    make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    assert not any(layer.any() for layer in state.accumulated.values())


def test_a_checkpoint_has_them(tmp_path):
    config, problem, state = trained(tmp_path)
    with checkpoints.Checkpoints(config, "0123456789ab", 0) as kept:
        kept.keep(state, tmp_path / "state.pt")
    loaded = checkpoints.load(tmp_path / "state.pt", config, CPU, "0123456789ab")
    for one in (state, loaded):
        finished(train_epoch(one, problem, config, 0.1))
    assert all(
        torch.equal(layer, loaded.accumulated[name]) for name, layer in state.accumulated.items()
    )


def test_the_dense_phase_is_its_own_and_trains_as_any_other(tmp_path):
    options = Options(runs=tmp_path / "runs", data=tmp_path, wandb="disabled")
    fields = {"prune_epoch": 2, "rounds": 2, "epochs": 4}
    ours, other = (tiny_run(measure=name, **fields) for name in (MEASURE, "loss"))
    for config in (ours, other):
        assert run(config, options)["outcome"] == "finished"
    folders = sorted(folder.name for folder in (tmp_path / "runs" / "_dense").iterdir())
    dense = ours.dense().run_id
    assert folders == [dense, f"{dense}-accumulated"]
    assert other.phase == dense
    assert ours.phase == f"{dense}-accumulated"
    first, second = (
        [
            {key: value for key, value in row.items() if not key.startswith("time/")}
            for row in Record(options.runs / config.run_id).history()[:3]
        ]
        for config in (ours, other)
    )
    assert first == second
    restarted = run(tiny_run(measure=MEASURE, **fields, seed=0, ratio=0.5), options)
    assert restarted["outcome"] == "finished"


def test_other_runs_leave_it_out(tmp_path):
    _, _, state = trained(tmp_path)
    assert MEASURE in [measure.name for measure in scorable(state)]
    state.accumulated = None
    assert MEASURE not in [measure.name for measure in scorable(state)]


def test_a_net_alone_has_one_step():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(6)
    alone = score(net, MEASURE, images, labels)
    given = {name: torch.rand(filters) for name, filters in net.plan.items()}
    assert all(
        torch.equal(layer, given[name])
        for name, layer in score(net, MEASURE, images, labels, accumulated=given).items()
    )
    assert all((layer >= 0).all() and layer.any() for layer in alone.values())
    del given["features.0"]
    with pytest.raises(UserError, match="accumulated must have an entry for every conv, it lacks"):
        score(net, MEASURE, images, labels, accumulated=given)
    assert MEASURES[MEASURE].accumulates
    assert not MEASURES["loss"].accumulates


def test_before_the_first_step_the_scoring_images_are_the_only_one(tmp_path):
    config = tiny_run(measure=MEASURE)
    problem = make_problem(config, tmp_path, CPU)
    state = start(config, problem, accumulates=True)
    alone = score(
        state.model, MEASURE, problem.scoring.images, problem.scoring.labels, bn=config.score_bn
    )
    make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    with np.load(tmp_path / "scores.npz") as scores:
        for name, layer in alone.items():
            np.testing.assert_allclose(scores[f"{MEASURE}/{name}"], layer.numpy(), rtol=1e-5)
