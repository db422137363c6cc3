"""Batch-norm statistics of a set of images: what scores, flows and cuts are computed with."""

import copy

import pytest
import torch

from benchmark.config import RunConfig
from benchmark.data._batches import normalise
from benchmark.errors import UserError
from benchmark.flow import evaluating, measure_flow, with_statistics_of
from benchmark.measures import score
from benchmark.pruning import compact, select
from benchmark.pruning.ranks import correlations
from benchmark.run import run
from benchmark.training.cut import make_cut
from benchmark.training.epoch import log_epoch, train_epoch
from benchmark.training.problem import make_problem
from benchmark.training.state import fresh, initial_net
from benchmark.training.steps import finished
from tests.conftest import tiny_images, tiny_net, tiny_run

CPU = torch.device("cpu")


def digits(tmp_path, **fields):
    """An untrained net at 1/8 width, and the data of its run."""
    config = RunConfig(width=0.125, score_samples=200, probe_samples=60, **fields)
    return initial_net(config, 10), make_problem(config, tmp_path, CPU)


def by_hand(net, images):
    """Mean and variance of what each batch norm reads, batch by batch, in the order of its
    modules."""
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    batches = []
    for chosen in images.split(128):
        read = []
        hooks = [
            norm.train().register_forward_pre_hook(lambda _, x, read=read: read.append(x[0]))
            for norm in norms
        ]
        with torch.no_grad():
            net(normalise(chosen, torch.float64))
        for hook in hooks:
            hook.remove()
        batches.append([(x.mean((0, 2, 3)), x.var((0, 2, 3))) for x in read])
    sizes = [len(chosen) / len(images) for chosen in images.split(128)]
    return [
        tuple(
            sum(size * batch[i][part] for size, batch in zip(sizes, batches, strict=True))
            for part in (0, 1)
        )
        for i in range(len(norms))
    ]


@pytest.mark.parametrize("arch", ["vgg13", "resnet20"])
def test_they_are_those_of_the_batches_weighted_by_size(arch):
    net = tiny_net(arch, dtype=torch.float64).eval()
    images, _ = tiny_images(200)
    before = copy.deepcopy(net.state_dict())
    ours = with_statistics_of(net, images)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(module.training for module in [*net.modules(), *ours.modules()])
    norms = [module for module in ours.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    for norm, (mean, var) in zip(norms, by_hand(copy.deepcopy(net), images), strict=True):
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-9, atol=1e-9)


def test_statistics_that_are_no_numbers_are_replaced():
    net, (images, _) = tiny_net("vgg13"), tiny_images(16)
    net.features[2].running_mean.fill_(torch.nan)
    assert with_statistics_of(net, images).features[2].running_mean.isfinite().all()


def test_a_last_image_alone_is_told():
    images = torch.zeros(129, 16, 16, 3, dtype=torch.uint8)
    with_statistics_of(tiny_net("mobilenet_v1"), images[:128])
    with pytest.raises(
        UserError, match="of 129 images of 16x16 must not end with a batch of one image"
    ):
        with_statistics_of(tiny_net("mobilenet_v1"), images)


@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet20"])
def test_a_net_at_initialisation_is_alive(arch, tmp_path):
    net, problem = digits(tmp_path, arch=arch)
    images = problem.scoring.images

    def spread(model):
        with torch.no_grad(), evaluating(model):
            return float(model(normalise(images)).std(dim=0).mean())

    assert spread(net) < 0.005
    assert spread(with_statistics_of(net, images)) > 0.05


@pytest.mark.parametrize("measure", ["loss", "grasp", "grad_preservation"])
def test_they_change_the_ranking_at_initialisation(measure, tmp_path):
    net, problem = digits(tmp_path)
    found = {}
    for bn in ("running", "fresh"):
        layers = score(net, measure, problem.scoring.images, problem.scoring.labels, bn=bn)
        found[bn] = torch.cat(list(layers.values())).numpy()
    assert correlations(found)["fresh|running"] < 0.95


def test_score_with_fresh_statistics_is_the_score_of_the_net_that_has_them():
    net, (images, labels) = tiny_net("resnet20"), tiny_images(20)
    ours = score(net, "grasp", images, labels, bn="fresh")
    theirs = score(with_statistics_of(net, images), "grasp", images, labels)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(UserError, match="bn must be one of fresh, running, got 'new'"):
        score(net, "grasp", images, labels, bn="new")


@pytest.mark.parametrize("score_bn", ["fresh", "running"])
def test_a_cut_holds_the_statistics_and_leaves_those_of_training(score_bn, tmp_path):
    config = tiny_run(measure="loss", score_bn=score_bn)
    problem = make_problem(config, tmp_path, CPU)
    state = fresh(config, 10, CPU)
    finished(train_epoch(state, problem, config, 0.1))
    log_epoch(state, problem, config, {}, flow=False)
    net, (images, labels) = copy.deepcopy(state.model), (problem.probe.images, problem.probe.labels)
    row = make_cut(state, problem, config, tmp_path / "scores.npz", score_every=False)
    held = with_statistics_of(net, problem.scoring.images) if score_bn == "fresh" else net
    scores = score(held, "loss", problem.scoring.images, problem.scoring.labels)
    keep = select(net, scores, config.ratio)
    for model, state_of in ((held, "before"), (compact(held, keep), "after")):
        assert row[state_of] == pytest.approx(
            measure_flow(model, images, labels, 5.0).numbers, rel=1e-3, abs=1e-6
        )
    trained = compact(net, keep)
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name
    met = measure_flow(
        with_statistics_of(trained, problem.scoring.images), images, labels, 5.0
    ).numbers
    assert row["after_fresh"] == pytest.approx(
        {key: met[key] for key in row["after_fresh"]}, rel=1e-3
    )
    assert row["after_fresh"]["loss"] != pytest.approx(row["after"]["loss"], rel=1e-3)


def test_the_flow_of_an_epoch_is_of_statistics_of_the_probe_set(options):
    for score_bn in ("fresh", "running"):
        config = tiny_run(measure="none", score_bn=score_bn, epochs=1)
        summary = run(config, options)
    problem = make_problem(config, options.data, CPU)
    net = with_statistics_of(fresh(config, 10, CPU).model, problem.probe.images)
    flow = measure_flow(net, problem.probe.images, problem.probe.labels, 5.0).numbers
    row = log_epoch(fresh(config, 10, CPU), problem, config, {}, flow=True)
    assert row["flow/grad_norm"] == pytest.approx(flow["grad_norm"])
    assert row["flow/grad_norm"] > 1e-2
    assert summary["samples"]["probe"] == 20
