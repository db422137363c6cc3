"""How a net lies in memory: which layout, and which numbers of channels, are fast on a device.

On a CPU channels last is 1.0, 1.4 and 1.25 times as fast as contiguous memory for VGG-13,
MobileNet-V1 and ResNet-56 (docs/performance.md). The rules for a GPU are those of its libraries,
and are not measured here yet (`python -m benchmark.perf.gpu` does, in both layouts): tensor cores
read channels last and want multiples of 8 channels; depthwise convs of float32 images in channels
last fall back to kernels that may be 40 times as slow.
"""

from __future__ import annotations

import torch

from benchmark.models._net import Net


def layout(model: Net, device: torch.device, precision: str) -> torch.memory_format:
    """The layout in memory of a net that is trained on a device with this arithmetic."""
    depthwise = any(conv.depthwise for conv in model.convs.values())
    if device.type == "cuda" and depthwise and precision != "bf16":
        return torch.contiguous_format
    return torch.channels_last


def multiple(device: torch.device, precision: str) -> int:
    """The number that a compact net's numbers of channels should be multiples of."""
    return 8 if device.type == "cuda" and precision in ("bf16", "tf32") else 1
