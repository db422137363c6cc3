"""A conv with a cheap backward and double backward.

Outputs are those of torch's operators; gradients equal theirs up to rounding. Torch's double
backward of a grouped conv loops over the groups, and on a CPU its weight gradient of wide convs on
small images takes up to six times as long as one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd import Function
from torch.nn import functional

Geometry = tuple[tuple[int, int], tuple[int, int], int]
"""Stride, padding, groups."""

WIDE, SMALL = 128 * 256, 2 * 2
"""At least so many filters times channels, or at most so many pixels, make the weight gradient of a
conv quicker as one matrix product."""


_weight_gradients = True  # global, because on a GPU the backward runs in another thread


@contextmanager
def graph_alone() -> Iterator[None]:
    """Make the backward of convs return zeros, with a graph, as gradients of weights, for a block.

    A product with the Hessian differentiates these gradients and does not use their values.
    """
    global _weight_gradients
    _weight_gradients = False
    try:
        yield
    finally:
        _weight_gradients = True


def conv2d(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """`torch.nn.functional.conv2d` without bias and dilation, differentiable twice."""
    return _Conv.apply(x, weight, geometry)


class _Conv(Function):
    @staticmethod
    def forward(ctx, x, weight, geometry):
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return _conv(x, weight, geometry)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return *_ConvBackward.apply(grad, x, weight, ctx.geometry, ctx.needs_input_grad[0]), None


class _ConvBackward(Function):
    """(grad, x, weight) -> gradients of x and weight; bilinear in grad and each of the others."""

    @staticmethod
    def forward(ctx, grad, x, weight, geometry, needs_x):
        ctx.save_for_backward(grad, x, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        along_x, along_weight = _conv_backward(
            grad, x, weight, geometry, needs_x, _weight_gradients
        )
        return along_x, weight.new_zeros(()).expand_as(
            weight
        ) if along_weight is None else along_weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, along_x, along_weight):
        grad, x, weight = ctx.saved_tensors
        to_grad = to_x = to_weight = None
        if along_weight is not None:
            to_grad = _conv(x, along_weight, ctx.geometry)
            if ctx.needs_input_grad[1]:
                to_x, _ = _conv_backward(grad, x, along_weight, ctx.geometry, True, False)
        if along_x is not None:
            through_x = _conv(along_x, weight, ctx.geometry)
            to_grad = through_x if to_grad is None else to_grad.add_(through_x)
            _, to_weight = _conv_backward(grad, along_x, weight, ctx.geometry, False, True)
        return to_grad, to_x, to_weight, None, None


def _conv(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    stride, padding, groups = geometry
    return functional.conv2d(x, weight, None, stride, padding, 1, groups)


def _conv_backward(grad, x, weight, geometry, to_x: bool, to_weight: bool):
    stride, padding, groups = geometry
    by_product = to_weight and _product_is_quicker(grad, weight, groups)
    mask = [to_x, to_weight and not by_product, False]
    along_x = along_weight = None
    if any(mask):
        along_x, along_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), groups, mask
        )
    return along_x, _weight_gradient(grad, x, weight, geometry) if by_product else along_weight


def _product_is_quicker(grad: torch.Tensor, weight: torch.Tensor, groups: int) -> bool:
    """Whether the weight gradient is quicker as one matrix product: 1.1 to 6 times on these shapes
    (two cores, torch 2.15, batches of 32 and 128)."""
    filters, channels = weight.shape[:2]
    wide = filters * channels >= WIDE
    small = grad.shape[2] * grad.shape[3] <= SMALL and filters >= 64
    return grad.device.type == "cpu" and groups == 1 and (wide or small)


def _weight_gradient(grad, x, weight, geometry):
    """The product of the outputs' gradients with all patches of the input, channels last."""
    (down, right), (top, left), _ = geometry
    filters, channels, height, width = weight.shape
    padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
    patches = padded.unfold(1, height, down).unfold(2, width, right).permute(0, 1, 2, 4, 5, 3)
    rows = grad.permute(0, 2, 3, 1).reshape(-1, filters)
    product = rows.t() @ patches.reshape(len(rows), -1)
    return product.view(filters, height, width, channels).permute(0, 3, 1, 2)
