"""masked == compact: in outputs, gradients and training. The most important test of the suite."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, relu

from benchmark import registry
from benchmark.config import PRECISIONS
from benchmark.cost import cost
from benchmark.data._batches import normalise
from benchmark.errors import UserError
from benchmark.measures import score
from benchmark.models import build, multiple, trace
from benchmark.pruning import compact, masked, select, shrink
from benchmark.pruning.masks import follow
from benchmark.schedule import kept_fraction
from tests.conftest import every_arch, tiny_images, tiny_net

ARCHES = registry.names("models")
CLOSE = {"rtol": 1e-8, "atol": 1e-9}  # float64
TRAINED = {
    "rtol": 1e-4,
    "atol": 1e-6,
}  # rounding grows from step to step through batch norms over few values
EXAMPLES = settings(max_examples=4, deadline=None)


class Separable(nn.Module):
    """A residual block around a depthwise conv: its stream has a writer before it and one behind
    it."""

    def __init__(self, num_classes):
        super().__init__()
        shapes = {"stem": (3, 12, 3), "depthwise": (12, 12, 3), "inner": (12, 10, 1)}
        for name, (inputs, filters, size) in {**shapes, "outer": (10, 12, 1)}.items():
            groups = 12 if name == "depthwise" else 1
            conv = nn.Conv2d(inputs, filters, size, 1, size // 2, groups=groups, bias=False)
            self.add_module(name, conv)
            self.add_module(f"{name}_norm", nn.BatchNorm2d(filters))
        self.linear = nn.Linear(12, num_classes)

    def forward(self, x):
        x = relu(self.stem_norm(self.stem(x)))
        y = relu(self.depthwise_norm(self.depthwise(x)))
        y = relu(self.inner_norm(self.inner(y)))
        return self.linear((x + self.outer_norm(self.outer(y))).mean((2, 3)))


@pytest.fixture
def separable(monkeypatch):
    """The architecture `separable`, beside the others."""
    found = SimpleNamespace(build=lambda num_classes, width=1.0: Separable(num_classes))
    load = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name: found if name == "separable" else load(kind, name)
    )


@pytest.mark.parametrize("protocol", ["exact", "paper"])
def test_a_depthwise_conv_follows_all_convs_that_write_its_stream(separable, protocol):
    net = build("separable").double().eval()
    assert not net.convs["depthwise"].prunable
    x, y = inputs(0)
    for round in (1, 2, 3):
        draw = torch.Generator().manual_seed(round)
        scores = {
            name: torch.rand(n, dtype=torch.float64, generator=draw) for name, n in net.plan.items()
        }
        keep = select(net, scores, 0.7, round=round, rounds=3, protocol=protocol)
        big, net = masked(net, keep), compact(net, keep)
        torch.testing.assert_close(net(x), big(x), **CLOSE)
        fraction = kept_fraction(0.7, round, rounds=3)
        kept = sum(int(keep[name].sum()) for name in ("inner", "outer")) / 22
        least = 0 if protocol == "paper" else fraction - 0.1  # there the stem's rows count too
        assert least < kept < fraction + 0.1
        stem, outer = (big.over_stream(name, big.mask(name)) for name in ("stem", "outer"))
        assert torch.equal(big.mask("depthwise"), stem | outer)
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    assert {
        name: len(layer) for name, layer in score(net.float(), "oracle", images, y).items()
    } == net.plan


def random_keep(net, seed, share):
    """A random mask: at least one live filter of each conv stays; depthwise convs follow."""
    draw = torch.Generator().manual_seed(seed)
    keep = {}
    for name, filters in net.plan.items():
        keep[name] = torch.rand(filters, generator=draw) < share
        live = net.mask(name).nonzero().flatten()
        keep[name][live[torch.randint(len(live), (1,), generator=draw)]] = True
    return follow(net, keep)


def inputs(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=draw), torch.tensor(
        [0, 3, 3, 9]
    )


def train_steps(net, x, y, steps):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(net(x) / 5, y).backward()
        optimizer.step()


def assert_same(shrunk, tensors, close):
    """`tensors(net)` of the compact net equal the kept part of the masked net's."""
    large, little = tensors(shrunk.masked), tensors(shrunk.net)
    assert large.keys() == little.keys()
    for name, tensor in little.items():
        torch.testing.assert_close(tensor, shrunk.part(name, large[name]), **close)


@pytest.mark.parametrize("arch", every_arch())
@EXAMPLES
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.1, 0.4, 0.8]), training=st.booleans())
def test_masked_equals_compact(arch, seed, share, training):
    net = tiny_net(arch, seed, torch.float64).train(training)
    x, y = inputs(seed)
    shrunk = shrink(net, random_keep(net, seed, share))
    big, small = shrunk.masked, shrunk.net
    assert small.training == training
    torch.testing.assert_close(big(x), small(x), **CLOSE)
    for model in (big, small):
        model.zero_grad()
        cross_entropy(model(x), y).backward()
    assert_same(shrunk, lambda model: {name: p.grad for name, p in model.named_parameters()}, CLOSE)
    for model in (big, small):
        train_steps(model, x, y, 3)
    assert_same(shrunk, lambda model: model.state_dict(), TRAINED)
    torch.testing.assert_close(big(x), small(x), **TRAINED)


def over_filters(net, small, keep, index):
    """`keep` of a compact net for the net that it came from; index: {conv name: its filters}."""
    wide = {name: torch.zeros(filters, dtype=torch.bool) for name, filters in net.plan.items()}
    return {name: wide[name].index_copy(0, index[name], keep[name]) for name in small.convs}


@pytest.mark.parametrize("arch", ["resnet20", "separable"])
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.4, 0.7]), padded=st.booleans())
def test_rounds_of_cuts_and_training_equal_those_of_the_masked_net(
    separable, arch, seed, share, padded
):
    """Compact nets of a residual net, cut again and again, against the whole net with masks."""
    whole = small = tiny_net(arch, seed, torch.float64).train()
    index = {name: torch.arange(filters) for name, filters in whole.plan.items()}
    (x, y), cuts = inputs(seed), []
    for round in range(3):
        keep = random_keep(small, seed + round, share)
        whole = masked(whole, over_filters(whole, small, keep, index))
        cuts.append(shrink(small, keep, multiple=4 if padded else 1))
        small = cuts[-1].net
        rows = {name: cuts[-1].rows[f"{name}.weight"][0] for name in index}
        index = {name: index[name][rows[name]] for name in index}
        assert padded or all(bool(mask.all()) for mask in small.masks().values())
        assert cost(small) == cost(whole)
        for net in (whole, small):
            train_steps(net, x, y, 3)
        for tensors in (lambda net: net.state_dict(), lambda net: slopes(net, x, y)):
            large, little = tensors(whole), tensors(small)
            for name, tensor in little.items():
                for cut in cuts:
                    large[name] = cut.part(name.removeprefix("H "), large[name])
                torch.testing.assert_close(tensor, large[name], **CLOSE)
        torch.testing.assert_close(small(x), whole(x), **CLOSE)


def slopes(net, x, y):
    """The gradients, and the Hessian's product with them, of a net in training mode."""
    theta = dict(net.named_parameters())
    loss = cross_entropy(net(x), y)
    first = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    inner = sum(grad.square().sum() for grad in first) / 2
    second = torch.autograd.grad(inner, list(theta.values()))
    return dict(zip(theta, first, strict=True)) | {
        f"H {name}": tensor for name, tensor in zip(theta, second, strict=True)
    }


@pytest.mark.parametrize("grouping", ["filter", "stream"])
@pytest.mark.parametrize("arch", every_arch())
def test_a_compact_net_computes_the_macs_that_it_reports(arch, grouping):
    from torch.utils.flop_counter import FlopCounterMode

    net = build(arch).eval()
    draw = torch.Generator().manual_seed(0)
    for round in (1, 2):
        scores = {name: torch.rand(n, generator=draw) for name, n in net.plan.items()}
        net = compact(net, select(net, scores, 0.75, round=round, rounds=2, grouping=grouping))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * cost(net)["net/macs"]
    assert sum(p.numel() for p in net.parameters()) == cost(net)["net/params"]


@pytest.mark.parametrize("arch", ARCHES)
def test_a_second_cut_continues_the_first(arch):
    """Cutting the compact net again equals masking the full net with both cuts at once."""
    net = tiny_net(arch, 1, torch.float64).eval()
    x, _ = inputs(1)
    first, second = random_keep(net, 1, 0.7), random_keep(net, 2, 0.7)
    both = {name: first[name] & second[name] for name in first}
    both = {name: k if k.any() else first[name] for name, k in both.items()}
    for name, conv in net.convs.items():  # depthwise convs follow
        if conv.depthwise:
            both[name] = next(
                both[n] for n, c in net.convs.items() if c.writes == conv.reads and not c.depthwise
            )
    once = shrink(net, first)
    again = compact(once.net, {n: both[n][once.rows[f"{n}.weight"][0]] for n in both})
    torch.testing.assert_close(again(x), masked(net, both)(x), **CLOSE)
    assert again.original == net.original
    assert cost(again) == cost(masked(net, both)) | {
        k: v for k, v in cost(again).items() if k != "net/filters"
    }


@pytest.mark.parametrize("arch", ARCHES)
def test_masking_is_removing(arch):
    """A masked channel is exactly zero behind its batch norm, in both modes, and stays so in
    training."""
    net = tiny_net(arch, 3)
    keep = random_keep(net, 3, 0.5)
    big = masked(net, keep)
    seen = {}
    for name, conv in big.convs.items():
        norm = big.get_submodule(conv.norm)
        norm.register_forward_hook(
            lambda _, __, out, name=name: seen.__setitem__(name, out.detach())
        )
    x, y = inputs(3)
    train_steps(big, x.float(), y, 2)
    for mode in (True, False):
        big.train(mode)(x.float())
        for name in big.convs:
            assert (seen[name][:, ~keep[name]] == 0).all()
            assert (big.get_submodule(name).weight[~keep[name]] == 0).all()


@pytest.mark.parametrize("arch", ARCHES)
def test_compact_is_smaller_and_counts_agree(arch):
    net = tiny_net(arch)
    keep = random_keep(net, 0, 0.4)
    small = compact(net, keep)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    kept = sum(int(k.sum()) for name, k in keep.items() if net.convs[name].prunable)
    always = [name for name, conv in net.convs.items() if not conv.prunable and not conv.depthwise]
    assert cost(small)["net/filters"] == kept
    assert all(name in ("conv1",) for name in always)
    everything = {name: torch.ones(n, dtype=torch.bool) for name, n in net.plan.items()}
    assert cost(compact(net, everything)) == cost(net)


def test_the_original_net_is_left_alone():
    net = tiny_net("resnet56")
    before = copy.deepcopy(net.state_dict())
    state = torch.random.get_rng_state()
    compact(net, random_keep(net, 0, 0.3))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(bool(mask.all()) for mask in net.masks().values())


def test_modes_and_types_of_all_modules_are_kept():
    """A batch norm in evaluation mode while the net trains, and a head in float64."""

    class Head(nn.Linear):
        def forward(self, x):
            return super().forward(x.double())

    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), Head(8, 10).double())
    x = torch.randn(4, 3, 12, 12)
    net = trace(module, x).train()
    net.get_submodule("1").eval()
    keep = {name: torch.arange(8) > 2 for name in net.convs}
    big, small = masked(net, keep), compact(net, keep)
    assert [m.training for m in big.modules()] == [m.training for m in small.modules()]
    torch.testing.assert_close(big(x), small(x))
    assert small(x).dtype == torch.float64


def test_keeps_that_do_not_fit_are_refused():
    net = tiny_net("mobilenet_v1")
    keep = random_keep(net, 0, 0.5)
    with pytest.raises(UserError, match="missing or unknown: conv1"):
        masked(net, {name: k for name, k in keep.items() if name != "conv1"})
    with pytest.raises(UserError, match=r"keep\['conv1'\] must be a bool tensor \[8\]"):
        masked(net, keep | {"conv1": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(UserError, match=r"must be a bool tensor \[8\], got list"):
        masked(net, keep | {"conv1": [True] * 8})
    with pytest.raises(UserError, match="keep must be a dictionary with an entry per conv, got No"):
        masked(net, None)
    for function in (masked, compact):
        with pytest.raises(UserError, match=r"a net of this suite, got Conv2d: use .*trace"):
            function(nn.Conv2d(3, 8, 3), keep)
    with pytest.raises(UserError, match="the conv is depthwise"):
        masked(net, keep | {"layers.0.conv1": ~keep["conv1"]})
    with pytest.raises(UserError, match="at least one live filter"):
        masked(net, keep | {"layers.12.conv2": torch.zeros(128, dtype=torch.bool)})


@pytest.mark.parametrize("arch", ["vgg13", "mobilenet_v1", "resnet20"])
def test_padded_widths_change_neither_the_net_nor_its_cost(arch):
    """Padding is of masked filters: zero in all steps of SGD, and never counted."""
    net = tiny_net(arch, dtype=torch.float64)
    images, labels = tiny_images(8)
    x = normalise(images, torch.float64)
    keep = select(net, score(net, "loss", images, labels), 0.6)
    nets = [shrink(net, keep, multiple=multiple).net.train() for multiple in (1, 8)]
    assert all(width % 8 == 0 or width < 8 for width in nets[1].plan.values())
    assert nets[0].plan != nets[1].plan
    optimizers = [torch.optim.SGD(n.parameters(), 0.1, 0.9, weight_decay=1e-2) for n in nets]
    for _ in range(3):
        outputs = []
        for one, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            outputs.append(one(x))
            torch.nn.functional.cross_entropy(outputs[-1], labels).backward()
            optimizer.step()
        torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
    assert cost(nets[0]) == cost(nets[1])
    for name, mask in nets[1].masks().items():
        assert all(not parameter[~mask].any() for parameter in nets[1].filter_parameters(name))


def test_widths_are_those_of_the_device():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [multiple(gpu, p) for p in PRECISIONS] == [1, 8, 8]
    assert multiple(cpu, "bf16") == 1
