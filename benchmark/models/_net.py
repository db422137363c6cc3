"""What every architecture shares: a net with the table of its filters and streams.

A *filter* is one output channel of one conv: what is scored, masked and removed. A *stream* is a
channel axis that tensors share (the residual stream of a ResNet stage; a pointwise conv and the
depthwise conv after it); a channel of it is removed when no conv writes it any more. A table says
which stream each conv reads and writes (`benchmark.models._trace` reads it off the net); masks,
compaction and costs use that table alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from numbers import Integral
from typing import TypeVar

import torch
from torch import nn

from benchmark.errors import UserError, is_out_of_memory, one_line, require
from benchmark.models._layers import (
    BatchNorm2d,
    TwiceDifferentiable,
    adopt,
    place,
    resize,
    resize_norm,
)

IMAGE = "image"
IMAGE_CHANNELS = 3
COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers whose multiply-accumulates are counted."""

M = TypeVar("M", bound=nn.Module)
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """What is read off a net: its convs, and the streams that they read and write."""

    convs: tuple[Conv, ...]
    """In the order of `named_modules`."""
    readers: tuple[Reader, ...]
    parts: dict[str, tuple[str, ...]]
    """{name of a concatenation: the streams that it consists of}"""
    fixed: dict[str, int]
    """{stream that no conv of the table writes: number of channels}"""
    size: tuple[int, int]
    """Height and width of the images that the net was traced with."""
    classes: int | None = None
    """Number of outputs, if they are logits [N, classes]."""
    hardsigmoid: bool = False
    """Whether the net has one."""
    pixels: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    """What `Net.pixels` found so far."""

    def __deepcopy__(self, memo: dict) -> Table:
        return self


class Net(nn.Module):
    """An ordinary net (`root`) with the table of its convs and streams.

    It has the modules, the names and the outputs of `root`, which becomes a part of it.

    - `plan`: the present numbers of filters; `original`: those before any cut
    - `written`: {conv name: bool [channels of its stream]} for convs that write only some of them;
      `plan | written` is a plan for another net of this shape
    - `convs`: the table {conv name: Conv}, in the order of `named_modules`
    - `writers`: {stream: names of the convs that write it}, without those that follow others
    - `channels`: {stream: number of channels}
    - `parts`: {name of a concatenation: the streams that it consists of}
    - `readers`: {name: Reader}
    - `image_size`: height and width of the images that costs are of, unless others are asked for
    - `arch`: what `build` made it from (None if it was traced)
    - `num_classes`: number of outputs (None if they are no logits)
    """

    arch: str | None = None

    def __init__(self, root: nn.Module, table: Table) -> None:
        super().__init__()
        self.num_classes = table.classes
        self._table, self.parts, self.image_size = table, table.parts, table.size
        self.convs = {conv.name: conv for conv in table.convs}
        self.readers = {reader.name: reader for reader in table.readers}
        self.writers: dict[str, list[str]] = {}
        for conv in table.convs:
            if not conv.follows:
                self.writers.setdefault(conv.writes, []).append(conv.name)
        self._set_plan({name: root.get_submodule(name).out_channels for name in self.convs})
        self.original = dict(self.plan)
        self._stale = False
        for name in sorted({*root._modules, *root._parameters, *root._buffers} & set(dir(self))):
            raise UserError(f"{type(root).__name__}.{name} must have another name to be traced")
        self.__dict__["_root"] = root  # no submodule: it has the same modules under the same names
        self._parameters, self._buffers = root._parameters, root._buffers
        self._modules = root._modules
        self._non_persistent_buffers_set = root._non_persistent_buffers_set
        self.training = root.training
        for name, module in self.named_modules():
            adopt(module, name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [N, C, H, W]."""
        if self._stale:
            self._mask_readers()
        with TwiceDifferentiable() if self._table.hardsigmoid else nullcontext():
            return self._root(x)

    def train(self, mode: bool = True) -> Net:
        """Set the mode, as torch does."""
        self._root.training = mode
        return super().train(mode)

    def _set_plan(self, plan: Plan) -> None:
        self.channels = self._table.fixed | _widths(plan, self.convs)
        self.written = {
            name: plan[name].cpu()
            for name in self.convs
            if torch.is_tensor(plan[name]) and not plan[name].all()
        }
        self.plan = {name: self.channels[conv.writes] for name, conv in self.convs.items()}
        self.plan |= {name: int(channels.sum()) for name, channels in self.written.items()}

    def resized(self, plan: Plan) -> Net:
        """A net with the same modules from another plan, with weights of no meaning."""
        empty = {
            id(p): nn.Parameter(torch.empty_like(p), requires_grad=p.requires_grad)
            for p in self.parameters()
        }
        return copy.deepcopy(self, empty).resize(plan)

    def resize(self, plan: Plan) -> Net:
        """Give the net another plan, in place. The weights are the first of what they were, and 0
        where there are more. Raises `UserError` for a plan that does not fit."""
        self._set_plan(plan)
        for name, conv in self.convs.items():
            module, filters = self.get_submodule(name), self.plan[name]
            inputs = self.inputs(conv.reads)
            module.out_channels, module.in_channels = filters, inputs
            module.groups = inputs if conv.depthwise else 1
            resize(module, "weight", filters, 1 if conv.depthwise else inputs)
            resize(module, "bias", filters)
            if conv.norm:
                resize_norm(self.get_submodule(conv.norm), filters)
            place(self.zeroed(name), filters, self.written.get(name))
        for name, reader in self.readers.items():
            module, inputs = self.get_submodule(name), self.inputs(reader.reads) * reader.features
            if isinstance(module, BatchNorm2d):
                resize_norm(module, inputs)
                place(module, inputs, None)
                continue
            linear = isinstance(module, nn.Linear)
            setattr(module, "in_features" if linear else "in_channels", inputs)
            resize(module, "weight", len(module.weight), inputs)
        return self

    def pixels(self, size: tuple[int, int]) -> dict[str, int]:
        """{name of a conv or linear layer: pixels of its output, or of its input if the conv is
        transposed, for one image of this height and width, over all calls}, from one forward pass.

        Torch's FLOP counter would give the multiply-accumulates, but imports torch's compiler,
        which takes longer than to import torch. Raises `UserError` for images that do not suit the
        net.
        """
        if size not in self._table.pixels:
            try:
                self._table.pixels[size] = _pixels(self, size)
            except (RuntimeError, ValueError, AssertionError) as error:
                if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
                    raise
                wanted = f"images must suit the net, got {size[0]}x{size[1]}"
                raise UserError(f"{wanted} ({one_line(error)})") from None
        return self._table.pixels[size]

    def inputs(self, reads: str) -> int:
        """The number of channels of a stream or a concatenation."""
        return sum(self.channels[stream] for stream in self.streams(reads))

    def positions(self, reads: str, kept: dict[str, torch.Tensor]) -> torch.Tensor:
        """The positions in a stream or a concatenation of the channels that `kept` has, {stream:
        indices}; of streams that it lacks, of all channels."""
        start, found = 0, []
        device = next(iter(kept.values())).device
        for stream in self.streams(reads):
            width = self.channels[stream]
            channels = kept.get(stream)
            whole = torch.arange(width, device=device) if channels is None else channels
            found.append(start + whole)
            start += width
        return torch.cat(found)

    def streams(self, name: str) -> tuple[str, ...]:
        """The streams that this name of a stream or a concatenation stands for."""
        return self.parts.get(name, (name,))

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
        self._stale = True

    def _mask_readers(self) -> None:
        """Mask the dead channels of batch norms in front of convs."""
        channels = self.live_channels(self.masks())
        for name, reader in self.readers.items():
            norm = self.get_submodule(name)
            if isinstance(norm, BatchNorm2d):
                live = [
                    channels[s] if s in channels else norm.weight.new_ones(self.channels[s]).bool()
                    for s in self.streams(reader.reads)
                ]
                live = torch.cat(live)
                norm.mask = None if bool(live.all()) else live.to(norm.weight)
        self._stale = False

    def masked_readers(self) -> list[BatchNorm2d]:
        """The batch norms in front of convs that have dead channels."""
        self._mask_readers()
        norms = [self.get_submodule(name) for name in self.readers]
        return [m for m in norms if isinstance(m, BatchNorm2d) and m.mask is not None]

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
        """The entry [filters] of `layers`, {conv name: [filters]}, that ranks a conv: its own.
        For a conv that follows others, it is that of the last conv that it follows."""
        conv = self.convs[name]
        if not conv.follows:
            return layers[name]
        producer = self.writers[conv.writes][-1]
        return self.over_stream(producer, layers[producer])


@contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Give each module its mode back after a block."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        net.train(modes[0][1])  # a `Net` has a root, which is none of its modules
        for module, training in modes:
            module.training = training


@contextmanager
def hooked(net: nn.Module, modules: dict[str, str], see: Callable) -> Iterator[None]:
    """Call `see(key, input, output)` after these modules {key: name}; what it returns, if anything,
    takes the place of the output."""
    hooks = [
        net.get_submodule(name).register_forward_hook(
            lambda _, args, named, out, key=key: see(key, [*args, *named.values()][0], out),
            with_kwargs=True,
        )
        for key, name in modules.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _pixels(net: Net, size: tuple[int, int]) -> dict[str, int]:
    found, weight = {}, next(net.parameters())
    layers = {name: module for name, module in net.named_modules() if isinstance(module, COUNTED)}

    def see(name: str, x: torch.Tensor, out: torch.Tensor) -> None:
        maps = x if isinstance(layers[name], nn.ConvTranspose2d) else out
        channels = maps.shape[-1 if isinstance(layers[name], nn.Linear) else 1]
        found[name] = found.get(name, 0) + maps[0].numel() // channels

    with modes_kept(net), hooked(net, {name: name for name in layers}, see):
        net.eval()(weight.new_zeros(2, net.channels[IMAGE], *size))
    return found


def scaled(filters: int, width: float) -> int:
    """A layer's number of filters times `width`: at least 8, or `filters` if that is less."""
    return max(min(8, filters), round(filters * width))


def copied(module: M) -> M:
    """A deep copy. Raises `UserError` if there is none: of a module that keeps results of a forward
    pass, or whose weights a hook computes."""
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        if "deepcopy protocol" not in str(error):
            raise
        name = type(getattr(module, "_root", module)).__name__
        cause = one_line(error).partition(". ")[0]
        raise UserError(f"{name} cannot be copied ({cause})") from None


def check_net(model: object) -> None:
    """Raise `UserError` unless a model is a `Net`."""
    if not isinstance(model, Net):
        raise UserError(
            f"model must be a net of this suite, got {type(model).__name__}: "
            "use benchmark.models.trace(model, images) first"
        )


def check_tensor(
    what: str, value: object, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    """Raise `UserError` unless a value is a tensor of this shape, and of this type, if given."""
    good = torch.is_tensor(value) and value.shape == shape and dtype in (None, value.dtype)
    kind = "a tensor" if dtype is None else f"a {str(dtype).removeprefix('torch.')} tensor"
    got = f"{value.dtype} {list(value.shape)}" if torch.is_tensor(value) else type(value).__name__
    if not good:
        raise UserError(f"{what} must be {kind} {list(shape)}, got {got}")


def check_entries(what: str, entries: object, convs: Iterable[str]) -> None:
    """Raise `UserError` unless there is exactly one entry per conv."""
    if not isinstance(entries, Mapping):
        got = type(entries).__name__
        raise UserError(f"{what} must be a dictionary with an entry per conv, got {got}")
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
        if not is_part:
            good = isinstance(entry, Integral) and entry >= 1
            require(good, f"plan[{name!r}]", entry, "a whole number from 1")
        filters, channels = (int(entry.sum()), len(entry)) if is_part else 2 * (int(entry),)
        if filters < 1:
            raise UserError(f"plan[{name!r}] must be at least 1, got {filters}")
        writer, width = widths.setdefault(conv.writes, (name, channels))
        if width != channels:
            raise UserError(
                f"plan[{name!r}] must equal plan[{writer!r}] = {width} (one stream), got {channels}"
            )
    return {stream: width for stream, (_, width) in widths.items()}
