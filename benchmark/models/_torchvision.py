"""The nets of torchvision for images: `torchvision:NAME` is `torchvision.models.NAME`.

They begin with torchvision's initial weights, have no auxiliary heads, and keep their dropout.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import torchvision
from torch import nn

from benchmark.errors import UserError

AUXILIARY = ("googlenet", "inception_v3")
"""Nets that have auxiliary heads unless told otherwise."""


def architecture(arch: str) -> ModuleType:
    """What the file of an architecture declares, for `torchvision:NAME`. Raises `UserError` for a
    name that torchvision does not have."""
    name = arch.partition(":")[2]
    if name not in torchvision.models.list_models(module=torchvision.models):
        allowed = "torchvision:NAME with a net of torchvision.models, as torchvision:resnet18"
        raise UserError(f"arch must be {allowed}, got {arch!r}")
    module = ModuleType(arch, f"{name} of torchvision.")
    module.build = partial(_build, name)
    return module


def _build(name: str, num_classes: int) -> nn.Module:
    extra = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **extra)
