"""The graph of a net (torch.fx): how it is recorded, and questions about its nodes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable

import torch
from torch import fx, nn

from benchmark.errors import UserError, one_line
from benchmark.models._layers import BatchNorm2d, Conv2d
from benchmark.models._net import Net

ASSIGNMENTS = {"iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"}
"""Functions of the module `operator` that change their first argument."""
PIXELS = {2, 3, -1, -2}
"""The axes of images [N, C, H, W] that are not channels."""
TYPE = ("dtype", "device", "ndim")
"""Attributes of a tensor that do not depend on its channels."""


class _Proxy(fx.Proxy):
    """Torch's stand-in for a tensor, for which `x += y` changes x under all its names, as it does
    for a tensor (torch records `x + y`)."""


def _assigning(name: str) -> Callable[[fx.Proxy, object], fx.Proxy]:
    """The method of `_Proxy` for a function in `ASSIGNMENTS`."""
    function = getattr(operator, name)
    return lambda x, y: x.tracer.create_proxy("call_function", function, (x, y), {})


for _name in ASSIGNMENTS:
    setattr(_Proxy, f"__{_name}__", _assigning(_name))


class _Tracer(fx.Tracer):
    """Torch's tracer, which knows where it is, and takes convs, batch norms and stochastic depth
    for whole modules whoever wrote them. It traces through the roots of nets of the suite."""

    where = ""

    def __init__(self, nets: Iterable[Net]) -> None:
        super().__init__()
        self.roots = {id(net._root) for net in nets}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        depth = type(m).__name__ == "StochasticDepth" and next(m.children(), None) is None
        return depth or isinstance(m, Conv2d | BatchNorm2d) or super().is_leaf_module(m, name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> object:
        if id(m) in self.roots:  # they are no submodules
            return forward(*args, **kwargs)
        before, self.where = self.where, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.where = before
        return result


def graph_of(root: nn.Module) -> fx.Graph:
    """The graph of a net in its mode. Raises `UserError` that names the module which cannot be
    traced."""
    nets = [module for module in root.modules() if isinstance(module, Net)]
    for net in nets:
        net.masked_readers()  # else its forward does this, and reads weights
    tracer = _Tracer(nets)
    try:
        graph = tracer.trace(root)
    except Exception as error:  # whatever the net's own code raises
        where = " ".join(filter(None, [type(root).__name__, tracer.where]))
        raise UserError(f"{where} cannot be traced ({one_line(error)})") from None
    if len([node for node in graph.nodes if node.op == "placeholder" and not node.args]) != 1:
        raise UserError(f"{type(root).__name__} must take one tensor to be traced")
    return graph


class Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of each tensor."""

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        n.meta["shape"] = tuple(result.shape) if torch.is_tensor(result) else None
        return result


def operation(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The name of an operation, the same for modules, functions and methods."""
    if node.op == "call_module":
        name = type(modules[node.target]).__name__
    else:
        name = node.target if isinstance(node.target, str) else node.target.__name__
    return name.replace("_", "").lower()


def place_of(node: fx.Node, kind: str) -> str:
    """The module that a node belongs to, and what it does there."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return f"{path or 'the net'} ({kind})"


def argument(node: fx.Node, position: int, name: str, default: object) -> object:
    """An argument of a function or method, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def in_place(node: fx.Node) -> bool:
    """Whether a function or method changes its first input (`sigmoid_`, `+=`)."""
    name = node.target if isinstance(node.target, str) else node.target.__name__
    calls = node.op in ("call_function", "call_method")
    return calls and (name in ASSIGNMENTS or (name.endswith("_") and not name.endswith("__")))


def is_asked_its_type(node: fx.Node) -> bool:
    """Whether a net only reads the type or the device of a parameter."""
    return all(user.target is getattr and user.args[1] in TYPE for user in node.users)


def over_pixels(node: fx.Node) -> bool:
    """Whether a mean is taken over axes other than the channels."""
    axes = argument(node, 1, "dim", None)
    axes = axes if isinstance(axes, tuple | list) else (axes,)
    return all(axis in PIXELS for axis in axes)


def flattens(node: fx.Node, kind: str, shape: tuple[int, ...] | None) -> bool:
    """Whether a node flattens all axes but the first."""
    out = node.meta["shape"]
    if not shape or len(shape) < 2 or not out or out != (shape[0], torch.Size(shape[1:]).numel()):
        return False
    if kind in ("view", "reshape"):
        return len(node.args) == 3 and isinstance(node.args[1], fx.Node) and node.args[2] == -1
    return kind == "flatten"


def along_channels(node: fx.Node) -> bool:
    """Whether a concatenation puts channels side by side."""
    axis = argument(node, 1, "dim", 0)
    return axis in (1, -3) and isinstance(argument(node, 0, "tensors", None), tuple | list)


def asks_pixels(node: fx.Node, kind: str, maps: bool) -> bool:
    """Whether a question about the shape is one about other axes than the channels."""
    allowed = {0, *PIXELS} if maps else {0}
    if kind == "dim":
        return True
    if kind == "getattr" and node.args[1] != "shape":
        return node.args[1] in TYPE
    if kind == "size" and len(node.args) > 1:
        return node.args[1] in allowed
    return all(
        user.target is operator.getitem and not isinstance(user.args[1], slice)
        and user.args[1] in allowed
        for user in node.users
    )  # fmt: skip
