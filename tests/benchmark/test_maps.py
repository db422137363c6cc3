"""Measures that look inside a net, and measures that compare the filters of a layer."""

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmark.flow import gradients
from benchmark.measures import MEASURES, score
from benchmark.measures import _maps as maps
from benchmark.measures._scoring import score_all
from benchmark.pruning import masked, select, shrink
from tests.benchmark.test_golden import BATCH, GOLDEN, images, net_and_initial
from tests.conftest import tiny_images, tiny_net

OF_A_LAYER = ("fpgm", "lamp", "whc", "gibbs")
OF_MAPS = ("activation_mean", "apoz", "hrank", "chip", "taylor_activation")
SECOND = (*OF_A_LAYER, *OF_MAPS, "taylor_gate", "obd", "grasp_t1")
ABSOLUTE = {"hrank": 0.02}
RELATIVE = {"rtol": 1e-6, "atol": 0}


@lru_cache
def golden(arch: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{arch}_more.npz") as arrays:
        return dict(arrays)


SLOW = [
    pytest.param("mobilenet_v1", marks=pytest.mark.slow),
    pytest.param("resnet56", marks=[pytest.mark.slow, pytest.mark.long]),
]


@pytest.mark.parametrize("arch", ["vgg13", *SLOW])
def test_scores_are_those_of_an_independent_implementation(arch):
    net, _ = net_and_initial(arch)
    whole = [MEASURES[name] for name in SECOND if name != "chip"]
    scores = score_all(net, whole, *images(), batch_size=BATCH)
    scores |= score_all(net, [MEASURES["chip"]], *(part[:10] for part in images()))
    for name in SECOND:
        expected, convs = golden(arch)[name], golden(arch)[f"{name}/convs"].tolist()
        got = torch.cat([scores[name][conv] for conv in convs]).numpy()
        allowed = ABSOLUTE.get(name, 1e-4 * np.abs(expected).max())
        assert np.abs(got - expected).max() <= allowed, name


@pytest.mark.parametrize("arch", ["vgg13", "resnet20", "mobilenet_v1"])
def test_scores_of_a_compact_net_are_those_of_the_masked_one(arch):
    """Also where a conv writes only some channels of a residual stream."""
    net, (x, y) = tiny_net(arch, dtype=torch.float64), tiny_images(6)
    shrunk = shrink(net, select(net, score(net, "random", x, y), 0.5))
    live = shrunk.masked.masks()
    small, big = (
        score_all(model, [MEASURES[name] for name in SECOND], x, y)
        for model in (shrunk.net, shrunk.masked)
    )
    assert not all(layer.all() for layer in live.values())
    for name in set(SECOND) - {"hrank"}:
        for conv in net.convs:
            # removed input channels are part of a masked filter's weights
            if name not in OF_A_LAYER or conv == next(iter(net.convs)):
                torch.testing.assert_close(
                    small[name][conv], big[name][conv][live[conv]], rtol=1e-6, atol=1e-12
                )
            assert big[name][conv].isfinite().all()
            assert not big[name][conv][~live[conv]].any(), name


def scored(name, weight, live=None):
    """Scores of one layer by a measure that reads its weights."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    return MEASURES[name].function(weight, weight.any(dim=1) if live is None else live)


@pytest.mark.parametrize("name", OF_A_LAYER)
def test_equal_filters_have_equal_scores_and_dead_ones_are_no_neighbours(name):
    weight = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight[5] = weight[2]
    alone = scored(name, weight)
    assert alone[5] == alone[2]
    padded = torch.cat([weight, torch.zeros(3, 12, dtype=torch.float64)])
    beside = scored(name, padded)
    torch.testing.assert_close(beside[:7], alone)
    assert not beside[7:].any()
    masked_too = torch.cat([weight, weight[:3]])
    live = torch.arange(10) < 7
    torch.testing.assert_close(scored(name, masked_too, live), beside)
    assert not scored(name, torch.zeros(3, 4)).any()


def test_scores_of_a_layer_by_hand():
    weight = [[3.0, 4.0], [3.0, 4.0], [0.0, 5.0], [4.0, -3.0]]  # norms 5; directions 0.8 and 0
    assert scored("lamp", weight).tolist() == pytest.approx([0.25] * 4)
    assert scored("fpgm", weight)[0] == pytest.approx(10**0.5 + 50**0.5)
    assert scored("whc", weight)[0] == pytest.approx(5 * 5 * (0 + 0.2 + 1))
    assert scored("gibbs", [[1.0], [2.0], [3.0], [4.0]]).tolist() == pytest.approx(
        [1 - 10.75, 4 - 10.75, 9 - 10.75, 16 - 10.75]
    )
    assert not scored("fpgm", [[1.0, 2.0], [0.0, 0.0]]).any()
    assert not scored("whc", [[1.0, 2.0], [0.0, 0.0]]).any()


@pytest.mark.parametrize("shape", [(2, 5, 2, 2), (2, 5, 4, 3), (1, 9, 1, 1), (2, 1, 3, 3)])
def test_chip_is_the_loss_of_nuclear_norm(shape):
    draw = torch.Generator().manual_seed(1)
    activation = torch.randn(shape, dtype=torch.float64, generator=draw).relu()
    activation[0, -1] = 2 * activation[0, 0]
    expected = []
    for index in range(shape[1]):
        without = activation.clone()
        without[:, index] = 0
        lost = [
            torch.linalg.svdvals(a.flatten(1)).sum() - torch.linalg.svdvals(b.flatten(1)).sum()
            for a, b in zip(activation, without, strict=True)
        ]
        expected.append(sum(lost) / len(lost))
    got = MEASURES["chip"].function(activation)
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-7, atol=1e-9)
    assert not MEASURES["chip"].function(torch.zeros(shape)).any()


def test_the_diagonal_is_that_of_the_hessian():
    net, (x, y) = tiny_net("resnet20", dtype=torch.float64), tiny_images(4)
    found = maps.hessian_diagonal(net, x, y, 5.0, batch_size=3)
    pixels = (x.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.5
    for conv in ("layer1.0.conv1", "layer2.0.shortcut.0", "layer3.2.conv2"):
        weight = net.eval().get_submodule(conv).weight
        (slope,) = torch.autograd.grad(cross_entropy(net(pixels) / 5, y), weight, create_graph=True)
        for place in (0, 7):
            row = torch.autograd.grad(slope.flatten()[place], weight, retain_graph=True)[0]
            expected = float(row.flatten()[place])
            assert float(found[conv].flatten()[place]) == pytest.approx(expected, rel=1e-6)


def test_random_vectors_estimate_the_diagonal_for_many_classes(monkeypatch):
    net, (x, y) = tiny_net("vgg13"), tiny_images(12)
    exact = score(net, "obd", x, y)
    monkeypatch.setattr(maps, "EXACT_CLASSES", 9)
    estimates = [score(net, "obd", x, y, batch_size=size) for size in (12, 5)]
    for conv in net.convs:
        ratio = float(estimates[0][conv].sum() / exact[conv].sum())
        assert 0.8 < ratio < 1.2
        assert ratio != 1
        torch.testing.assert_close(*(e[conv] for e in estimates), rtol=1e-4, atol=0)


def test_the_gate_is_the_slope_of_the_loss_as_an_output_shrinks():
    net, (x, y) = tiny_net("resnet20", dtype=torch.float64), tiny_images(5)
    scores = score(net, "taylor_gate", x, y, batch_size=5)
    conv = "layer2.0.conv1"
    index, losses = int(scores[conv].argmax()), []
    pixels = (x.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.5
    for factor in (1 + 1e-6, 1 - 1e-6):
        moved = copy.deepcopy(net).eval()
        norm = moved.get_submodule(net.convs[conv].norm)
        norm.weight.data[index] *= factor
        norm.bias.data[index] *= factor
        losses.append(float(cross_entropy(moved(pixels) / 5, y).detach()))
    slope = (losses[0] - losses[1]) / 2e-6
    assert float(scores[conv][index]) == pytest.approx(slope**2, rel=1e-4)


def test_scores_of_maps_are_of_the_rectified_output_of_the_conv():
    """Before the batch norm in VGG, behind it elsewhere; in a residual branch before the sum."""
    x, y = tiny_images(3)
    pixels = (x.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.5
    for arch, conv, source in (
        ("vgg13", "features.3", "features.3"),
        ("resnet20", "layer2.0.conv2", "layer2.0.bn2"),
        ("mobilenet_v1", "layers.1.conv1", "layers.1.bn1"),
    ):
        net, seen = tiny_net(arch, dtype=torch.float64).eval(), []
        hook = net.get_submodule(source).register_forward_hook(
            lambda _, __, out, seen=seen: seen.append(out.clone())
        )
        net(pixels)
        hook.remove()
        expected = seen[0].relu().mean(dim=(0, 2, 3)).detach()
        torch.testing.assert_close(score(net, "activation_mean", x, y)[conv], expected)


def test_maps_that_are_no_numbers_have_scores_that_are_none():
    net, (x, y) = tiny_net("vgg13"), tiny_images(2)
    net.get_submodule("features.3").weight.data[0, 0, 0, 0] = torch.nan
    for name in OF_MAPS:
        layers = score(net, name, x, y)
        assert not torch.cat(list(layers.values())).isfinite().all(), name


def test_a_masked_filter_of_a_plain_net_keeps_its_score_of_zero():
    net, (x, y) = tiny_net("vgg13"), tiny_images(3)
    keep = select(net, score(net, "random", x, y), 0.4)
    big = masked(net, keep)
    for name in SECOND:
        layers = score(big, name, x, y)
        assert not any(layers[conv][~keep[conv]].any() for conv in net.convs), name


def test_batches_count_by_their_sizes_and_parts_of_them_by_theirs():
    """On a CPU a batch of 100 images is computed in two parts."""
    net, (x, y) = tiny_net("resnet20", dtype=torch.float64), tiny_images(140)
    found, other = (maps.slopes(net, x, y, 5.0, batch_size=size) for size in (100, 30))
    conv, expected = "layer2.0.conv1", 0.0
    norm = net.get_submodule(net.convs[conv].norm)
    for part in (slice(0, 100), slice(100, 140)):
        g = gradients(net, x[part], y[part], (5.0,)).mean[5.0]
        gamma, beta = (g[f"{net.convs[conv].norm}.{name}"] for name in ("weight", "bias"))
        gate = norm.weight * gamma + norm.bias * beta
        expected = expected + gate.detach().square() * len(y[part]) / len(y)
    torch.testing.assert_close(found.gate_square[conv], expected, **RELATIVE)
    assert not torch.allclose(found.gate_square[conv], other.gate_square[conv], **RELATIVE)
    for name in net.convs:
        one, two = (result.activation_gradient[name] for result in (found, other))
        torch.testing.assert_close(one, two, **RELATIVE)
    assert all(parameter.requires_grad for parameter in net.parameters())
