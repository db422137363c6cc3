"""Layers that can mask filters and write only some channels of a stream, with the parameters of
torch's own, and what changes their sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from benchmark.errors import UserError
from benchmark.models import _autograd as autograd
from benchmark.models import _batch_norm as batch_norm


class Conv2d(nn.Conv2d):
    """A conv whose backward and double backward are cheap (see `benchmark.models._autograd`), and
    which can mask and place its filters as `BatchNorm2d` does, if it has no batch norm."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        place(self, self.out_channels, None)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight, self.bias
        if self.mask is not None:
            weight = weight * self.mask[:, None, None, None]
            bias = None if bias is None else bias * self.mask
        y = self._convolved(input, weight)
        y = y if bias is None else y + bias.to(y.dtype)[:, None, None]
        return y if self.places is None else spread(y, self.places, self.width)

    def _convolved(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str) or max(self.dilation) > 1:
            return self._conv_forward(x, weight, None)
        stride = self.stride
        if self.kernel_size == (1, 1) and self.padding == (0, 0):
            # torch 2.15 writes past the end of the weight gradient of such a conv with a stride
            x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
        if not torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return functional.conv2d(x, weight, None, stride, self.padding, 1, self.groups)
        return autograd.conv2d(x, weight, (stride, self.padding, self.groups))


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose masked channels are zero, in training and evaluation alike (see
    `benchmark.models._batch_norm`).

    written: which channels of a stream it has, bool [channels of the stream] (None: all). The
    output then has all channels of the stream; those that it does not have are zero.
    """

    def __init__(self, channels: int, written: torch.Tensor | None = None) -> None:
        super().__init__(channels)
        place(self, channels, written)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = self._normalised(input)
        return y if self.places is None else spread(y, self.places, self.width)

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias, running = self.weight, self.bias, (self.running_mean, self.running_var)
        if self.mask is not None:
            weight, bias = weight * self.mask, bias * self.mask
        if not self.training:
            return batch_norm.evaluate(x, *running, weight, bias, self.eps)
        self.num_batches_tracked.add_(1)
        return batch_norm.train(x, weight, bias, running, self.momentum, self.eps)


def place(module: nn.Module, channels: int, written: torch.Tensor | None) -> None:
    """Let a module of so many channels write those channels of a stream, and mask none."""
    module.width = channels if written is None else len(written)
    places = None if written is None else written.nonzero().flatten().to(module.weight.device)
    module.register_buffer("places", places, persistent=False)
    module.register_buffer("mask", None, persistent=False)


def spread(y: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """Images [N, width, H, W] with y [N, C, H, W] at the channels `places` [C], and zeros."""
    if not y.is_contiguous(memory_format=torch.channels_last):
        return y.new_zeros(len(y), width, *y.shape[2:]).index_add(1, places, y)
    rows = y.permute(0, 2, 3, 1)  # torch is several times as quick on a matrix as on images
    flat = rows.reshape(-1, len(places))
    wide = flat.new_zeros(len(flat), width).index_add(1, places, flat)
    return wide.view(*rows.shape[:3], width).permute(0, 3, 1, 2)


def adopt(module: nn.Module, name: str) -> None:
    """Make a layer of torch one of the suite's, with the same parameters."""
    conv = type(module) is nn.Conv2d
    if not conv and not (type(module) is nn.BatchNorm2d and has_statistics(module)):
        return
    for taken in ("mask", "places", "width"):
        if hasattr(module, taken):
            raise UserError(f"{name}.{taken} must have another name to be traced")
    place(module, module.out_channels if conv else module.num_features, None)
    module.__class__ = Conv2d if conv else BatchNorm2d


def has_statistics(norm: nn.BatchNorm2d) -> bool:
    """Whether a batch norm scales, shifts and has running statistics with a momentum."""
    return norm.affine and norm.track_running_stats and norm.momentum is not None


def resize(module: nn.Module, name: str, *sizes: int) -> None:
    """Give a parameter or buffer, if there is one, other sizes along its first axes."""
    old = getattr(module, name)
    if old is None:
        return
    new = old.new_zeros(*sizes, *old.shape[len(sizes) :])
    both = tuple(slice(min(pair)) for pair in zip(new.shape, old.shape, strict=True))
    new[both] = old.detach()[both]
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)


def resize_norm(norm: nn.Module, channels: int) -> None:
    """Give a batch norm another number of channels."""
    norm.num_features = channels
    for name in ("weight", "bias", "running_mean", "running_var"):
        resize(norm, name, channels)


class TwiceDifferentiable(TorchFunctionMode):
    """Computes hardsigmoid by a function that can be differentiated twice; torch's own cannot."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if function is functional.hardsigmoid:
            return functional.relu6((args or (kwargs["input"],))[0] + 3) / 6
        return function(*args, **(kwargs or {}))
