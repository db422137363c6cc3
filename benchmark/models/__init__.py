"""Architectures, one file each: ordinary torch nets, whose tables of convs and streams are traced.

A file declares `build(num_classes, width=1.0)`, which returns a net with its initial weights.
"""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from benchmark import outside, registry
from benchmark.config import WIDEST
from benchmark.errors import UserError, one_line, require
from benchmark.models._layers import BatchNorm2d
from benchmark.models._layout import LAYOUT, multiple
from benchmark.models._net import (
    IMAGE_CHANNELS,
    Conv,
    Net,
    Plan,
    Table,
    check_entries,
    check_net,
    check_tensor,
    copied,
    scaled,
)
from benchmark.models._trace import SizeError, table_of, trace
from benchmark.models._weights import FORMAT, fill, is_model, read, read_weights

__all__ = [
    "IMAGE_CHANNELS", "BatchNorm2d", "Conv", "Net", "Plan", "build", "check_entries",
    "check_net", "check_tensor", "copied",
    "LAYOUT", "default_plan", "load", "load_authors", "multiple", "packed", "rebuilt", "scaled",
    "takes_width", "trace",
]  # fmt: skip


NARROW = 1e-9
"""Width of the narrowest net of an architecture."""
CLASSES = 10
"""Classes of a net of which only the convs matter."""
SIZES = ((32, 32), (224, 224))
"""Sizes of images that an architecture is traced with, unless its file declares another: the first
that suits it."""


def build(arch: str, num_classes: int = 10, width: float = 1.0, plan: Plan | None = None) -> Net:
    """A freshly initialised net, from the global random state.

    width: factor on the numbers of filters, above 0 and at most 64. plan: {conv name: number of
    filters, or which channels of its stream it writes (bool [channels])}; without one, that of this
    width. Input: float [N, 3, H, W] (for the suite's own 32 x 32 at least); output: logits [N,
    num_classes]. Weights are those that the architecture itself begins with; in a net from a plan
    those of the suite have torch's default initialisation, and others are the first filters and
    channels of a whole net.

    Raises `UserError` for an unknown architecture, one that takes no width, one that cannot be
    traced, or a plan that does not fit.
    """
    require(0 < width <= WIDEST, "width", width, f"above 0 and at most {WIDEST}")
    if plan is None:
        root = _root(arch, num_classes, width)
        net = Net(root, _table(arch, num_classes, width, root))
    elif _ours(arch):
        with torch.random.fork_rng(devices=[]):
            net = build(arch, num_classes, NARROW)
        net.resize(plan)
        for module in net.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    else:
        net = build(arch, num_classes, width).resize(plan)
    net.original = dict(net.plan)
    net.arch, net.num_classes = arch, num_classes
    return net


def default_plan(arch: str, width: float = 1.0) -> dict[str, int]:
    """{conv name: number of filters} of an architecture of the suite at this width."""
    return {conv.name: scaled(conv.filters, width) for conv in _own_table(arch).convs}


def _ours(arch: str) -> bool:
    return arch in registry.names("models")


def takes_width(arch: str) -> bool:
    """Whether an architecture can be built at other widths than 1."""
    return "width" in inspect.signature(registry.load("models", arch).build).parameters


def _root(arch: str, num_classes: int, width: float) -> nn.Module:
    """The ordinary net of an architecture."""
    make = registry.load("models", arch).build
    if takes_width(arch):
        root = make(num_classes, width=width)
    else:
        require(width == 1, f"width of {arch}", width, "1, because its build takes no width")
        root = make(num_classes)
    if not isinstance(root, nn.Module):
        raise UserError(f"build of {arch} must return a torch.nn.Module, got {root!r}")
    return root


_tables: dict[tuple[object, ...], Table] = {}


def _table(arch: str, num_classes: int, width: float, root: nn.Module) -> Table:
    """The table of an architecture, traced once; that of the suite's own does not depend on classes
    and width."""
    if _ours(arch):
        return _own_table(arch)
    key = (arch, num_classes, width)
    if key not in _tables:
        _tables[key] = _traced(arch, root)
    return _tables[key]


def _traced(arch: str, root: nn.Module) -> Table:
    """The table of a net of this architecture."""
    declared = getattr(registry.load("models", arch), "IMAGE_SIZE", None)
    *others, last = [tuple(declared)] if declared else SIZES
    for size in others:
        with contextlib.suppress(SizeError):
            return table_of(root, torch.zeros(2, IMAGE_CHANNELS, *size))
    return table_of(root, torch.zeros(2, IMAGE_CHANNELS, *last))


@cache
def _own_table(arch: str) -> Table:
    """The table of an architecture of the suite: that of a narrow net, with the filters of a whole
    one."""
    with torch.random.fork_rng(devices=[]):
        root = _root(arch, CLASSES, NARROW)
    table = _traced(arch, root)
    with torch.device("meta"):
        whole = _root(arch, CLASSES, 1.0)
    convs = [replace(c, filters=whole.get_submodule(c.name).out_channels) for c in table.convs]
    return replace(table, convs=tuple(convs))


def load_authors(arch: str, path: Path) -> Net:
    """A net from a checkpoint of the authors' code: {"net": state dict, ...}, keys with or without
    `module.`.

    The plan is read off the shapes of the conv weights, so checkpoints that were pruned physically
    load too; the zero rows that the authors leave in a pruned ResNet stay, as zeros. Raises
    `UserError` for a file that does not fit.
    """
    state = read_weights(path, f"checkpoint {path}")
    convs = default_plan(arch)
    lacks = [f"{conv}.weight" for conv in convs if f"{conv}.weight" not in state]
    head = state.get("linear.weight", state.get("classifier.weight"))
    if lacks or head is None:
        what = lacks[0] if lacks else "the classifier"
        raise UserError(f"checkpoint {path} is not of {arch}: it lacks {what}")
    plan = {conv: len(state[f"{conv}.weight"]) for conv in convs}
    net = build(arch, num_classes=len(head), plan=plan)
    fill(net, state, f"checkpoint {path}", arch)
    return net


def rebuilt(arch: str, saved: dict, width: float = 1.0) -> Net:
    """The net that a `model.pt` or a checkpoint holds, without its weights: with its plan, its
    numbers of filters before any cut, and its masks."""
    net = build(arch, saved["num_classes"], width, saved["plan"] | saved["written"])
    net.original = dict(saved["original"])
    for name, mask in saved["masks"].items():
        net.set_mask(name, mask)
    return net


def packed(net: Net, classes: Sequence[str], image_size: tuple[int, int]) -> bytes:
    """A net as the content of a file that `load` reads (`model.pt` of a record).

    It is {"format", "arch", "num_classes", "plan", "written", "original", "masks", "weights",
    "classes", "image_size"}: plans and masks as in `Net`, the state dict, the names of the classes,
    height and width of the images.
    """
    content = {
        "format": FORMAT,
        "arch": net.arch,
        "num_classes": net.num_classes,
        "plan": net.plan,
        "written": net.written,
        "original": net.original,
        "masks": {name: mask.cpu() for name, mask in net.masks().items()},
        "weights": {name: tensor.cpu() for name, tensor in net.state_dict().items()},
        "classes": list(map(str, classes)),
        "image_size": list(image_size),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load(path: Path | str) -> Net:
    """The net in a `model.pt`, which a run with `--keep-model` leaves, in evaluation mode on the
    CPU; it has the outputs of the run's final net.

    Input: float [N, 3, H, W], pixels minus 0.5, divided by 0.5; output: logits [N, classes]. Its
    `classes` are their names, its `image_size` is that of the run's images. An architecture from
    outside is found as `benchmark.outside` says, or in the record around the file. Raises
    `UserError` for a file that is missing, broken, of a newer version or not a `model.pt`.
    """
    path, what = Path(path), f"model file {path}"
    content = read(path, what)
    if not is_model(content):
        raise UserError(f"{what} must be a model.pt, which a run with --keep-model leaves")
    if content["format"] != FORMAT:
        raise UserError(
            f"{what} has format {content['format']}, this version reads {FORMAT}: update flowprune"
        )
    arch = content["arch"]
    if outside.is_outside(arch):
        outside.look_in(path.absolute().parents[1])
    try:
        net = rebuilt(arch, content)
        fill(net, content["weights"], what, arch, finite=False)
        net.classes, net.image_size = tuple(content["classes"]), tuple(content["image_size"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"{what} does not fit {arch} ({one_line(error)})") from None
    return net.to(memory_format=LAYOUT).eval()
