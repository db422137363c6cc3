"""Our conv and batch norm against torch's: values bit for bit, first and second derivatives in
float64."""

import contextlib

import pytest
import torch
from torch.nn import functional

from benchmark.models import _autograd as autograd
from benchmark.models import _batch_norm as batch_norm


def second_order(function, inputs):
    """Value, gradients, and the gradient of a random combination of the gradients."""
    torch.manual_seed(1)
    value = function(*inputs)
    first = torch.autograd.grad((value * drawn(value)).tanh().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum((g * drawn(g)).sum() for g in first), inputs)
    return [value, *first, *second]


def drawn(like):
    """Random numbers of this shape, the same whatever the order of its axes in memory."""
    return torch.randn(like.shape, dtype=like.dtype)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 4)])
def test_conv(kernel, groups, stride):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 7, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 4 // groups, kernel, kernel, dtype=torch.float64, requires_grad=True)
    geometry = ((stride, stride), (kernel // 2, kernel // 2), groups)
    ours = second_order(lambda x, w: autograd.conv2d(x, w, geometry), [x, weight])
    theirs = second_order(
        lambda x, w: functional.conv2d(x, w, None, stride, kernel // 2, groups=groups), [x, weight]
    )
    assert torch.equal(ours[0], theirs[0])
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("filters", "channels", "kernel", "size"), [(256, 128, 3, 5), (64, 8, 3, 2), (256, 256, 1, 3)]
)
def test_weight_gradient_of_wide_convs(filters, channels, kernel, size, stride):
    torch.manual_seed(0)
    x = torch.randn(2, channels, size, size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(filters, channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
    geometry = ((stride, stride), (kernel // 2, kernel // 2), 1)
    ours = second_order(lambda x, w: autograd.conv2d(x, w, geometry), [x, weight])
    theirs = second_order(
        lambda x, w: functional.conv2d(x, w, None, stride, kernel // 2), [x, weight]
    )
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-9, atol=1e-9)


def test_graph_alone_changes_no_second_derivative():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3, requires_grad=True)
    along = torch.randn_like(weight)

    def product(context):
        loss = autograd.conv2d(x, weight, ((1, 1), (1, 1), 1)).pow(3).sum()
        with context:
            (first,) = torch.autograd.grad(loss, weight, create_graph=True)
        return first.detach(), torch.autograd.grad(first, weight, along)[0]

    first, second = product(contextlib.nullcontext())
    without, same = product(autograd.graph_alone())
    assert torch.equal(second, same)
    assert first.any()
    assert not without.any()


def test_conv_of_an_image_needs_no_gradient_of_it():
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3, requires_grad=True)
    (first,) = torch.autograd.grad(
        autograd.conv2d(x, weight, ((1, 1), (1, 1), 1)).square().sum(), weight
    )
    (expected,) = torch.autograd.grad(
        functional.conv2d(x, weight, padding=1).square().sum(), weight
    )
    torch.testing.assert_close(first, expected)


def test_batch_norm():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mean, var = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64) + 0.1
    ours = second_order(
        lambda *a: batch_norm.evaluate(a[0], mean, var, *a[1:], 1e-5), [x, weight, bias]
    )
    theirs = second_order(
        lambda *a: functional.batch_norm(a[0], mean, var, *a[1:], eps=1e-5), [x, weight, bias]
    )
    assert torch.equal(ours[0], theirs[0])
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-10, atol=1e-10)
