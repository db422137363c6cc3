"""Contracts that every registered measure keeps, on every architecture."""

import copy

import pytest
import torch
from torch import nn

from benchmark import contracts, registry
from benchmark.errors import UserError
from benchmark.flow import evaluate, with_statistics_of
from benchmark.measures import MEASURES, score
from benchmark.measures import _scoring as scoring
from benchmark.models import trace
from benchmark.pruning import compact, select
from benchmark.pruning.masks import follow
from tests.conftest import every_arch, tiny_images, tiny_net

FIRST = {
    "gradient",
    "accumulated_gradient",
    "gradient_square",
    "gamma_square",
    "gate_square",
    "activation_gradient",
}
SECOND = {"hessian_gradient", "hessian_diagonal"}


@pytest.fixture
def few_iterations(monkeypatch):
    """`synflow` iterates five times, where it is one of many."""
    monkeypatch.setitem(MEASURES["synflow"].function.__globals__, "ITERATIONS", 5)


FEW_ITERATIONS = pytest.mark.usefixtures("few_iterations")


def score_all(net, names, images, labels, **options):
    """{measure: {conv name: scores}} for named measures."""
    return scoring.score_all(net, [MEASURES[name] for name in names], images, labels, **options)


def test_what_is_scored_beside_a_measure_changes_no_bit_of_it():
    """Also where gradients of batches are summed from parts, and the last batch is smaller."""
    net, (images, labels) = tiny_net("resnet20"), tiny_images(140)
    together = score_all(
        net, ["loss", "grasp", "fisher", "fisher_bn", "grad_preservation"], images, labels
    )
    for name in ("loss", "grasp", "fisher"):
        alone = score(net, name, images, labels)
        assert all(torch.equal(alone[conv], together[name][conv]) for conv in net.convs)


def test_initial_weights_that_do_not_fit_and_frozen_ones():
    net, (images, labels) = tiny_net("resnet20"), tiny_images(4)
    initial = {name: net.get_submodule(name).weight for name in net.convs}
    scores = score(net, "loss_biased_init", images, labels, initial=initial)
    assert not any(layer.requires_grad for layer in scores.values())
    first = initial.pop(next(iter(net.convs)))
    with pytest.raises(
        UserError, match="initial must have an entry for every conv, it lacks conv1"
    ):
        score(net, "loss_biased_init", images, labels, initial=initial)
    first.requires_grad_(False)
    with pytest.raises(UserError, match=r"conv1\.weight must require gradients"):
        score(net, "loss", images, labels)
    assert score(net, "magnitude", images, labels).keys() == net.convs.keys()
    assert score(net, "fisher_bn", images, labels).keys() == net.convs.keys()
    net.bn1.bias.requires_grad_(False)
    with pytest.raises(UserError, match=r"bn1\.bias must require gradients"):
        score(net, "fisher_bn", images, labels)


def test_a_net_that_changes_its_input_or_its_maps_has_the_scores_of_one_that_does_not():
    class Branch(nn.Module):
        def __init__(self, act, in_place):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 10)
            self.na, self.nb = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
            self.act, self.in_place = act(inplace=in_place), in_place

        def forward(self, x):
            x = self.act(self.na(self.a(self.act(x))))
            y = self.nb(self.b(x))
            if self.in_place:
                y += x
            else:
                y = y + x
            return self.head(self.act(y).mean((2, 3)))

    labels = torch.arange(4)
    names = [name for name in MEASURES if name not in ("oracle", "loss_biased_init")]
    for act in (nn.ReLU6, nn.Hardswish):
        x = 8 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        before = x.clone()
        nets = [trace(Branch(act, in_place).double(), x) for in_place in (False, True)]
        plain, changing = (score_all(net, names, x, labels) for net in nets)
        assert torch.equal(x, before)
        for name in names:
            torch.testing.assert_close(plain[name], changing[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_is_declared_and_documented(name):
    measure = MEASURES[name]
    assert measure.name == name
    assert measure.order in registry.ORDERS
    text = measure.function.__doc__
    assert "Source:" in text
    assert "Unlike" in text
    needs = set(measure.needs)
    assert measure.order != 1 or needs & FIRST
    assert (measure.order == 2) == bool(needs & SECOND)
    assert (measure.order == "activation") == ("activation" in needs)


def test_five_measures_are_the_papers():
    paper = {name for name, measure in MEASURES.items() if measure.paper}
    assert paper == {"magnitude", "loss", "loss_biased", "grasp", "grad_preservation"}


@FEW_ITERATIONS
@pytest.mark.parametrize("arch", every_arch())
def test_contract(arch):
    """One score per filter, finite, repeatable; the net, its mode and the random state are left
    alone."""
    measures = [measure for name, measure in MEASURES.items() if name != "oracle"]
    assert contracts.scoring_faults(measures, tiny_net(arch), *tiny_images(8)) == []


@FEW_ITERATIONS
def test_score_of_one_equals_score_of_many():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(4)
    names = [name for name in MEASURES if name != "oracle"]
    together = score_all(net, names, images, labels, initial=weights(net))
    for name in ("magnitude", "loss", "grasp", "grad_preservation"):
        alone = score(net, name, images, labels)
        torch.testing.assert_close(alone, together[name], rtol=1e-4, atol=1e-9)


def weights(net):
    return {name: net.get_submodule(name).weight.detach() for name in net.convs}


def test_grasp_t1_is_grad_preservation_with_its_sign():
    net, (images, labels) = tiny_net("resnet20"), tiny_images(8)
    signed, absolute = (
        score(net, name, images, labels) for name in ("grasp_t1", "grad_preservation")
    )
    for name in net.convs:
        torch.testing.assert_close(signed[name].abs(), absolute[name])
    assert any((layer < 0).any() for layer in signed.values())


def test_random_depends_on_the_generator_alone():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(2)
    draws = [
        torch.cat(
            list(
                score(
                    net, "random", images, labels, generator=torch.Generator().manual_seed(seed)
                ).values()
            )
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].min() >= 0
    assert draws[0].max() < 1


def test_temperature_is_the_measures_own_unless_given():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(4)
    for name, own in (("loss", 5.0), ("grasp", 200.0), ("grad_preservation", 1.0)):
        default, same, other = (
            score(net, name, images, labels, temperature=t)["features.3"] for t in (None, own, 9.0)
        )
        assert torch.equal(default, same)
        assert not torch.allclose(default, other)


def permuted(net, conv, order):
    """The same function, with the filters of one conv (and what reads them) in another order."""
    spec, state = net.convs[conv], net.state_dict()
    for name, other in net.convs.items():
        if other.writes == spec.writes:
            state[f"{name}.weight"] = state[f"{name}.weight"][order]
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                state[f"{other.norm}.{tensor}"] = state[f"{other.norm}.{tensor}"][order]
        if other.reads == spec.writes and not other.depthwise:
            state[f"{name}.weight"] = state[f"{name}.weight"][:, order]
    for reader in net.readers.values():
        if reader.reads == spec.writes:
            state[f"{reader.name}.weight"] = state[f"{reader.name}.weight"][:, order]
    result = copy.deepcopy(net)
    result.load_state_dict(state)
    return result


@FEW_ITERATIONS
@pytest.mark.parametrize(
    ("arch", "conv"),
    [("vgg13", "features.31"), ("mobilenet_v1", "layers.2.conv2"), ("resnet20", "layer2.1.conv2")],
)
def test_permuting_filters_permutes_scores(arch, conv):
    net, (images, labels) = tiny_net(arch, dtype=torch.float64), tiny_images(3)
    order = torch.randperm(net.plan[conv], generator=torch.Generator().manual_seed(0))
    other = permuted(net, conv, order)
    names = [name for name in MEASURES if not name.startswith("random") and name != "oracle"]
    initial = {name: torch.zeros_like(weight) for name, weight in weights(net).items()}
    ours = score_all(net, names, images, labels, initial=initial)
    theirs = score_all(other, names, images, labels, initial=initial)
    for name in names:
        torch.testing.assert_close(
            theirs[name][conv], ours[name][conv][order], rtol=1e-5, atol=1e-12
        )
        assert len(ours[name][conv].unique()) > 1 or name in ("none",)


def test_needs_are_computed_once_for_all_measures(monkeypatch):
    """Scoring every measure makes one pass for each need."""
    passes = []
    needs = (
        "gradients", "hessian_gradients", "slopes", "mean_over_images", "hessian_diagonal",
    )  # fmt: skip
    for name in needs:
        original = getattr(scoring, name)
        monkeypatch.setattr(
            scoring,
            name,
            lambda *a, name=name, original=original, **k: passes.append(name) or original(*a, **k),
        )
    net, (images, labels) = tiny_net("vgg13"), tiny_images(4)
    calls = []
    score(net, "none", images, labels)  # looks whether images of this size suit the net
    net.register_forward_hook(lambda *_: calls.append(1))
    names = [name for name in MEASURES if name not in ("oracle", "synflow")]
    score_all(net, names, images, labels, initial=weights(net), batch_size=2)
    assert sorted(passes) == sorted(needs)
    assert len(calls) == 5 * 2 + 2  # batches of 2, and a look at one image before the maps
    passes.clear()
    score_all(net, ["magnitude", "l1", "random", "none"], images, labels)
    assert passes == []
    score_all(net, ["loss", "fisher"], images, labels)
    assert passes == ["gradients"]


def test_each_batch_of_a_pass_has_one_forward(monkeypatch):
    net, (images, labels) = tiny_net("vgg13"), tiny_images(9)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    score_all(
        net,
        ["loss", "taylor", "grasp", "grad_preservation", "fisher"],
        images,
        labels,
        batch_size=4,
    )
    assert len(calls) == 3 + 3


@FEW_ITERATIONS
def test_batch_size_matters_to_squared_gradients_alone():
    net, (images, labels) = tiny_net("vgg13", dtype=torch.float64), tiny_images(8)
    measures = [m for name, m in MEASURES.items() if name not in ("oracle", "random")]
    found = contracts.depend_on_batch(measures, net, images, labels)
    assert found == {"fisher", "fisher_bn", "taylor_gate"}


def test_taylor_is_the_slope_of_the_loss_as_a_filter_shrinks():
    net, (images, labels) = tiny_net("vgg13", dtype=torch.float64), tiny_images(6)
    scores = score(net, "taylor", images, labels)
    for conv in ("features.0", "features.17"):
        index, losses = int(scores[conv].argmax()), []
        for factor in (1 + 1e-6, 1 - 1e-6):
            moved = copy.deepcopy(net)
            moved.get_submodule(conv).weight.data[index] *= factor
            losses.append(evaluate(moved, images, labels, 5.0)[0])
        assert float(scores[conv][index]) == pytest.approx(
            abs(losses[0] - losses[1]) / 2e-6, rel=1e-3
        )


@pytest.mark.parametrize("arch", [pytest.param("mobilenet_v1", marks=pytest.mark.slow), "resnet20"])
def test_oracle_is_the_loss_change_of_the_net_without_that_filter(arch):
    images, labels = tiny_images(2)
    net = with_statistics_of(tiny_net(arch, dtype=torch.float64), images)  # else filters are dead
    check_oracle(net, images, labels, [2, 3])


def test_oracle_of_filters_that_a_depthwise_conv_or_a_gate_follows():
    class Gated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.depthwise = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
            self.b, self.gate, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 10)

        def forward(self, x):
            x = self.b(self.depthwise(self.a(x).relu()).relu()).relu()
            return self.head((x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3)))

    torch.manual_seed(0)
    images, labels = tiny_images(3)
    net = trace(Gated().double(), torch.zeros(1, 3, 32, 32))
    assert [name for name, conv in net.convs.items() if conv.follows] == ["depthwise", "gate"]
    check_oracle(net, images, labels, range(4))


def check_oracle(net, images, labels, filters):
    """The scores of some filters of every fifth conv are those of really removing them."""
    scores = score(net, "oracle", images, labels)
    before, changes = evaluate(net, images, labels, 5.0)[0], []
    for conv in [name for name, spec in net.convs.items() if not spec.follows][::5]:
        for index in filters:
            keep = {name: torch.ones(size, dtype=torch.bool) for name, size in net.plan.items()}
            keep[conv][index] = False
            without = evaluate(compact(net, follow(net, keep)), images, labels, 5.0)[0]
            expected = pytest.approx(without - before, rel=1e-6, abs=1e-12)
            assert float(scores[conv][index]) == expected
            changes.append(without - before)
    assert sum(abs(change) > 1e-6 for change in changes) >= len(changes) / 2


def test_random_with_the_layer_densities_of_magnitude():
    net, (images, labels) = tiny_net("resnet20"), tiny_images(2)
    net = compact(net, select(net, score(net, "random", images, labels), 0.4))
    by_size, by_chance = (score(net, name, images, labels) for name in ("magnitude", "random"))
    keeps = [
        select(net, by_size, 0.7, round=2, rounds=2),
        select(net, by_chance, 0.7, round=2, rounds=2, allocation="magnitude"),
    ]
    assert [int(k.sum()) for k in keeps[0].values()] == [int(k.sum()) for k in keeps[1].values()]
    assert any(not torch.equal(keeps[0][name], keeps[1][name]) for name in net.convs)


def test_weights_that_are_no_numbers_have_scores_that_are_none():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(2)
    net.get_submodule("features.3").weight.data[0, 0, 0, 0] = torch.inf
    assert not all(
        bool(layer.isfinite().all()) for layer in score(net, "synflow", images, labels).values()
    )


def test_synflow_is_iterated_and_empties_no_layer(monkeypatch):
    """At a high ratio one-shot synaptic saliency empties layers; the order of removal of `synflow`
    does not."""
    monkeypatch.setitem(MEASURES["synflow"].function.__globals__, "ITERATIONS", 30)
    net, (images, labels) = tiny_net("vgg13"), tiny_images(2)
    scores = score(net, "synflow", images, labels)
    assert all(float(s.min()) >= 0 and float(s.max()) <= 1 for s in scores.values())
    merged = torch.cat(list(scores.values())).sort().values
    threshold = merged[int(0.8 * len(merged))]
    assert all(bool((s >= threshold).any()) for s in scores.values())


def test_synflow_scores_what_its_last_cut_left(monkeypatch):
    """Iterated, it removes filters in another order than its first scores have."""
    net, (images, labels) = tiny_net("vgg13"), tiny_images(2)
    orders = []
    for iterations in (1, 5):
        monkeypatch.setitem(MEASURES["synflow"].function.__globals__, "ITERATIONS", iterations)
        orders.append(
            torch.cat(list(score(net, "synflow", images, labels).values())).argsort(stable=True)
        )
    assert not torch.equal(*orders)


@FEW_ITERATIONS
def test_synflow_reads_no_data():
    net = tiny_net("resnet20")
    one, other = (score(net, "synflow", *tiny_images(3, seed=seed)) for seed in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_initial_weights_must_be_given_and_fit():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(2)
    with pytest.raises(ValueError, match=r"initial must be .* got None"):
        score(net, "loss_biased_init", images, labels)
    with pytest.raises(ValueError, match=r"initial\['features.0'\] must have the shape"):
        score(
            net,
            "loss_biased_init",
            images,
            labels,
            initial=weights(net) | {"features.0": torch.zeros(2)},
        )


def test_unknown_measure():
    with pytest.raises(ValueError, match=r"measure must be one of .*, got 'gravity'"):
        score(tiny_net("vgg13"), "gravity", *tiny_images(2))


def test_scores_may_be_whole_numbers_or_truths():
    net, (x, y) = tiny_net("vgg13"), tiny_images(4)
    for function in (
        lambda weight: (weight > 0).sum(dim=1),
        lambda weight: weight.sum(dim=1) > 0,
    ):
        counted = registry.Measure("counted", 0, ("weight",), 1.0, True, function)
        scores = score(net, counted, x, y)
        assert {layer.dtype for layer in scores.values()} == {torch.float32}
        select(net, scores, 0.5)


@pytest.mark.parametrize(
    ("images", "labels", "others", "said"),
    [
        (torch.zeros(0, 32, 32, 3, dtype=torch.uint8), torch.zeros(0), {}, "images must be uint8"),
        (torch.zeros(2, 32, 32, 3), torch.zeros(2), {}, "images must be uint8"),
        (torch.zeros(2, 3, 32, 32), torch.zeros(2), {}, "labels must be whole numbers"),
        (torch.zeros(2, 3, 32, 32), torch.arange(3), {}, "labels must be whole numbers"),
        (torch.zeros(2, 3, 32, 32), torch.tensor([0, 10]), {}, "labels must be from 0 to 9"),
        (torch.zeros(2, 3, 32, 32), torch.arange(2), {"batch_size": 0}, "batch_size must be"),
        (torch.zeros(2, 3, 32, 32), torch.arange(2), {"temperature": 0.0}, "temperature must be"),
    ],
)
def test_what_cannot_be_scored_is_named(images, labels, others, said):
    with pytest.raises(UserError, match=said):
        score(tiny_net("vgg13"), "loss", images, labels, **others)


def test_a_frozen_batch_norm_matters_to_measures_of_it_alone():
    net, (x, y) = tiny_net("vgg13"), tiny_images(4)
    frozen = next(conv.norm for conv in net.convs.values())
    net.get_submodule(frozen).requires_grad_(False)
    assert all(layer.isfinite().all() for layer in score(net, "loss", x, y).values())
    with pytest.raises(UserError, match=f"{frozen}.weight must require gradients"):
        score(net, "fisher_bn", x, y)


def test_synflow_with_another_default_type():
    net, (images, labels) = tiny_net("vgg13"), tiny_images(2)
    expected = score(net, "synflow", images, labels)
    torch.set_default_dtype(torch.float64)
    try:
        found = score(net, "synflow", images, labels)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected)
