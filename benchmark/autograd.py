"""A conv and an evaluation-mode batch norm whose double backward is as cheap as their algebra allows.

Values are those of torch's own operators. Torch's double backward of a grouped conv loops over the groups, and its
backward of batch norm reads the input channel by channel: a Hessian-gradient product spends most of its time there.
"""

from __future__ import annotations

import torch
from torch.autograd import Function
from torch.nn import functional

Geometry = tuple[tuple[int, int], tuple[int, int], int]
"""Stride, padding, groups."""


def conv2d(x: torch.Tensor, weight: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """`torch.nn.functional.conv2d` without bias and dilation, differentiable twice."""
    return _Conv.apply(x, weight, geometry)


def batch_norm(
    x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """`torch.nn.functional.batch_norm` with fixed statistics, differentiable any number of times in x, weight, bias."""
    scale = weight * torch.rsqrt(var + eps)
    return _Affine.apply(x, scale, bias - mean * scale, (mean, var, weight.detach(), bias.detach(), eps))


class _Affine(Function):
    """x * scale + shift per channel, with the rounding of torch's batch norm."""

    @staticmethod
    def forward(ctx, x, scale, shift, norm):
        ctx.save_for_backward(x, scale)
        mean, var, weight, bias, eps = norm
        return functional.batch_norm(x, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        x, scale = ctx.saved_tensors
        return grad * scale[:, None, None], (grad * x).sum((2, 3)).sum(0), grad.sum((2, 3)).sum(0), None


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
        return _conv_backward(grad, x, weight, geometry, needs_x, True)

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
    mask = [to_x, to_weight, False]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), groups, mask
    )[:2]
