"""Training and evaluation in float32 against float64: each layer type, and the gradients of whole
nets."""

import copy
from statistics import median

import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmark.data import load
from benchmark.models import BatchNorm2d, build
from benchmark.models._layers import Conv2d
from benchmark.perf.naive import plain

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
INPUTS = {
    "rectified": lambda x: x.relu(),
    "shifted": lambda x: x + 3,
    "shifted_down": lambda x: x - 3,
}
SHAPES = [
    (128, 8, 32, 32),
    (64, 64, 16, 16),
    (33, 16, 8, 8),
    (2, 24, 4, 2),
    (128, 512, 2, 2),
    (48, 3, 1, 1),
]
LAYERS = {
    "conv": (32, lambda c: Conv2d(c, 16, 3, padding=1, bias=False)),
    "strided conv": (32, lambda c: Conv2d(c, 16, 3, stride=2, padding=1, bias=False)),
    "pointwise conv": (32, lambda c: Conv2d(c, 16, 1, bias=False)),
    "strided pointwise conv": (32, lambda c: Conv2d(c, 16, 1, stride=2, bias=False)),
    "depthwise conv": (32, lambda c: Conv2d(c, c, 3, padding=1, groups=c, bias=False)),
    "wide conv": (128, lambda c: Conv2d(c, 256, 3, padding=1, bias=False)),
    "relu": (32, lambda c: nn.ReLU()),
    "max pool": (32, lambda c: nn.MaxPool2d(2)),
    "mean": (32, lambda c: Mean()),
    "head": (32, lambda c: nn.Sequential(Mean(), nn.Linear(c, 10), Loss())),
}
"""{layer type: channels of its input, the layer for so many}"""


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class Loss(nn.Module):
    def forward(self, logits):
        return functional.cross_entropy(logits / 5, torch.arange(len(logits)) % logits.shape[1])


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


CASES = pytest.mark.parametrize(
    ("values", "threads"),
    [*((values, 1) for values in INPUTS), ("shifted", 2)],
    indirect=["threads"],
)
"""Inputs and threads; how the work is shared among threads depends on no value."""


def distance(ours, exact):
    """Norm of the difference, relative to that of the exact one."""
    return float((ours.double() - exact).norm() / exact.norm().clamp(min=1e-30))


def distances(layer, exact_layer, x, layout):
    """{what: distance from float64} of the output, the gradients and the statistics of a layer."""
    x = x.to(memory_format=layout)
    ours, exact = (
        x.clone(memory_format=torch.preserve_format).requires_grad_(),
        x.double().requires_grad_(),
    )
    y, exact_y = layer(ours), exact_layer(exact)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    slope = slope.to(memory_format=layout) if y.ndim == 4 else slope
    inputs = [ours, *layer.parameters()], [exact, *exact_layer.parameters()]
    found = (
        torch.autograd.grad(y, inputs[0], slope),
        torch.autograd.grad(exact_y, inputs[1], slope.double()),
    )
    names = ["input gradient", *(name for name, _ in layer.named_parameters())]
    result = {"output": distance(y.detach(), exact_y.detach())}
    result |= {name: distance(a, b) for name, a, b in zip(names, *found, strict=True)}
    exact_buffers = dict(exact_layer.named_buffers())
    return result | {
        name: distance(b, exact_buffers[name])
        for name, b in layer.named_buffers()
        if "running" in name
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@CASES
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_exact(name, values, layout, threads):
    torch.manual_seed(0)
    channels, make = LAYERS[name]
    layer = make(channels)
    exact = copy.deepcopy(layer).double()
    few = torch.randn(16, channels, 8, 8)
    many = torch.randn(48 if channels < 128 else 12, channels, 16, 16)
    for x, tolerance in (
        (few, 1e-6),
        (many, 4e-6),
    ):  # torch's convs add the products of all pixels in float32
        found = distances(layer, exact, INPUTS[values](x), LAYOUTS[layout])
        assert max(found.values()) < tolerance, found


@pytest.mark.parametrize("layout", LAYOUTS)
@CASES
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_exact(shape, values, layout, training, threads):
    torch.manual_seed(0)
    layer = BatchNorm2d(shape[1]).train(training)
    layer.weight.data.uniform_(0.5, 1.5)
    layer.bias.data.normal_()
    x = INPUTS[values](torch.randn(shape))
    layer.running_mean.copy_(x.mean((0, 2, 3)) + 0.1)
    layer.running_var.copy_(x.var((0, 2, 3)) * 1.1)
    exact = copy.deepcopy(layer).double()
    exact.__class__ = nn.BatchNorm2d
    found = distances(layer, exact, x, LAYOUTS[layout])
    scale_and_shift = found.pop("weight"), found.pop("bias")
    assert max(found.values()) < 1e-6, found
    assert max(scale_and_shift) < 1e-5, scale_and_shift


def test_batch_norm_is_exact_where_gradients_have_one_sign():
    torch.manual_seed(0)
    x = (torch.randn(64, 8, 32, 32) + 3).to(memory_format=torch.channels_last).requires_grad_()
    layer = BatchNorm2d(8)
    exact = nn.BatchNorm2d(8).double()
    slope = torch.rand(x.shape)
    found = torch.autograd.grad(layer(x), [x, layer.weight, layer.bias], slope)
    x64 = x.detach().double().requires_grad_()
    expected = torch.autograd.grad(exact(x64), [x64, exact.weight, exact.bias], slope.double())
    assert all(distance(a, b) < 1e-6 for a, b in zip(found, expected, strict=True))


def test_batch_norm_of_masked_channels():
    torch.manual_seed(0)
    x = torch.randn(16, 12, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    layer, unmasked = BatchNorm2d(12), BatchNorm2d(12)
    layer.mask = torch.arange(12) % 3 > 0
    layer.mask = layer.mask.float()
    for training in (True, False):
        y = layer.train(training)(x)
        assert not y[:, ::3].any()
        assert torch.equal(y[:, 1::3], unmasked.train(training)(x)[:, 1::3])
        slopes = torch.autograd.grad(y.square().sum(), [x, layer.weight, layer.bias])
        assert not any(slope.any() for slope in (slopes[0][:, ::3], slopes[1][::3], slopes[2][::3]))
        assert slopes[0][:, 1::3].any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_a_part_of_a_streams_channels(layout, training):
    torch.manual_seed(0)
    written = torch.arange(12) % 3 > 0
    x = torch.randn(16, 8, 16, 16).to(memory_format=LAYOUTS[layout]).requires_grad_()
    part, alone = BatchNorm2d(8, written).train(training), BatchNorm2d(8).train(training)
    y, expected = part(x), alone(x)
    assert y.is_contiguous(memory_format=LAYOUTS[layout])
    assert not y[:, ~written].any()
    assert torch.equal(y[:, written], expected)
    slope = torch.randn(y.shape).to(memory_format=LAYOUTS[layout])
    slopes = torch.autograd.grad(y, [x, *part.parameters()], slope)
    others = torch.autograd.grad(expected, [x, *alone.parameters()], slope[:, written])
    for ours, theirs in zip(slopes, others, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert part.state_dict().keys() == alone.state_dict().keys()


def test_batch_norm_has_a_second_derivative_in_training():
    torch.manual_seed(0)
    x = (
        torch.randn(16, 4, 16, 16, dtype=torch.float64)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )

    def second(layer):
        y = layer.double()(x)
        (first,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(
        second(BatchNorm2d(4)), second(nn.BatchNorm2d(4)), rtol=1e-8, atol=1e-10
    )


def test_batch_norm_refuses_one_value_per_channel():
    with pytest.raises(ValueError, match=r"more than one value per channel"):
        BatchNorm2d(4)(torch.randn(1, 4, 1, 1))


def gradient(net, x, y):
    """The gradient of a first training step, as one vector."""
    loss = functional.cross_entropy(net.train()(x) / 5, y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])


def errors(arch, width, images, labels, seed):
    """Distances from float64 of the gradient of a net as runs train it, and of torch's own net,
    channels first."""
    torch.manual_seed(seed)
    net = build(arch, width=width)
    exact = gradient(plain(net).double(), images.double(), labels)
    ours = copy.deepcopy(net).to(memory_format=torch.channels_last)
    found = gradient(ours, images.to(memory_format=torch.channels_last), labels)
    return distance(found, exact), distance(gradient(plain(net), images, labels), exact)


def batch(kind, count):
    """So many images [N, 3, 32, 32] and labels."""
    if kind == "digits":
        from benchmark.data._batches import normalise

        digits = load("digits", ".")
        images = normalise(torch.from_numpy(digits.train_images[:count])).contiguous()
        return images, torch.from_numpy(digits.train_labels[:count])
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 8, 8, generator=draw)
    images = functional.interpolate(coarse, scale_factor=4, mode="bilinear") + 0.1 * torch.randn(
        count, 3, 32, 32, generator=draw
    )
    return images, torch.arange(count) % 10


def check_gradient(arch, width, kind, count):
    images, labels = batch(kind, count)
    found = [errors(arch, width, images, labels, seed) for seed in range(5)]
    ours, contiguous = (median(column) for column in zip(*found, strict=True))
    assert ours < 2 * contiguous + 1e-3, found


@pytest.mark.parametrize("kind", ["digits", "cifar"])
@pytest.mark.parametrize(
    ("arch", "count"),
    [
        ("vgg13", 32),
        ("mobilenet_v1", 32),
        ("resnet20", 32),
        pytest.param("resnet56", 64, marks=pytest.mark.slow),
    ],
)
def test_gradient_of_a_narrow_net(arch, count, kind):
    check_gradient(arch, 0.125, kind, count)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "count"),
    [
        pytest.param("vgg13", 48, marks=pytest.mark.long),
        pytest.param("mobilenet_v1", 64, marks=pytest.mark.long),
        ("resnet56", 32),
    ],
)
def test_gradient_of_a_net_of_full_width(arch, count):
    check_gradient(arch, 1.0, "cifar", count)
