"""The cost of a net: filters, parameters and multiply-accumulates of what is live.

Masked filters are not counted, nor the channels of a stream that no conv writes any more.
Multiply-accumulates are those of convs and linear layers.
"""

from __future__ import annotations

from numbers import Integral

from torch import nn

from benchmark.errors import require
from benchmark.models import Net, check_net
from benchmark.models._net import COUNTED

Size = tuple[int, int]


def check_size(size: object) -> None:
    """Raise `UserError` unless a size is None, or height and width of an image."""
    pair = size is None or (isinstance(size, tuple | list) and len(size) == 2)
    good = pair and all(isinstance(n, Integral) and n >= 1 for n in size or ())
    require(good, "image_size", size, "(height, width), whole numbers from 1")


class _Prices:
    """What the parts of a net cost, in whole numbers: (parameters, multiply-accumulates)."""

    def __init__(self, net: Net, size: Size | None) -> None:
        pixels = net.pixels(size or net.image_size)
        self.net, self.kernel, self.filter, self.channel = net, {}, {}, {}
        for name in net.convs:
            area = net.get_submodule(name).weight[0, 0].numel()
            self.kernel[name] = (area, area * pixels[name])
            parameters = [p.numel() for p in net.filter_parameters(name)]
            weight = net.get_submodule(name).weight.numel()
            self.filter[name] = (sum(parameters) - weight) // net.plan[name]
        for reader in net.readers.values():
            module = net.get_submodule(reader.name)
            if isinstance(module, nn.BatchNorm2d):
                price = (2, 0)  # scale and shift
            else:
                weights = module.weight[:, 0].numel() * reader.features
                price = (weights, weights * pixels.get(reader.name, 0))
            for stream in net.streams(reader.reads):
                before = self.channel.get(stream, (0, 0))
                self.channel[stream] = (before[0] + price[0], before[1] + price[1])
        layers = ((n, m) for n, m in net.named_modules() if isinstance(m, COUNTED))
        macs = sum(layer.weight.numel() * pixels.get(name, 0) for name, layer in layers)
        self.rest = (0, 0)
        known = self.whole(net.plan, net.channels)
        parameters = sum(p.numel() for p in net.parameters())
        self.rest = (parameters - known["params"], macs - known["macs"])

    def whole(self, counts: dict[str, int], channels: dict[str, int]) -> dict[str, int]:
        """{budget: cost} of a net with so many filters per conv and channels per stream."""
        params, macs = self.rest
        channels = self.net.channels | channels
        for name, conv in self.net.convs.items():
            filters = channels[conv.writes] if conv.follows else counts[name]
            inputs = sum(channels[stream] for stream in self.net.streams(conv.reads))
            kernels = filters * (1 if conv.depthwise else inputs)
            params += kernels * self.kernel[name][0] + filters * self.filter[name]
            macs += kernels * self.kernel[name][1]
        for stream, price in self.channel.items():
            params += channels[stream] * price[0]
            macs += channels[stream] * price[1]
        filters = sum(counts[name] for name, conv in self.net.convs.items() if conv.prunable)
        return {"filters": filters, "params": params, "macs": macs}


class Ledger:
    """What a net costs while filters are removed one after the other, in whole numbers.

    `left` is {budget: cost}; `live` {conv name: which filters are live}, for convs that follow no
    others, as lists on the CPU.
    """

    def __init__(self, net: Net, size: Size | None = None) -> None:
        masks = net.masks()
        free = [name for name, conv in net.convs.items() if not conv.follows]
        self.net, self._prices = net, _Prices(net, size)
        self.live = {name: masks[name].tolist() for name in free}
        self.counts = {name: sum(layer) for name, layer in self.live.items()}
        self._places = {name: net.places(name).tolist() for name in free}
        self._writers = {stream: [0] * net.channels[stream] for stream in net.writers}
        for name in free:
            for place, live in zip(self._places[name], self.live[name], strict=True):
                self._writers[net.convs[name].writes][place] += live
        live_channels = {s: sum(map(bool, column)) for s, column in self._writers.items()}
        self._channels = net.channels | live_channels
        self._readers: dict[str, list[str]] = {stream: [] for stream in net.channels}
        self._followers: dict[str, list[str]] = {stream: [] for stream in net.writers}
        for name, conv in net.convs.items():
            if conv.follows:
                self._followers[conv.writes].append(name)
            if not conv.depthwise:
                for stream in net.streams(conv.reads):
                    self._readers[stream].append(name)
        self.left = self._prices.whole(self.counts, live_channels)

    def remove(self, conv: str, index: int) -> None:
        """Remove one live filter of a conv that follows no others."""
        self.live[conv][index] = False
        self.counts[conv] -= 1
        stream = self.net.convs[conv].writes
        self.left["filters"] -= self.net.convs[conv].prunable
        self._subtract(conv, self._inputs(conv), 1)
        place = self._places[conv][index]
        self._writers[stream][place] -= 1
        if self._writers[stream][place]:
            return
        for name in self._followers[stream]:
            depthwise = self.net.convs[name].depthwise
            self._subtract(name, 1 if depthwise else self._inputs(name), 1)
        self._channels[stream] -= 1
        for name in self._readers[stream]:
            follows, writes = self.net.convs[name].follows, self.net.convs[name].writes
            self._subtract(name, self._channels[writes] if follows else self.counts[name], 0)
        for budget, price in zip(
            ("params", "macs"), self._prices.channel.get(stream, (0, 0)), strict=True
        ):
            self.left[budget] -= price

    def _inputs(self, conv: str) -> int:
        streams = self.net.streams(self.net.convs[conv].reads)
        return sum(self._channels[stream] for stream in streams)

    def _subtract(self, conv: str, kernels: int, filters: int) -> None:
        params, macs = self._prices.kernel[conv]
        self.left["params"] -= kernels * params + filters * self._prices.filter[conv]
        self.left["macs"] -= kernels * macs


def dense_cost(net: Net, size: Size | None = None) -> dict[str, int]:
    """{budget: cost} of a net before any cut."""
    channels = {stream: net.original[writers[0]] for stream, writers in net.writers.items()}
    return _Prices(net, size).whole(net.original, channels)


def cost(net: Net, size: Size | None = None) -> dict[str, int]:
    """What a net costs: `net/filters` (live filters of the prunable layers), `net/params` (live
    parameters), and `net/macs` (multiply-accumulates of convs and linear layers, forward, for one
    image).

    size: height and width of the image (None: 32 x 32, or that of the images that the net was
    traced with). Raises `UserError` for images that do not suit the net.
    """
    check_net(net)
    check_size(size)
    left = Ledger(net, size and tuple(size)).left
    return {f"net/{budget}": value for budget, value in left.items()}
