"""What differs between kinds of devices: CPUs, CUDA and Apple's GPUs (MPS)."""

from __future__ import annotations

import torch


def wide(device: torch.device) -> torch.dtype:
    """The most accurate type for sums on a device: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def wait(device: torch.device) -> None:
    """Wait until a device has done its work: that of the current stream, where others may have
    more."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
