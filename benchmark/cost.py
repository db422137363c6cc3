"""The cost of a net: filters, parameters and multiply-accumulates of what is live.

Masked filters are not counted, nor the channels of a stream that no conv writes any more.
"""

from __future__ import annotations

from benchmark.models import IMAGE_CHANNELS, Net, output_pixels

NORM_PARAMETERS = 2
"""Of a channel: scale and shift."""


class Ledger:
    """What a net costs while filters are removed one after the other, in whole numbers.

    `left` is {budget: cost}; `live` {conv name: which filters are live}, for convs that are not
    depthwise (a depthwise conv has the channels of its stream), as lists on the CPU.
    """

    def __init__(self, net: Net, size: tuple[int, int] = (32, 32)) -> None:
        masks = net.masks()
        free = [name for name, conv in net.convs.items() if not conv.depthwise]
        self.net, self._pixels = net, output_pixels(net.arch, size)
        self._area = {name: net.get_submodule(name).weight[0, 0].numel() for name in net.convs}
        self.live = {name: masks[name].tolist() for name in free}
        self.counts = {name: sum(layer) for name, layer in self.live.items()}
        self._places = {name: net.places(name).tolist() for name in free}
        self._writers = {stream: [0] * net.channels[stream] for stream in net.writers}
        for name in free:
            for place, live in zip(self._places[name], self.live[name], strict=True):
                self._writers[net.convs[name].writes][place] += live
        channels = {stream: sum(map(bool, column)) for stream, column in self._writers.items()}
        self._channels = channels
        self._readers: dict[str, list[str]] = {stream: [] for stream in net.writers}
        for name, conv in net.convs.items():
            self._readers.setdefault(conv.reads, []).append(name)
        self.left = whole_cost(net, self.counts, channels, self._area, self._pixels)

    def remove(self, conv: str, index: int) -> None:
        """Remove one live filter of a conv that is not depthwise."""
        self.live[conv][index] = False
        self.counts[conv] -= 1
        stream = self.net.convs[conv].writes
        self.left["filters"] -= self.net.convs[conv].prunable
        inputs = self._channels.get(self.net.convs[conv].reads, IMAGE_CHANNELS)
        self._subtract(conv, inputs, NORM_PARAMETERS)
        place = self._places[conv][index]
        self._writers[stream][place] -= 1
        if self._writers[stream][place]:
            return
        self._channels[stream] -= 1
        for name in self._readers[stream]:
            if self.net.convs[name].depthwise:
                self._subtract(name, 1, NORM_PARAMETERS)
            else:
                self._subtract(name, self.counts[name], 0)
        if self.net.head_reads == stream:
            self.left["params"] -= self.net.num_classes
            self.left["macs"] -= self.net.num_classes

    def _subtract(self, conv: str, kernels: int, norm: int) -> None:
        weights = kernels * self._area[conv]
        self.left["params"] -= weights + norm
        self.left["macs"] -= weights * self._pixels[conv]


def whole_cost(
    net: Net,
    counts: dict[str, int],
    channels: dict[str, int],
    area: dict[str, int],
    pixels: dict[str, int],
) -> dict[str, int]:
    """{budget: cost} of a net with so many filters per conv and channels per stream."""
    params = macs = net.num_classes * channels[net.head_reads]
    params += net.num_classes
    for name, conv in net.convs.items():
        filters = channels[conv.writes] if conv.depthwise else counts[name]
        inputs = 1 if conv.depthwise else channels.get(conv.reads, IMAGE_CHANNELS)
        weights = filters * inputs * area[name]
        params += weights + NORM_PARAMETERS * filters
        macs += weights * pixels[name]
    filters = sum(counts[name] for name, conv in net.convs.items() if conv.prunable)
    return {"filters": filters, "params": params, "macs": macs}


def dense_cost(net: Net, size: tuple[int, int] = (32, 32)) -> dict[str, int]:
    """{budget: cost} of a net before any cut."""
    area = {name: net.get_submodule(name).weight[0, 0].numel() for name in net.convs}
    channels = {stream: net.original[writers[0]] for stream, writers in net.writers.items()}
    return whole_cost(net, net.original, channels, area, output_pixels(net.arch, size))


def cost(net: Net, size: tuple[int, int] = (32, 32)) -> dict[str, int]:
    """`net/filters` (live filters of the prunable layers), `net/params`, and `net/macs` (forward,
    for one image of this height and width)."""
    return {f"net/{budget}": value for budget, value in Ledger(net, size).left.items()}
