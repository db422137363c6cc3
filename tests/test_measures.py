"""Contracts that every registered measure keeps, on every architecture."""

import pytest
import torch

from benchmark import registry
from benchmark.measures import MEASURES, score
from benchmark.scoring import score_all
from tests.conftest import tiny_images, tiny_net

ARCHES = registry.names("models")
ORDERS = {0, 1, 2, "control", "truth"}


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_declared_and_documented(name):
    measure = MEASURES[name]
    assert measure.name == name
    assert measure.order in ORDERS
    text = measure.function.__doc__
    assert "Source:" in text
    assert "Unlike" in text
    needs = set(measure.needs)
    assert measure.order != 1 or needs & {"gradient", "gradient_square", "gamma_square"}
    assert (measure.order == 2) == ("hessian_gradient" in needs)


@pytest.mark.parametrize("arch", ARCHES)
def test_contract(arch):
    """One score per filter, finite, repeatable; the net, its mode and the random state are left alone."""
    net, (images, labels) = tiny_net(arch), tiny_images(12)
    net.train()
    state = {name: t.clone() for name, t in net.state_dict().items()}
    rng = torch.random.get_rng_state()
    names = [name for name, measure in MEASURES.items() if name != "oracle"]
    initial = {name: net.get_submodule(name).weight.detach() + 0.1 for name in net.convs}
    first = score_all(net, names, images, labels, initial=initial)
    assert torch.equal(rng, torch.random.get_rng_state())
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(state[name], t) for name, t in net.state_dict().items())
    second = score_all(net, names, images, labels, initial=initial)
    for measure in names:
        assert list(first[measure]) == list(net.convs)
        for conv, scores in first[measure].items():
            assert scores.shape == (net.plan[conv],)
            assert scores.isfinite().all()
            assert not scores.requires_grad
            assert torch.equal(scores, second[measure][conv])


@pytest.mark.parametrize("name", ["magnitude", "loss", "grasp", "grad_preservation"])
def test_score_of_one_equals_score_of_many(name):
    net, (images, labels) = tiny_net("vgg13"), tiny_images(8)
    alone = score(net, name, images, labels)
    together = score_all(net, list(MEASURES), images, labels, initial=weights(net))[name]
    for conv in alone:
        torch.testing.assert_close(alone[conv], together[conv], rtol=1e-4, atol=1e-9)


def weights(net):
    return {name: net.get_submodule(name).weight.detach() for name in net.convs}


def test_random_depends_on_the_generator_alone():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(2)
    draws = [
        torch.cat(list(score(net, "random", images, labels, generator=torch.Generator().manual_seed(seed)).values()))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].min() >= 0
    assert draws[0].max() < 1


def test_temperature_is_the_measures_own_unless_given():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(4)
    for name, own in (("loss", 5.0), ("grasp", 200.0), ("grad_preservation", 1.0)):
        default, same, other = (score(net, name, images, labels, temperature=t)["features.3"] for t in (None, own, 9.0))
        assert torch.equal(default, same)
        assert not torch.allclose(default, other)


def test_unknown_measure():
    with pytest.raises(ValueError, match=r"measure must be one of .*, got 'gravity'"):
        score(tiny_net("vgg13"), "gravity", *tiny_images(2))
