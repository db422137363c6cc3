"""The cost of a net: filters, parameters and multiply-accumulates of what is live.

Masked filters are not counted, nor the channels of a stream that no conv writes any more.
"""

from __future__ import annotations

from functools import cache

import torch

from benchmark.models import Net, build
from benchmark.pruning.masks import stream_keep

IMAGE_CHANNELS = 3
NORM_PARAMETERS = 2
"""Of a channel: scale and shift."""


def cost(model: Net, size: tuple[int, int] = (32, 32)) -> dict[str, int]:
    """`net/filters` (live filters of the prunable layers), `net/params`, and `net/macs` (forward,
    for one image of this height and width)."""
    masks = model.masks()
    live = {name: int(mask.sum()) for name, mask in masks.items()}
    channels = {stream: int(keep.sum()) for stream, keep in stream_keep(model, masks).items()}
    pixels = output_pixels(model.arch, size)
    head = model.num_classes * channels[model.head_reads]
    params, macs = head + model.num_classes, head
    for name, conv in model.convs.items():
        inputs = 1 if conv.depthwise else channels.get(conv.reads, IMAGE_CHANNELS)
        weights = live[name] * inputs * model.get_submodule(name).weight[0, 0].numel()
        params += weights + NORM_PARAMETERS * live[name]
        macs += weights * pixels[name]
    filters = sum(live[name] for name, conv in model.convs.items() if conv.prunable)
    return {"net/filters": filters, "net/params": params, "net/macs": macs}


@cache
@torch.no_grad()
def output_pixels(arch: str, size: tuple[int, int]) -> dict[str, int]:
    """{conv name: pixels of its output for one image of this height and width}, from one forward
    pass of a narrow net of this architecture.

    Torch's FLOP counter would give the multiply-accumulates, but imports torch's compiler, which
    takes longer than to import torch.
    """
    with torch.random.fork_rng(devices=[]):
        net = build(arch, width=1e-9).eval()
    pixels = {}
    for name in net.convs:
        net.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: pixels.update({name: out[0, 0].numel()})
        )
    net(torch.zeros(1, 3, *size))
    return pixels
