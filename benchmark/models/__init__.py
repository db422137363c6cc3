"""Architectures, one file each, built from plans.

A file declares `CONVS` (the table of convs and streams) and `build(plan, num_classes)`.
"""

from __future__ import annotations

from benchmark import registry
from benchmark.errors import require
from benchmark.models._net import BatchNorm2d, Conv, Net, scaled

__all__ = ["BatchNorm2d", "Conv", "Net", "build", "default_plan"]


def default_plan(arch: str, width: float = 1.0) -> dict[str, int]:
    """{conv name: number of filters} of an architecture at this width."""
    require(width > 0, "width", width, "above 0")
    return scaled(registry.load("models", arch).CONVS, width)


def build(arch: str, num_classes: int = 10, width: float = 1.0, plan: dict[str, int] | None = None) -> Net:
    """A freshly initialised net (torch's default initialisation, from the global random state).

    plan: {conv name: number of filters}; without one, the default plan times `width`. Input: float
    [N, 3, H, W] (32 x 32 at least); output: logits [N, num_classes]. Raises `UserError` for an unknown
    architecture or a plan that does not fit it.
    """
    module = registry.load("models", arch)
    net = module.build(default_plan(arch, width) if plan is None else plan, num_classes)
    net.arch, net.num_classes = arch, num_classes
    return net
