"""What every architecture shares: filters, streams, and a batch norm that can mask channels.

A *filter* is one output channel of one conv: what is scored, masked and removed. A *stream* is a
channel axis that tensors share (the residual stream of a ResNet stage; a pointwise conv and the
depthwise conv after it); a channel of it is removed when no conv writes it any more. Each
architecture declares which stream each conv reads and writes; masks, compaction and costs read that
table alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from benchmark.errors import UserError
from benchmark.models import _autograd as autograd
from benchmark.models import _batch_norm as batch_norm

IMAGE = "image"
IMAGE_CHANNELS = 3

Plan = dict[str, int | torch.Tensor]
"""{conv name: number of filters}; for a conv that writes only some channels of its stream, which
ones: bool [channels of the stream]."""


@dataclass(frozen=True, kw_only=True)
class Conv:
    """One conv of an architecture, with the batch norm behind it."""

    name: str
    norm: str | None = None
    """Name of its batch norm; a masked filter is zero after it. None: it has no batch norm of its
    own, and a masked filter is zero after the conv."""
    reads: str
    """Stream of its input channels."""
    writes: str
    """Stream of its output channels."""
    filters: int
    """Filters in the default plan, at width 1."""
    prunable: bool = True
    """Whether its filters are ranked in a cut; never those of a conv that follows others."""
    gate: bool = False
    """Whether its outputs scale the channels that other convs write (squeeze-and-excitation)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prunable", self.prunable and not self.follows)

    @property
    def depthwise(self) -> bool:
        """Whether the conv is depthwise: it reads and writes one stream, channel by channel, and
        follows the other convs that write the stream."""
        return self.reads == self.writes

    @property
    def follows(self) -> bool:
        """Whether it is depthwise or a gate: it keeps the channels that the other convs that write
        its stream keep, and is not ranked."""
        return self.depthwise or self.gate


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A module that reads a stream and is no conv of the table: a linear layer, a batch norm in
    front of a conv, or a conv whose filters cannot be removed."""

    name: str
    reads: str
    features: int = 1
    """Features per channel: the pixels of a map that is flattened."""
    linear: bool = True
    """Whether it is a linear layer."""


class Conv2d(nn.Conv2d):
    """A conv whose backward and double backward are cheap (see `benchmark.models._autograd`), and
    which can mask and place its filters as `BatchNorm2d` does, if it has no batch norm."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        _place(self, self.out_channels, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight, self.bias
        if self.mask is not None:
            weight = weight * self.mask[:, None, None, None]
            bias = None if bias is None else bias * self.mask
        y = self._convolved(x, weight)
        y = y if bias is None else y + bias.to(y.dtype)[:, None, None]
        return y if self.places is None else _spread(y, self.places, self.width)

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
        _place(self, channels, written)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._normalised(x)
        return y if self.places is None else _spread(y, self.places, self.width)

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias, running = self.weight, self.bias, (self.running_mean, self.running_var)
        if self.mask is not None:
            weight, bias = weight * self.mask, bias * self.mask
        if not self.training:
            return batch_norm.evaluate(x, *running, weight, bias, self.eps)
        self.num_batches_tracked.add_(1)
        return batch_norm.train(x, weight, bias, running, self.momentum, self.eps)


def _place(module: nn.Module, channels: int, written: torch.Tensor | None) -> None:
    """Let a module of so many channels write those channels of a stream, and mask none."""
    module.width = channels if written is None else len(written)
    places = None if written is None else written.nonzero().flatten().to(module.weight.device)
    module.register_buffer("places", places, persistent=False)
    module.register_buffer("mask", None, persistent=False)


def _spread(y: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """Images [N, width, H, W] with y [N, C, H, W] at the channels `places` [C], and zeros."""
    if not y.is_contiguous(memory_format=torch.channels_last):
        return y.new_zeros(len(y), width, *y.shape[2:]).index_add(1, places, y)
    rows = y.permute(0, 2, 3, 1)  # torch is several times as quick on a matrix as on images
    flat = rows.reshape(-1, len(places))
    wide = flat.new_zeros(len(flat), width).index_add(1, places, flat)
    return wide.view(*rows.shape[:3], width).permute(0, 3, 1, 2)


class Net(nn.Module):
    """A net built from a plan.

    - `plan`: the present numbers of filters; `original`: those before any cut
    - `written`: {conv name: bool [channels of its stream]} for convs that write only some of them;
      `plan | written` is a plan for another net of this shape
    - `convs`: the table {conv name: Conv}, in the order of `named_modules`
    - `writers`: {stream: names of the convs that write it}, without those that follow others
    - `channels`: {stream: number of channels}
    - `parts`: {name of a concatenation: the streams that it consists of}
    - `readers`: {name: Reader}
    - `head`: the name of the linear classifier, which reads the stream `head_reads`
    - `image_size`: height and width of the images that costs are of, unless others are asked for
    """

    image_size = (32, 32)

    def __init__(self, convs: list[Conv], plan: Plan, *, head: str, head_reads: str) -> None:
        super().__init__()
        self.head, self.head_reads = head, head_reads
        readers = [Reader(name=head, reads=head_reads)]
        self._set_table(convs, readers, {}, {IMAGE: IMAGE_CHANNELS})
        self._set_plan(plan)
        self.original = dict(self.plan)

    def _set_table(
        self,
        convs: Sequence[Conv],
        readers: Sequence[Reader],
        parts: dict[str, tuple[str, ...]],
        fixed: dict[str, int],
    ) -> None:
        """fixed: {stream that no conv of the table writes: number of channels}"""
        self.convs = {conv.name: conv for conv in convs}
        self.readers = {reader.name: reader for reader in readers}
        self.parts, self._fixed = parts, fixed
        self.writers: dict[str, list[str]] = {}
        for conv in convs:
            if not conv.follows:
                self.writers.setdefault(conv.writes, []).append(conv.name)

    def _set_plan(self, plan: Plan) -> None:
        self.channels = self._fixed | _widths(plan, self.convs)
        self.written = {
            name: plan[name].cpu()
            for name in self.convs
            if torch.is_tensor(plan[name]) and not plan[name].all()
        }
        self.plan = {name: self.channels[conv.writes] for name, conv in self.convs.items()}
        self.plan |= {name: int(channels.sum()) for name, channels in self.written.items()}

    def streams(self, name: str) -> tuple[str, ...]:
        """The streams that this name of a stream or a concatenation stands for."""
        return self.parts.get(name, (name,))

    def conv2d(self, name: str, kernel_size: int, stride: int = 1) -> Conv2d:
        """The conv of this name: its channels come from the plan."""
        inputs = self.channels[self.convs[name].reads]
        groups = inputs if self.convs[name].depthwise else 1
        sizes = (inputs, self.plan[name], kernel_size, stride, kernel_size // 2)
        return Conv2d(*sizes, groups=groups, bias=False)

    def norm2d(self, name: str) -> BatchNorm2d:
        """The batch norm behind the conv of this name."""
        return BatchNorm2d(self.plan[name], self.written.get(name))

    def linear_head(self, num_classes: int) -> nn.Linear:
        """The classifier."""
        return nn.Linear(self.channels[self.head_reads], num_classes)

    def zeroed(self, name: str) -> nn.Module:
        """The module behind which masked filters of a conv are zero: its batch norm or itself."""
        return self.get_submodule(self.convs[name].norm or name)

    def mask(self, name: str) -> torch.Tensor:
        """Which filters of a conv are live: bool [filters]."""
        module = self.zeroed(name)
        whole = module.weight.new_ones(self.plan[name])
        return (whole if module.mask is None else module.mask).bool()

    def set_mask(self, name: str, live: torch.Tensor) -> None:
        """Mask the filters of a conv that are not live (bool [filters])."""
        module = self.zeroed(name)
        module.mask = None if bool(live.all()) else live.to(module.weight)

    def masks(self) -> dict[str, torch.Tensor]:
        """Which filters are live, for every conv."""
        return {name: self.mask(name) for name in self.convs}

    def places(self, name: str) -> torch.Tensor:
        """The channels of its stream that a conv writes: int64 [filters]."""
        module = self.zeroed(name)
        whole = torch.arange(self.plan[name], device=module.weight.device)
        return whole if module.places is None else module.places

    def live_channels(self, live: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """{stream: which of its channels some conv writes with a live filter, bool [channels]},
        from {conv name: which filters are live}."""
        return {
            stream: torch.stack([self.over_stream(name, live[name]) for name in writers]).any(dim=0)
            for stream, writers in self.writers.items()
        }

    def over_stream(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Values of a conv's filters [filters] by channels of its stream [channels]; 0 or False
        where the conv writes none."""
        if name not in self.written:
            return values
        wide = values.new_zeros(self.channels[self.convs[name].writes])
        return wide.index_copy(0, self.places(name).to(values.device), values)

    def filter_parameters(self, name: str) -> tuple[nn.Parameter, ...]:
        """The parameters of a conv's filters, [filters, ...] each: those of the conv and of its
        batch norm."""
        modules = dict.fromkeys([self.get_submodule(name), self.zeroed(name)])
        return tuple(
            parameter for module in modules for parameter in module.parameters(recurse=False)
        )

    def ranking(self, name: str, layers: dict[str, torch.Tensor]) -> torch.Tensor:
        """The entry [filters] of `layers`, {conv name: [filters]}, that ranks a conv: its own, or
        for one that follows others that of the last of these."""
        conv = self.convs[name]
        if not conv.follows:
            return layers[name]
        producer = self.writers[conv.writes][-1]
        return self.over_stream(producer, layers[producer])


@torch.no_grad()
def pixels(net: Net, size: tuple[int, int]) -> dict[str, int]:
    """{name of a conv or linear layer: pixels of its output for one image of this height and
    width}; the net is put into evaluation mode."""
    found, weight = {}, next(net.parameters())
    layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    hooks = [
        layer.register_forward_hook(
            lambda layer, _, out, name=name: found.update(
                {name: out[0].numel() // (out.shape[1] if out.ndim == 4 else out.shape[-1])}
            )
        )
        for name, layer in layers.items()
    ]
    net.eval()(weight.new_zeros(1, net.channels[IMAGE], *size))
    for hook in hooks:
        hook.remove()
    return found


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


def _widths(plan: Plan, convs: dict[str, Conv]) -> dict[str, int]:
    """{stream: number of channels}. Raises `UserError` for a plan that does not fit the convs."""
    check_entries("plan", plan, convs)
    widths: dict[str, tuple[str, int]] = {}
    for name, conv in convs.items():
        entry = plan[name]
        is_part = torch.is_tensor(entry)
        if is_part and (conv.follows or entry.dtype != torch.bool or entry.ndim != 1):
            what = "of a depthwise conv must be" if conv.follows else "must be bool [channels] or"
            got = f"{entry.dtype} {list(entry.shape)}"
            raise UserError(f"plan[{name!r}] {what} a number of filters, got {got}")
        filters, channels = (int(entry.sum()), len(entry)) if is_part else 2 * (int(entry),)
        if filters < 1:
            raise UserError(f"plan[{name!r}] must be at least 1, got {filters}")
        writer, width = widths.setdefault(conv.writes, (name, channels))
        if width != channels:
            raise UserError(
                f"plan[{name!r}] must equal plan[{writer!r}] = {width} (one stream), got {channels}"
            )
    return {stream: width for stream, (_, width) in widths.items()}
