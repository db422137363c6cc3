"""What every architecture shares: filters, streams, and a batch norm that can mask channels.

A *filter* is one output channel of one conv: what is scored and masked. A *stream* is a channel
axis that tensors share (the residual stream of a ResNet stage; a pointwise conv and the depthwise
conv after it): what can be physically removed. Each architecture declares which stream each conv
reads and writes; masks, compaction and costs read that table alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from benchmark.errors import UserError
from benchmark.models import _autograd as autograd
from benchmark.models import _batch_norm as batch_norm

IMAGE = "image"
IMAGE_CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class Conv:
    """One conv of an architecture, with the batch norm behind it."""

    name: str
    norm: str
    """Name of its batch norm; a masked filter is zero after it."""
    reads: str
    """Stream of its input channels."""
    writes: str
    """Stream of its output channels."""
    filters: int
    """Filters in the default plan, at width 1."""
    prunable: bool = True
    """Whether its filters are ranked in a cut; never those of a depthwise conv."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prunable", self.prunable and not self.depthwise)

    @property
    def depthwise(self) -> bool:
        """Whether the conv is depthwise: it reads and writes one stream, channel by channel, and
        follows the other convs that write the stream."""
        return self.reads == self.writes


class Conv2d(nn.Conv2d):
    """A conv without bias whose backward and double backward are cheap (see
    `benchmark.models._autograd`)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stride = self.stride
        if self.kernel_size == (1, 1):
            # torch 2.15 writes past the end of the weight gradient of such a conv with a stride
            x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
        if not torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return functional.conv2d(x, self.weight, None, stride, self.padding, 1, self.groups)
        return autograd.conv2d(x, self.weight, (stride, self.padding, self.groups))


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose masked channels are zero, in training and evaluation alike (see
    `benchmark.models._batch_norm`)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias, running = self.weight, self.bias, (self.running_mean, self.running_var)
        if self.mask is not None:
            weight, bias = weight * self.mask, bias * self.mask
        if not self.training:
            return batch_norm.evaluate(x, *running, weight, bias, self.eps)
        self.num_batches_tracked.add_(1)
        return batch_norm.train(x, weight, bias, running, self.momentum, self.eps)


class Net(nn.Module):
    """A net built from a plan, {conv name: number of filters}.

    - `plan`: the present numbers of filters; `original`: those before any cut
    - `convs`: the table {conv name: Conv}, in the order of `named_modules`
    - `writers`: {stream: names of the convs that write it}, without depthwise ones
    - `channels`: {stream: number of channels}
    - `head`: the name of the linear classifier, which reads the stream `head_reads`
    """

    def __init__(
        self, convs: list[Conv], plan: dict[str, int], *, head: str, head_reads: str
    ) -> None:
        super().__init__()
        self.convs = {conv.name: conv for conv in convs}
        self.head, self.head_reads = head, head_reads
        self.plan = _checked(plan, self.convs)
        self.original = dict(self.plan)
        self.writers: dict[str, list[str]] = {}
        for conv in convs:
            if not conv.depthwise:
                self.writers.setdefault(conv.writes, []).append(conv.name)
        self.channels = {IMAGE: IMAGE_CHANNELS} | {c.writes: self.plan[c.name] for c in convs}

    def conv2d(self, name: str, kernel_size: int, stride: int = 1) -> Conv2d:
        """The conv of this name: its channels come from the plan."""
        inputs = self.channels[self.convs[name].reads]
        groups = inputs if self.convs[name].depthwise else 1
        sizes = (inputs, self.plan[name], kernel_size, stride, kernel_size // 2)
        return Conv2d(*sizes, groups=groups, bias=False)

    def norm2d(self, name: str) -> BatchNorm2d:
        """The batch norm behind the conv of this name."""
        return BatchNorm2d(self.plan[name])

    def linear_head(self, num_classes: int) -> nn.Linear:
        """The classifier."""
        return nn.Linear(self.channels[self.head_reads], num_classes)

    def mask(self, name: str) -> torch.Tensor:
        """Which filters of a conv are live: bool [filters]."""
        norm = self.get_submodule(self.convs[name].norm)
        return (torch.ones_like(norm.weight) if norm.mask is None else norm.mask).bool()

    def set_mask(self, name: str, live: torch.Tensor) -> None:
        """Mask the filters of a conv that are not live (bool [filters])."""
        norm = self.get_submodule(self.convs[name].norm)
        norm.mask = None if bool(live.all()) else live.to(norm.weight)

    def masks(self) -> dict[str, torch.Tensor]:
        """Which filters are live, for every conv."""
        return {name: self.mask(name) for name in self.convs}

    def filter_parameters(self, name: str) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
        """The parameters of a conv's filters, [filters, ...] each: weight, scale and shift."""
        norm = self.get_submodule(self.convs[name].norm)
        return self.get_submodule(name).weight, norm.weight, norm.bias

    def producer(self, name: str) -> str:
        """The conv whose scores rank a conv: itself, or for a depthwise one the last of the convs
        that it follows."""
        conv = self.convs[name]
        return self.writers[conv.reads][-1] if conv.depthwise else name


def scaled(convs: list[Conv], width: float) -> dict[str, int]:
    """The default plan times `width`; each layer has at least 8 filters, or its default number if
    that is less."""
    return {c.name: max(min(8, c.filters), round(c.filters * width)) for c in convs}


def check_entries(what: str, entries: Iterable[str], convs: Iterable[str]) -> None:
    """Raise `UserError` unless there is exactly one entry per conv."""
    if wrong := sorted(set(entries) ^ set(convs)):
        raise UserError(
            f"{what} must have one entry per conv; missing or unknown: {', '.join(wrong[:5])}"
        )


def _checked(plan: dict[str, int], convs: dict[str, Conv]) -> dict[str, int]:
    check_entries("plan", plan, convs)
    widths: dict[str, tuple[str, int]] = {}
    for name, conv in convs.items():
        filters = int(plan[name])
        if filters < 1:
            raise UserError(f"plan[{name!r}] must be at least 1, got {filters}")
        writer, width = widths.setdefault(conv.writes, (name, filters))
        if width != filters:
            raise UserError(
                f"plan[{name!r}] must equal plan[{writer!r}] = {width} (one stream), got {filters}"
            )
    return {name: int(plan[name]) for name in convs}
