"""Removing filters: by masking them (`masked`), and physically (`shrink`, `compact`).

All functions read the net's table of convs and streams; none depends on an architecture.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from benchmark.errors import UserError
from benchmark.models import Net, build, check_entries

Keep = dict[str, torch.Tensor]
"""{conv name: which filters are kept, bool [filters]}"""


@dataclass(frozen=True)
class Shrunk:
    """A net before and after filters are physically removed."""

    net: Net
    """The compact net."""
    masked: Net
    """The net of the original size in which the removed filters are masked."""
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
    zeroed after the conv's batch norm, and the filter's own parameters (conv weights, scale, shift)
    are set to 0. Raises `UserError` for a `keep` that does not fit the net or empties a layer.
    """
    _check(model, keep)
    result = copy.deepcopy(model)
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


def compact(model: Net, keep: Keep) -> Net:
    """A smaller net with the outputs, gradients and training of `masked(model, keep)`."""
    return shrink(model, keep).net


def shrink(model: Net, keep: Keep, *, multiple: int = 1) -> Shrunk:
    """Mask and compact a net; `model` is left as it is. Raises `UserError` as `masked` does.

    A stream's channel is removed when every conv that writes it has that filter masked. A masked
    filter whose channel another conv still writes stays masked in the compact net. multiple: some
    removed channels stay as well, masked, until the number of channels of each stream is a multiple
    of this (or all of them stay); some GPU kernels are faster for such numbers.
    """
    source = masked(model, keep)
    channels = {
        stream: _padded(live, multiple)
        for stream, live in stream_keep(source, source.masks()).items()
    }
    with torch.random.fork_rng(devices=[]):
        plan = {name: len(channels[conv.writes]) for name, conv in source.convs.items()}
        net = build(source.arch, source.num_classes, plan=plan)
    shrunk = Shrunk(net, source, _rows(source, channels))
    reference = next(source.parameters())
    net.to(reference.device, reference.dtype).train(source.training)
    net.load_state_dict({name: shrunk.part(name, t) for name, t in source.state_dict().items()})
    net.original = dict(source.original)
    for name, conv in net.convs.items():
        net.set_mask(name, source.mask(name)[channels[conv.writes]])
    return shrunk


def _padded(live: torch.Tensor, multiple: int) -> torch.Tensor:
    """The indices of the live channels, and of the first others up to a multiple."""
    due = min(-(-int(live.sum()) // multiple) * multiple, len(live))
    first = (~live).to(torch.uint8).argsort(stable=True)[:due]
    return first.sort().values


def _rows(model: Net, channels: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, ...]]:
    """`Shrunk.rows`, from the indices of the channels that each stream keeps."""
    every_class = torch.arange(model.num_classes, device=channels[model.head_reads].device)
    rows = {f"{model.head}.weight": (every_class, channels[model.head_reads])}
    for name, conv in model.convs.items():
        filters = channels[conv.writes]
        whole_input = conv.depthwise or conv.reads not in channels
        rows[f"{name}.weight"] = (filters,) if whole_input else (filters, channels[conv.reads])
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            rows[f"{conv.norm}.{tensor}"] = (filters,)
    return rows


def follow(model: Net, keep: Keep) -> Keep:
    """`keep`, in which each depthwise conv keeps the channels of its stream that some other conv
    still writes."""
    streams = stream_keep(model, {name: keep[name] & mask for name, mask in model.masks().items()})
    return {
        name: streams[conv.reads].clone() if conv.depthwise else keep[name]
        for name, conv in model.convs.items()
    }


def stream_keep(model: Net, live: Keep) -> Keep:
    """{stream: which of its channels some conv writes with a live filter, bool [channels]}"""
    return {
        stream: torch.stack([live[name] for name in writers]).any(dim=0)
        for stream, writers in model.writers.items()
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
        if keep[name].dtype != torch.bool or keep[name].shape != (filters,):
            got = f"{keep[name].dtype} {list(keep[name].shape)}"
            raise UserError(f"keep[{name!r}] must be bool [{filters}], got {got}")
    live = {name: keep[name].to(mask) & mask for name, mask in model.masks().items()}
    streams = stream_keep(model, live)
    for name, conv in model.convs.items():
        if not live[name].any():
            raise UserError(f"keep[{name!r}] must keep at least one live filter, got none")
        if conv.depthwise and not torch.equal(live[name], streams[conv.reads]):
            writers = " or ".join(f"keep[{writer!r}]" for writer in model.writers[conv.reads])
            raise UserError(f"keep[{name!r}] must equal {writers}: the conv is depthwise")
