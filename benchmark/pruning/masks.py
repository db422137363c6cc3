"""Removing filters: by masking them (`masked`), and physically (`shrink`, `compact`).

All functions read the net's table of convs and streams; none depends on an architecture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.models import Net, check_entries, check_net, check_tensor, copied

Keep = dict[str, torch.Tensor]
"""{conv name: which filters are kept, bool [filters]}"""


@dataclass(frozen=True)
class Shrunk:
    """A net before and after filters are physically removed."""

    net: Net
    """The compact net."""
    masked: Net
    """The net of the original size in which the removed filters are masked."""
    channels: dict[str, torch.Tensor]
    """{stream: indices of the channels kept}"""
    rows: dict[str, tuple[torch.Tensor, ...]]
    """{state-dict name: indices kept along its first axes}; tensors without an entry stay whole."""

    def part(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What the compact net keeps of a tensor that is shaped like this entry of the state
        dict."""
        for axis, index in enumerate(self.rows.get(name, ())):
            tensor = tensor.index_select(axis, index)
        return tensor


def masked(model: Net, keep: Keep) -> Net:
    """A copy of `model` in which the filters that are not kept are zero, and stay zero in training.

    keep: {conv name: bool [filters]}; a depthwise conv's equals its producer's. The channel is
    zeroed after the conv's batch norm. The filter's own parameters (conv weights, scale, shift) are
    set to 0, and so are the scale and shift of a batch norm that only reads the channel. Raises
    `UserError` for a `keep` that does not fit the net or empties a layer.
    """
    check_net(model)
    _check(model, keep)
    result = copied(model)
    mask_filters(result, keep)
    return result


@torch.no_grad()
def mask_filters(model: Net, keep: Keep) -> None:
    """Do in place what `masked` does to a copy."""
    for name, mask in model.masks().items():
        live = keep[name].to(mask) & mask
        for parameter in model.filter_parameters(name):
            parameter[~live] = 0
        model.set_mask(name, live)
    for norm in model.masked_readers():
        norm.weight[norm.mask == 0] = norm.bias[norm.mask == 0] = 0


def compact(model: Net, keep: Keep) -> Net:
    """A smaller net with the outputs, gradients and training of `masked(model, keep)`.

    keep: {conv name: bool [filters]}, as for `masked`. Filters that are not kept are removed, and a
    channel of a residual stream once no conv writes it any more. The state dict has the names of
    `model`'s; `plan | written` of the smaller net is its plan for `Net.resized`.
    `model` does not change. Raises `UserError` as `masked` does.
    """
    return shrink(model, keep).net


def shrink(model: Net, keep: Keep, *, multiple: int = 1) -> Shrunk:
    """Mask and compact a net; `model` is left as it is. Raises `UserError` as `masked` does.

    A masked filter is removed; its channel of the stream is removed when no conv writes it any
    more, and until then the others write it alone. multiple: keep some removed channels and
    filters, masked, so that the number of channels of each stream is a multiple of this, and the
    number of filters of each conv where its channels allow it. Some GPU kernels are faster then.
    """
    source = masked(model, keep)
    live = source.masks()
    channels = {
        stream: _padded(written, multiple, torch.ones_like(written))
        for stream, written in source.live_channels(live).items()
    }
    filters, plan = {}, {}
    for name, conv in source.convs.items():
        places, stays = source.places(name), channels[conv.writes]
        filters[name] = _padded(live[name], multiple, torch.isin(places, stays))
        written = torch.isin(stays, places[filters[name]])
        plan[name] = len(stays) if conv.follows else written
    net = source.resized(plan)
    shrunk = Shrunk(net, source, channels, _rows(source, channels, filters))
    net.load_state_dict({name: shrunk.part(name, t) for name, t in source.state_dict().items()})
    net.original = dict(source.original)
    for name, kept in filters.items():
        net.set_mask(name, live[name][kept])
    return shrunk


def _padded(live: torch.Tensor, multiple: int, stays: torch.Tensor) -> torch.Tensor:
    """The indices of the live entries, and of the first others that can stay, up to a multiple."""
    due = -(-int(live.sum()) // multiple) * multiple
    first = (~live).to(torch.uint8).argsort(stable=True)
    return first[stays[first]][:due].sort().values


def _rows(
    model: Net, channels: dict[str, torch.Tensor], filters: dict[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor, ...]]:
    """`Shrunk.rows`, from the indices of the channels that each stream keeps and of the filters
    that each conv keeps."""
    rows = {}
    for name, conv in model.convs.items():
        kept = filters[name]
        inputs = () if conv.depthwise else (model.positions(conv.reads, channels),)
        for tensor in ("weight", "bias", "running_mean", "running_var") if conv.norm else ():
            rows[f"{conv.norm}.{tensor}"] = (kept,)
        rows |= {f"{name}.weight": (kept, *inputs), f"{name}.bias": (kept,)}
    for name, reader in model.readers.items():
        kept = model.positions(reader.reads, channels)
        module = model.get_submodule(name)
        if isinstance(module, nn.BatchNorm2d):
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                rows[f"{name}.{tensor}"] = (kept,)
        else:
            pixels = torch.arange(reader.features, device=kept.device)
            columns = (kept[:, None] * reader.features + pixels).flatten()
            outputs = torch.arange(len(module.weight), device=kept.device)
            rows[f"{name}.weight"] = (outputs, columns)
    return rows


def follow(model: Net, keep: Keep) -> Keep:
    """`keep`, in which each conv that follows others keeps the channels of its stream that some of
    these still write."""
    live = {name: keep[name] & mask for name, mask in model.masks().items()}
    streams = model.live_channels(live)
    return {
        name: streams[conv.writes].clone() if conv.follows else keep[name]
        for name, conv in model.convs.items()
    }


def lowest(rows: dict[str, torch.Tensor], count: int) -> Keep:
    """{name: which entries of its row are among the `count` lowest of all rows, bool}; of equal
    entries the first count."""
    chosen = torch.zeros(sum(map(len, rows.values())), dtype=torch.bool)
    chosen[torch.cat(list(rows.values())).argsort(stable=True)[:count]] = True
    return dict(zip(rows, chosen.split([len(row) for row in rows.values()]), strict=True))


def _check(model: Net, keep: Keep) -> None:
    check_entries("keep", keep, model.convs)
    for name, filters in model.plan.items():
        check_tensor(f"keep[{name!r}]", keep[name], (filters,), torch.bool)
    live = {name: keep[name].to(mask) & mask for name, mask in model.masks().items()}
    streams = model.live_channels(live)
    for name, conv in model.convs.items():
        if not live[name].any():
            raise UserError(f"keep[{name!r}] must keep at least one live filter, got none")
        if conv.follows and not torch.equal(live[name], streams[conv.writes]):
            writers = " or ".join(f"keep[{writer!r}]" for writer in model.writers[conv.writes])
            what = "depthwise" if conv.depthwise else "a gate"
            raise UserError(f"keep[{name!r}] must equal {writers}: the conv is {what}")
