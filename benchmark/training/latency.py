"""How long a net takes for one image, measured on the device of a run."""

from __future__ import annotations

import statistics
import time

import torch

from benchmark.data._batches import normalise
from benchmark.devices import wait
from benchmark.flow import evaluating
from benchmark.models import Net
from benchmark.record import LATENCY_KEYS
from benchmark.training.state import prepared

BATCH, BATCH_CPU = 512, 32
"""Images in the large batch on a GPU and on a CPU."""
LEAST = 3
"""Forward passes of which the median is taken."""
SECONDS = 0.01
"""As many more are made as fit into this time."""


def latencies(net: Net, images: torch.Tensor) -> dict[str, float]:
    """Milliseconds per image (`LATENCY_KEYS`) of the dense net that `net` was pruned from (before)
    and of `net` (after): one image alone, and in a large batch.

    images: uint8 [N, H, W, 3] on the device, repeated as needed. Forward passes in evaluation mode
    and float32, without gradients. Nothing changes but the time.
    """
    after = _measured(net, images)
    before = after
    if net.plan != net.original:
        dense = prepared(net.resized(net.original), images.device)
        before = _measured(dense, images)
    return dict(zip(LATENCY_KEYS, (*before, *after), strict=True))


def _measured(net: Net, images: torch.Tensor) -> tuple[float, float]:
    large = BATCH_CPU if images.device.type == "cpu" else BATCH
    return _per_image(net, images, 1), _per_image(net, images, large)


@torch.no_grad()
def _per_image(net: Net, images: torch.Tensor, count: int) -> float:
    device = images.device
    x = normalise(images[torch.arange(count, device=device) % len(images)])
    times: list[float] = []
    with evaluating(net):
        net(x)  # the first one is slower
        while len(times) < LEAST or sum(times) < SECONDS:
            wait(device)
            start = time.perf_counter()
            net(x)
            wait(device)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times) / count
