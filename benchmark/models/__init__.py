"""Architectures, one file each, built from plans.

A file declares `CONVS` (the table of convs and streams) and `build(plan, num_classes)`.
"""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path

import torch

from benchmark import registry
from benchmark.errors import UserError, one_line, require
from benchmark.models._layout import layout, multiple
from benchmark.models._net import (
    IMAGE_CHANNELS,
    BatchNorm2d,
    Conv,
    Net,
    Plan,
    check_entries,
    pixels,
    scaled,
)
from benchmark.models._trace import Traced, trace

__all__ = [
    "IMAGE_CHANNELS", "BatchNorm2d", "Conv", "Net", "Plan", "build", "check_entries",
    "default_plan", "layout", "load_authors", "multiple", "output_pixels",
    "resized", "trace",
]  # fmt: skip


def default_plan(arch: str, width: float = 1.0) -> dict[str, int]:
    """{conv name: number of filters} of an architecture at this width."""
    require(width > 0, "width", width, "above 0")
    return scaled(registry.load("models", arch).CONVS, width)


def build(arch: str, num_classes: int = 10, width: float = 1.0, plan: Plan | None = None) -> Net:
    """A freshly initialised net (torch's default initialisation, from the global random state).

    plan: {conv name: number of filters, or which channels of its stream it writes (bool
    [channels])}; without one, the default plan times `width`. Input: float [N, 3, H, W] (32 x 32 at
    least); output: logits [N, num_classes]. Raises `UserError` for an unknown architecture or a
    plan that does not fit it.
    """
    module = registry.load("models", arch)
    net = module.build(default_plan(arch, width) if plan is None else plan, num_classes)
    net.arch, net.num_classes = arch, num_classes
    return net


def resized(net: Net, plan: Plan) -> Net:
    """A net of the same architecture from another plan, with weights of no meaning. The global
    random state stays."""
    if isinstance(net, Traced):
        return net.resized(plan)
    with torch.random.fork_rng(devices=[]):
        return build(net.arch, net.num_classes, plan=plan)


def output_pixels(net: Net, size: tuple[int, int]) -> dict[str, int]:
    """{name of a conv or linear layer: pixels of its output for one image of this height and
    width}, from one forward pass.

    Torch's FLOP counter would give the multiply-accumulates, but imports torch's compiler, which
    takes longer than to import torch.
    """
    return net.pixels(size) if isinstance(net, Traced) else _pixels_of(net.arch, size)


@cache
def _pixels_of(arch: str, size: tuple[int, int]) -> dict[str, int]:
    with torch.random.fork_rng(devices=[]):
        return pixels(build(arch, width=1e-9), size)


def load_authors(arch: str, path: Path) -> Net:
    """A net from a checkpoint of the authors' code: {"net": state dict, ...}, keys with or without
    `module.`.

    The plan is read off the shapes of the conv weights, so checkpoints that were pruned physically
    load too; the zero rows that the authors leave in a pruned ResNet stay, as zeros. Raises
    `UserError` for a file that does not fit.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise UserError(f"checkpoint {path} cannot be read ({one_line(error)})") from None
    state = content.get("net", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise UserError(f"checkpoint {path} must be {{'net': state dict}} or a state dict")
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    convs = [conv.name for conv in registry.load("models", arch).CONVS]
    lacks = [f"{conv}.weight" for conv in convs if f"{conv}.weight" not in state]
    head = state.get("linear.weight", state.get("classifier.weight"))
    if lacks or head is None:
        what = lacks[0] if lacks else "the classifier"
        raise UserError(f"checkpoint {path} is not of {arch}: it lacks {what}")
    plan = {conv: len(state[f"{conv}.weight"]) for conv in convs}
    net = build(arch, num_classes=len(head), plan=plan)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"checkpoint {path} does not fit {arch} ({one_line(error)})") from None
    return net
