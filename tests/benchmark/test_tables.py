"""The tables of convs and streams of the suite's architectures, and the weights that they begin
with: earlier runs and checkpoints depend on both."""

import copy
import pickle

import pytest
import torch
from torch import nn

from benchmark import registry
from benchmark.models import build
from benchmark.pruning import compact, select
from tests.conftest import tiny_net

ARCHES = registry.names("models")


def entry(name, norm, reads, writes, filters, prunable=True):
    return (name, norm, reads, writes, filters, prunable and reads != writes, reads == writes)


def vgg13():
    rows, reads = [], "image"
    for stage, filters in enumerate([64, 128, 256, 512, 512]):
        for i in range(2):
            at = 7 * stage + 3 * i
            name = f"features.{at}"
            rows.append(entry(name, f"features.{at + 2}", reads, name, filters))
            reads = name
    return rows


def mobilenet_v1():
    rows, reads, before = [entry("conv1", "bn1", "image", "conv1", 32)], "conv1", 32
    for i, filters in enumerate([64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]):
        name = f"layers.{i}.conv"
        rows.append(entry(f"{name}1", f"layers.{i}.bn1", reads, reads, before))
        rows.append(entry(f"{name}2", f"layers.{i}.bn2", reads, f"{name}2", filters))
        reads, before = f"{name}2", filters
    return rows


def resnet(widths, blocks):
    rows, reads = [entry("conv1", "bn1", "image", "layer1", widths[0], prunable=False)], "layer1"
    for stage, (filters, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        stream = f"layer{stage}"
        for i in range(count):
            block = f"{stream}.{i}"
            first = f"{block}.conv1"
            rows.append(entry(first, f"{block}.bn1", reads, first, filters))
            rows.append(entry(f"{block}.conv2", f"{block}.bn2", first, stream, filters))
            if reads != stream:
                shortcut = f"{block}.shortcut."
                rows.append(entry(f"{shortcut}0", f"{shortcut}1", reads, stream, filters))
            reads = stream
    return rows


TABLES = {
    "vgg13": vgg13(),
    "mobilenet_v1": mobilenet_v1(),
    "resnet18": resnet((64, 128, 256, 512), (2, 2, 2, 2)),
    "resnet20": resnet((16, 32, 64), (3, 3, 3)),
    "resnet34": resnet((64, 128, 256, 512), (3, 4, 6, 3)),
    "resnet56": resnet((16, 32, 64), (9, 9, 9)),
}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("width", [1, 0.125])
def test_the_table_of_convs_and_streams(arch, width):
    net, rows = build(arch, width=width), TABLES[arch]
    found = [
        (c.name, c.norm, c.reads, c.writes, c.filters, c.prunable, c.depthwise)
        for c in net.convs.values()
    ]
    assert found == rows
    assert not any(conv.gate for conv in net.convs.values())
    plan = {row[0]: max(min(8, row[4]), round(row[4] * width)) for row in rows}
    assert net.plan == net.original == plan
    writers = {}
    for name, _, _, writes, *_, depthwise in rows:
        if not depthwise:
            writers.setdefault(writes, []).append(name)
    assert net.writers == writers
    assert net.channels == {"image": 3} | {s: plan[names[0]] for s, names in writers.items()}
    head = "classifier" if arch == "vgg13" else "linear"
    assert [(r.name, r.reads, r.features) for r in net.readers.values()] == [
        (head, rows[-2 if "shortcut" in rows[-1][0] else -1][3], 1)
    ]


def assert_freshly_drawn(net, seed):
    """The weights are those of torch's layers, made one after the other from this seed."""
    torch.manual_seed(seed)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            shape = (module.in_channels, module.out_channels, module.kernel_size)
            fresh = nn.Conv2d(*shape, groups=module.groups, bias=module.bias is not None)
        elif isinstance(module, nn.Linear):
            fresh = nn.Linear(module.in_features, module.out_features)
        elif isinstance(module, nn.BatchNorm2d):
            fresh = nn.BatchNorm2d(module.num_features)
        else:
            continue
        state = module.state_dict()
        assert state.keys() == fresh.state_dict().keys(), name
        assert all(torch.equal(state[key], t) for key, t in fresh.state_dict().items()), name
    assert net.training


@pytest.mark.parametrize("arch", ARCHES)
def test_initial_weights_are_torchs_in_the_order_of_the_modules(arch):
    torch.manual_seed(7)
    net = build(arch, num_classes=5, width=0.125)
    after = torch.rand(1)
    assert_freshly_drawn(net, 7)
    assert torch.equal(torch.rand(1), after)  # nothing else is drawn
    draw = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(filters, generator=draw) for name, filters in net.plan.items()}
    small = compact(net, select(net, scores, 0.6))
    for plan in (small.plan | small.written, net.plan):
        torch.manual_seed(8)
        fresh = build(arch, num_classes=5, plan=plan)
        after = torch.rand(1)
        assert_freshly_drawn(fresh, 8)
        assert torch.equal(torch.rand(1), after)
        assert fresh.original == fresh.plan
    assert small.original == net.plan


@pytest.mark.parametrize("arch", ["mobilenet_v1", "resnet20"])
def test_copies_and_pickles_have_the_same_outputs_and_masks(arch):
    net = tiny_net(arch).eval()
    scores = {name: torch.rand(filters) for name, filters in net.plan.items()}
    net, x = compact(net, select(net, scores, 0.6)), torch.randn(2, 3, 32, 32)
    name = next(name for name, conv in net.convs.items() if conv.prunable)
    net.set_mask(name, torch.arange(net.plan[name]) > 0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), net(x))
        assert (other.arch, other.num_classes, other.plan) == (arch, 10, net.plan)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0)
        assert not other(x).any()
    assert net(x).any()
