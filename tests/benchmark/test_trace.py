"""`trace`: nets that were not written for the suite are scored, cut and priced like its own."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import (
    cross_entropy,
)  # fmt: skip
from torch.utils.flop_counter import FlopCounterMode

from benchmark.cost import cost
from benchmark.errors import UserError
from benchmark.measures import score
from benchmark.models import trace
from benchmark.pruning import compact, masked, select, shrink
from tests.benchmark.test_pruning import assert_same, random_keep, train_steps

CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # float64
models = torchvision.models


def narrow_vgg():
    widths = [n if n == "M" else n // 16 for n in models.vgg.cfgs["D"]]
    net = models.VGG(models.vgg.make_layers(widths, batch_norm=True), num_classes=10, dropout=0)
    net.classifier[0], net.classifier[3] = nn.Linear(32 * 7 * 7, 24), nn.Linear(24, 16)
    net.classifier[6] = nn.Linear(16, 10)
    return net


def narrow_densenet():
    """With blocks of a few layers, all of which are alike."""
    sizes = {"growth_rate": 8, "block_config": (2, 3, 2, 2), "num_init_features": 16}
    return models.DenseNet(**sizes, num_classes=10)


def vgg16_bn():
    """With all its convs, and hidden layers of a 16th."""
    net = models.vgg16_bn(num_classes=10, dropout=0, init_weights=False)
    net.classifier[0], net.classifier[3] = nn.Linear(512 * 7 * 7, 256), nn.Linear(256, 256)
    net.classifier[6] = nn.Linear(256, 10)
    return net


def made(name, **arguments):
    return lambda: getattr(models, name)(num_classes=10, **arguments)


NETS = {
    "resnet18": made("resnet18"), "vgg16_bn": narrow_vgg,
    "mobilenet_v2": made("mobilenet_v2", dropout=0, width_mult=0.25), "densenet": narrow_densenet,
    "mobilenet_v3_small": made("mobilenet_v3_small", dropout=0),
    "squeezenet1_1": made("squeezenet1_1", dropout=0),
}  # fmt: skip
MORE = {
    "resnet50": made("resnet50"), "wide_resnet50_2": made("wide_resnet50_2"),
    "vgg16_bn": vgg16_bn, "densenet121": made("densenet121"),
    "efficientnet_b0": made("efficientnet_b0", dropout=0, stochastic_depth_prob=0),
    "googlenet": made("googlenet", aux_logits=False, init_weights=False, dropout=0),
}  # fmt: skip
PARTLY = {
    "resnext50_32x4d": (made("resnext50_32x4d"), 0.8),
    "shufflenet_v2_x1_0": (made("shufflenet_v2_x1_0"), 0.7),
}
"""{net of which some filters can be removed: (how it is made, the share of its parameters that a
random half of these leaves at most)}"""


def lively(net):
    """A net in float64 whose batch norms are not at their initial values."""
    for module in net.double().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return net


def inputs(size=64):
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=draw)
    return images, torch.tensor([3, 7])


def assert_masked_equals_compact(net, x, y):
    shrunk = shrink(net, random_keep(net, 1, 0.5))
    big, small = shrunk.masked, shrunk.net
    torch.testing.assert_close(big.eval()(x), small.eval()(x), **CLOSE)
    torch.testing.assert_close(big.train()(x), small.train()(x), **CLOSE)
    for model in (big, small):
        cross_entropy(model(x), y).backward()
    assert_same(shrunk, lambda model: {name: p.grad for name, p in model.named_parameters()}, CLOSE)
    for model in (big, small):
        train_steps(model, x, y, 3)
    assert_same(shrunk, lambda model: model.state_dict(), CLOSE)
    assert cost(small) == cost(big)
    assert sum(p.numel() for p in small.parameters()) == cost(small)["net/params"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small.eval()(x[:1])
    assert counter.get_total_flops() == 2 * cost(small)["net/macs"]
    return shrunk


def check_net(make, convs=True, share=0.6, size=64):
    """A traced net equals the one it was traced from; masked and compact ones equal each other;
    half of the parameters go when half are to go."""
    torch.manual_seed(0)
    module, (x, y) = lively(make()), inputs(size)
    before = copy.deepcopy(module.state_dict())
    net = trace(module, x)
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())
    torch.testing.assert_close(net.eval()(x), module.eval()(x), **CLOSE)
    assert cost(net)["net/params"] == sum(p.numel() for p in module.parameters())
    all_convs = [key for key, part in module.named_modules() if isinstance(part, nn.Conv2d)]
    assert not convs or list(net.convs) == all_convs[: len(net.convs)]
    small = assert_masked_equals_compact(net, x, y).net
    assert list(small.state_dict()) == list(before)
    assert cost(small)["net/params"] < share * cost(net)["net/params"]
    scores = {name: torch.rand(filters) for name, filters in net.plan.items()}
    left = cost(compact(net, select(net, scores, 0.5, budget="params")))["net/params"]
    assert 0.49 < left / cost(net)["net/params"] <= 0.5


@pytest.mark.parametrize("name", NETS)
def test_masked_equals_compact(name):
    check_net(NETS[name])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", MORE)
def test_masked_equals_compact_in_more_nets(name):
    check_net(MORE[name])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", PARTLY)
def test_masked_equals_compact_where_some_convs_stay_whole(name):
    make, share = PARTLY[name]
    check_net(make, convs=False, share=share)


@pytest.mark.slow
@pytest.mark.long
def test_masked_equals_compact_for_images_of_224():
    check_net(NETS["mobilenet_v3_small"], size=224)


def test_cuts_of_cuts_and_padded_widths_equal_masks():
    torch.manual_seed(0)
    x, y = inputs(32)
    whole = small = trace(lively(narrow_densenet()), x).eval()
    for round in (1, 2):
        scores = score(small, "taylor", x, y)
        keep = select(small, scores, 0.6, round=round, rounds=2, budget="params")
        shrunk = shrink(small, keep, multiple=4)
        torch.testing.assert_close(shrunk.net(x), masked(small, keep)(x), **CLOSE)
        assert cost(shrunk.net) == cost(shrunk.masked)
        small = shrunk.net
    assert cost(small)["net/params"] <= 0.4 * cost(whole)["net/params"]
    assert sum(small.plan.values()) < sum(whole.plan.values())


def test_a_traced_net_is_scored_and_cut_to_a_share_of_its_macs():
    torch.manual_seed(0)
    x, y = torch.randn(4, 3, 48, 48), torch.tensor([1, 2, 3, 4])
    module = models.mobilenet_v3_small(num_classes=10)
    with pytest.raises(UserError, match=r"benchmark\.models\.trace"):
        score(module, "taylor", x, y)
    net = trace(module, x)
    assert all(layer.any() for layer in score(net, "grasp_t1", x[:2], y[:2], bn="fresh").values())
    scores = score(net, "taylor", x, y, bn="fresh")
    assert {name: len(layer) for name, layer in scores.items()} == net.plan
    small = shrink(net, select(net, scores, 0.5, budget="macs")).net
    macs = [cost(one)["net/macs"] for one in (net, small)]
    assert 0.45 < macs[1] / macs[0] <= 0.5
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        small(x[:1])
    assert counter.get_total_flops() == 2 * macs[1]
    with pytest.raises(UserError, match="bn_scale needs a batch norm"):
        score(net, "bn_scale", x, y)
