"""How a net lies in memory: which layout, and which numbers of channels, are fast on a device.

Channels last is as fast as contiguous memory or faster, on a CPU and on a GPU, with each
architecture and precision (docs/performance.md).
"""

from __future__ import annotations

import torch

LAYOUT = torch.channels_last


def multiple(device: torch.device, precision: str) -> int:
    """The number that a compact net's numbers of channels should be multiples of: tensor cores want
    8, which is 1.06 to 1.14 times as fast."""
    return 8 if device.type == "cuda" and precision in ("bf16", "tf32") else 1
