"""`trace`: the table of convs and streams of an ordinary torch net, read off its graph (torch.fx).

Every tensor in the graph has an *axis*: the streams that its channels are. A conv starts a stream,
additions join two, concatenations put several side by side. What is not understood keeps all
channels of its inputs: their streams are *fixed*, and convs that write them are not in the table.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import fx, nn

from benchmark.errors import UserError, one_line, require
from benchmark.models._graph import (
    Shapes,
    along_channels,
    argument,
    asks_pixels,
    flattens,
    graph_of,
    in_place,
    is_asked_its_type,
    operation,
    over_pixels,
    place_of,
)  # fmt: skip
from benchmark.models._layers import BatchNorm2d, Conv2d, has_statistics
from benchmark.models._net import IMAGE, Conv, Net, Reader, Table, copied, modes_kept

ZERO_STAYS = {
    "relu", "relu6", "hardtanh", "leakyrelu", "elu", "selu", "celu", "gelu", "silu", "hardswish",
    "mish", "tanh", "softsign", "identity", "dropout", "dropout2d", "stochasticdepth", "contiguous",
    "clone",
}  # fmt: skip
"""Operations on single values that give 0 for 0; names of modules and functions in lower case."""
ZERO_CHANGES = {"sigmoid", "hardsigmoid", "softplus", "logsigmoid", "exp"}
POOLS = {
    "maxpool2d", "avgpool2d", "adaptiveavgpool2d", "adaptivemaxpool2d", "upsample", "interpolate",
    "zeropad2d",
}  # fmt: skip


class SizeError(UserError):
    """The net does not take images of this size."""


def trace(module: nn.Module, images: torch.Tensor) -> Net:
    """A copy of a torch net that `score`, `select`, `masked`, `compact` and `cost` take.

    images: float [N, C, H, W], of the size that the net is used with. Names of the state dict,
    outputs and modes are those of `module`, which does not change. Filters of convs can be removed
    where torch.fx shows what reads them: batch norm, activations, pooling, dropout, additions,
    concatenations, flattening before a linear layer, and squeeze-and-excitation gates. All others
    stay: those of grouped convs, and of convs whose outputs are permuted or attended to.

    Raises `UserError` for a net that torch.fx cannot trace, whose output is not one tensor, or in
    which no filter can be removed; it names the module.
    """
    good = torch.is_tensor(images) and images.ndim == 4
    got = list(images.shape) if torch.is_tensor(images) else type(images).__name__
    require(good, "images", got, "a tensor float [N, C, H, W]")
    root = copied(module)
    if isinstance(root, Net):
        root.image_size = tuple(images.shape[2:])
        return root
    return Net(root, table_of(root, images))


def table_of(root: nn.Module, images: torch.Tensor) -> Table:
    """The table of a net, which does not change; see `trace`."""
    with modes_kept(root):
        graphs = [graph_of(root.train(training)) for training in (False, True)]
        tables = [_Analysis(root.eval(), graph, images).table() for graph in graphs]
    one, other = ([vars(t)[name] for name in _READ] for t in tables)
    if one != other:
        raise UserError(f"{type(root).__name__} must have the same convs in training and not")
    return tables[0]


_READ = ("convs", "readers", "parts", "fixed")


@dataclass(frozen=True)
class _Axis:
    """The channels of a tensor (its axis 1)."""

    streams: tuple[int, ...]
    zero: bool = True
    """Whether channels that no conv writes any more are zero."""
    features: int = 1
    """Features per channel, after flattening."""


class _Streams:
    """Streams by number; some turn out to be one and the same."""

    def __init__(self) -> None:
        self._up: list[int] = []
        self.widths: list[int] = []
        self.names: list[str] = []
        self.why: dict[int, str] = {}
        """{a fixed stream: what fixes it}"""

    def new(self, width: int, name: str, why: str = "") -> int:
        number = len(self._up)
        self._up.append(number)
        self.widths.append(width)
        self.names.append(name)
        if why:
            self.why[number] = why
        return number

    def root(self, number: int) -> int:
        while self._up[number] != number:
            number = self._up[number]
        return number

    def fix(self, number: int, why: str) -> None:
        self.why.setdefault(self.root(number), why)

    def join(self, one: int, other: int) -> None:
        one, other = sorted((self.root(one), self.root(other)))
        self._up[other] = one
        if other in self.why:
            self.fix(one, self.why[other])


class _Analysis:
    """One pass over a graph, in the order of execution."""

    def __init__(self, root: nn.Module, graph: fx.Graph, images: torch.Tensor) -> None:
        self.root, self.graph, self.images = root, graph, images
        self.modules = dict(root.named_modules(remove_duplicate=False))
        self.calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        shared = Counter(id(p) for _, p in root.named_parameters(remove_duplicate=False))
        self.tied = {number for number, count in shared.items() if count > 1}
        self.tied |= {  # parameters that are used outside of their modules
            id(operator.attrgetter(node.target)(root))
            for node in graph.nodes if node.op == "get_attr" and not is_asked_its_type(node)
        }  # fmt: skip
        self.classes: int | None = None
        self.streams = _Streams()
        self.axes: dict[fx.Node, _Axis] = {}
        self.convs: dict[str, tuple[_Axis, int]] = {}
        """{conv: (what it reads, the stream that it writes)}"""
        self.norms: dict[str, str] = {}
        """{conv: its own batch norm}"""
        self.gates: set[str] = set()
        self.readers: dict[str, _Axis] = {}
        self.joined: dict[tuple[int, ...], str] = {}
        """{streams: the first concatenation of them}"""

    def table(self) -> Table:
        weight = next(self.root.parameters(), None)
        if weight is None:
            raise UserError(self._nothing())
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                Shapes(self.root, graph=self.graph).run(self.images.to(weight, copy=True))
        except (RuntimeError, ValueError, AssertionError) as error:
            shape = list(self.images.shape)
            cause = one_line(error).partition(" While executing ")[0]
            raise SizeError(f"images must suit the net, got {shape} ({cause})") from None
        for node in self.graph.nodes:
            axis = self._visit(node)
            if axis is not None:
                self.axes[node] = axis
                if in_place(node):
                    self.axes[node.all_input_nodes[0]] = axis
        return self._result()

    def _visit(self, node: fx.Node) -> _Axis | None:
        shape = node.meta["shape"]
        if node.op == "placeholder":
            return _Axis((self.streams.new(shape[1], IMAGE, "it is the image"),)) if shape else None
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node) or shape is None:
                raise UserError(f"{type(self.root).__name__} must return one tensor to be traced")
            self.classes = shape[1] if len(shape) == 2 else None
            self._fix(node)
            return None
        kind, inputs = operation(node, self.modules), self._inputs(node)
        if inputs:
            axis = self._rule(node, kind, inputs)
            if axis is not None or shape is None:
                return axis
        if shape is None or len(shape) < 2:
            return None
        return self._new_fixed(node, kind)

    def _new_fixed(self, node: fx.Node, kind: str) -> _Axis:
        """The axis of a tensor whose channels all stay."""
        width = node.meta["shape"][1]
        return _Axis((self.streams.new(width, f"fixed {node.name}", place_of(node, kind)),))

    def _inputs(self, node: fx.Node) -> list[_Axis]:
        return [self.axes[n] for n in node.all_input_nodes if n in self.axes]

    def _fix(self, node: fx.Node) -> None:
        """The streams of all inputs keep all their channels."""
        why = place_of(node, operation(node, self.modules))
        for axis in self._inputs(node):
            for stream in axis.streams:
                self.streams.fix(stream, why)

    def _rule(self, node: fx.Node, kind: str, inputs: list[_Axis]) -> _Axis | None:
        """The axis of a node's result; None if it is not known, and then its inputs are fixed."""
        first, shapes = inputs[0], [n.meta["shape"] for n in node.all_input_nodes]
        module = self.modules[node.target] if node.op == "call_module" else None
        maps = len(shapes[0] or ()) == 4
        single = len(node.all_input_nodes) == 1
        if isinstance(module, nn.Conv2d) and maps and self._alone(node, (nn.Conv2d, Conv2d)):
            return self._conv(node, module, first)
        if isinstance(module, nn.BatchNorm2d) and self._alone(node, (nn.BatchNorm2d, BatchNorm2d)):
            if has_statistics(module):
                return self._norm(node, first)
        elif isinstance(module, nn.Linear) and len(shapes[0]) == 2:
            if self._alone(node, (nn.Linear,)) and self._zero(first):
                self.readers[node.target] = first
                return self._new_fixed(node, kind)
        elif single and _keeps_zero(node, kind, module) and node.meta["shape"] == shapes[0]:
            return first
        elif single and kind in ZERO_CHANGES and node.meta["shape"] == shapes[0]:
            return _Axis(first.streams, False, first.features)
        elif single and maps and (kind in POOLS or (kind == "mean" and over_pixels(node))):
            if node.meta["shape"] and node.meta["shape"][:2] == shapes[0][:2]:
                return first
        elif flattens(node, kind, shapes[0]):
            size = node.meta["shape"][1] // (shapes[0][1])
            return _Axis(first.streams, first.zero, first.features * size)
        elif kind in ("add", "iadd", "mul", "imul") and len(node.args) == 2:
            joined = self._joined(node, kind, inputs)
            if joined is not None:
                return joined
        elif kind in ("cat", "concat", "concatenate") and along_channels(node) and maps:
            if len(inputs) == len(argument(node, 0, "tensors", ())) and all(
                axis.features == 1 for axis in inputs
            ):
                streams = tuple(stream for axis in inputs for stream in axis.streams)
                self.joined.setdefault(streams, f"concat {node.name}")
                return _Axis(streams, all(axis.zero for axis in inputs))
        elif kind in ("size", "getattr", "dim") and asks_pixels(node, kind, maps):
            return None
        self._fix(node)
        return None

    def _alone(self, node: fx.Node, types: tuple[type, ...]) -> bool:
        """Whether a module is of one of these types exactly, is called once, and shares nothing."""
        module = self.modules[node.target]
        tied = any(id(parameter) in self.tied for parameter in module.parameters())
        hooked = "weight" not in module._parameters and not isinstance(module, nn.BatchNorm2d)
        spread = getattr(module, "places", None) is not None  # in a compact net of the suite
        alone = self.calls[node.target] == 1 and not (tied or hooked or spread)
        return type(module) in types and alone

    def _zero(self, axis: _Axis) -> bool:
        return axis.zero or self._fixed(axis)

    def _conv(self, node: fx.Node, conv: nn.Conv2d, axis: _Axis) -> _Axis | None:
        if not self._zero(axis):
            self._fix(node)
        if conv.groups == 1:
            out = self.streams.new(conv.out_channels, node.target)
        elif conv.groups == conv.in_channels == conv.out_channels and len(axis.streams) == 1:
            out = axis.streams[0]
        else:
            self._fix(node)
            return None
        self.convs[node.target] = (axis, out)
        return _Axis((out,))

    def _norm(self, node: fx.Node, axis: _Axis) -> _Axis:
        before = node.all_input_nodes[0]
        while len(before.users) == 1 and before.target not in self.convs:
            kind = operation(before, self.modules)
            if kind not in ZERO_STAYS | ZERO_CHANGES or len(before.all_input_nodes) != 1:
                break
            before = before.all_input_nodes[0]
        if len(before.users) == 1 and before.op == "call_module" and before.target in self.convs:
            self.norms[before.target] = node.target
        else:
            self.readers[node.target] = axis
        return _Axis(axis.streams)

    def _joined(self, node: fx.Node, kind: str, inputs: list[_Axis]) -> _Axis | None:
        """The axis of a sum or product of two tensors, or of a tensor and a number."""
        one, other = node.args
        if not all(isinstance(term, fx.Node) for term in node.args):
            number = isinstance(one, int | float) or isinstance(other, int | float)
            plain = kind.endswith("mul") and number
            return inputs[0] if plain else None
        if one is other:
            return inputs[0]
        shapes = [term.meta["shape"] for term in node.args]
        if len(inputs) != 2 or not all(shapes) or len(shapes[0]) != len(shapes[1]):
            return None
        a, b = inputs
        widths = [[self.streams.widths[s] for s in axis.streams] for axis in inputs]
        if shapes[0][1] != shapes[1][1] or widths[0] != widths[1] or a.features != b.features:
            return None
        if kind.endswith("mul") and a.zero != b.zero:
            gate, gated = (a, b) if b.zero else (b, a)
            main = {self.streams.root(stream) for stream in gated.streams}
            scaling = {self.streams.root(stream) for stream in gate.streams} - main
            self.gates |= {
                name for name, (_, out) in self.convs.items() if self.streams.root(out) in scaling
            }
        for pair in zip(a.streams, b.streams, strict=True):
            self.streams.join(*pair)
        zero = (a.zero or b.zero) if kind.endswith("mul") else (a.zero and b.zero)
        return _Axis(a.streams, zero, a.features)

    def _result(self) -> Table:
        root, fixed = self.streams.root, self.streams.why
        writers: dict[int, list[str]] = {}
        for name, (_, out) in self._in_order(self.convs):
            depthwise = self._depthwise(name)
            if not (depthwise or name in self.gates):
                writers.setdefault(root(out), []).append(name)
        free = {number: convs for number, convs in writers.items() if number not in fixed}
        self.names = self._stream_names(free)
        self.names |= {number: self.streams.names[number] for number in fixed}
        self.parts: dict[str, tuple[str, ...]] = {}
        convs, readers = [], []
        for name, (reads, out) in self._in_order(self.convs):
            stream = self.names[root(out)]
            depthwise = self._depthwise(name)
            if root(out) in fixed:
                if not depthwise and not self._fixed(reads):
                    readers.append(Reader(name=name, reads=self._name(reads)))
                continue
            read = stream if depthwise else self._name(reads, stream)
            stem = read == IMAGE and len(writers[root(out)]) > 1
            gate = name in self.gates and not depthwise
            convs.append(
                Conv(
                    name=name, norm=self.norms.get(name), reads=read, writes=stream,
                    filters=self.modules[name].out_channels,
                    prunable=not (stem or depthwise or gate), gate=gate,
                )
            )  # fmt: skip
        for name, reads in self._in_order(self.readers):
            if not self._fixed(reads):
                readers.append(Reader(name=name, reads=self._name(reads), features=reads.features))
        if not any(conv.prunable for conv in convs):
            raise UserError(self._nothing())
        read = {part for entry in (*convs, *readers) for part in self._parts(entry.reads)}
        widths = {self.names[number]: self.streams.widths[number] for number in fixed}
        return Table(
            convs=tuple(convs), readers=tuple(readers), parts=self.parts,
            fixed={name: width for name, width in widths.items() if name in {IMAGE, *read}},
            size=tuple(self.images.shape[2:]), classes=self.classes,
            hardsigmoid=any(
                operation(node, self.modules) == "hardsigmoid"
                for node in self.graph.nodes if node.op != "placeholder" and node.op != "output"
            ),
        )  # fmt: skip

    def _parts(self, name: str) -> tuple[str, ...]:
        return self.parts.get(name, (name,))

    def _stream_names(self, writers: dict[int, list[str]]) -> dict[int, str]:
        """{stream: the innermost module that has all its writers, but for those that read the
        image}; where that is not one name for one stream, its first writer."""
        shared = {}
        for number, convs in writers.items():
            inner = [name for name in convs if not self._reads_image(name)] or convs
            levels = zip(*(name.split(".") for name in inner), strict=False)
            same = takewhile(lambda level: len(set(level)) == 1, levels)
            shared[number] = ".".join(level[0] for level in same)
        often = Counter([*shared.values(), *self.convs])
        names = {
            number: name if name and often[name] == 1 else writers[number][0]
            for number, name in shared.items()
        }
        return {n: f"filters of {name}" if name == IMAGE else name for n, name in names.items()}

    def _reads_image(self, name: str) -> bool:
        reads = self.convs[name][0]
        return [self.streams.names[self.streams.root(s)] for s in reads.streams] == [IMAGE]

    def _in_order(self, entries: dict[str, object]) -> list[tuple[str, object]]:
        """In the order of `named_modules`."""
        return [(name, entries[name]) for name in self.modules if name in entries]

    def _depthwise(self, name: str) -> bool:
        return self.modules[name].groups > 1

    def _fixed(self, axis: _Axis) -> bool:
        return all(self.streams.root(stream) in self.streams.why for stream in axis.streams)

    def _name(self, axis: _Axis, writes: str = "") -> str:
        """The name of what a module reads; that of a full conv differs from what it writes."""
        streams = tuple(self.names[self.streams.root(stream)] for stream in axis.streams)
        if len(streams) == 1 and streams[0] != writes:
            return streams[0]
        known = [name for name, parts in self.parts.items() if parts == streams]
        name = known[0] if known else self.joined.get(axis.streams, f"all of {writes}")
        self.parts[name] = streams
        return name

    def _nothing(self) -> str:
        """Why no conv is in the table."""
        what = f"{type(self.root).__name__} has no filters that can be removed"
        for name, (_, out) in self.convs.items():
            why = self.streams.why.get(self.streams.root(out))
            return f"{what}: those of {name} are read by {why}" if why else what
        for name, module in self.modules.items():
            if any(id(parameter) in self.tied for parameter in module.parameters(recurse=False)):
                return f"{what}: the weights of {name} are used in several places"
        return what


def _keeps_zero(node: fx.Node, kind: str, module: nn.Module | None) -> bool:
    """Whether an operation on single values gives 0 for 0."""
    if kind != "hardtanh":
        return kind in ZERO_STAYS
    low = argument(node, 1, "min_val", -1.0) if module is None else module.min_val
    high = argument(node, 2, "max_val", 1.0) if module is None else module.max_val
    return all(isinstance(end, int | float) for end in (low, high)) and low <= 0 <= high
