"""Removing filters by masking (`masked`), and for good (`compact`).

Both read the net's table of streams; neither knows an architecture.
"""

from __future__ import annotations

import copy

import torch

from benchmark.errors import UserError
from benchmark.models import Net, build
from benchmark.pruning.selection import Keep, stream_keep


def masked(model: Net, keep: Keep) -> Net:
    """A copy of `model` in which the filters that are not kept are zero, and stay zero in training.

    keep: {conv name: bool [filters]}; a depthwise conv's equals its producer's. The channel is
    zeroed after the conv's batch norm, and the filter's own parameters (conv weights, scale, shift)
    are set to 0.
    """
    _check(model, keep)
    result = copy.deepcopy(model)
    mask_filters(result, keep)
    return result


@torch.no_grad()
def mask_filters(model: Net, keep: Keep) -> None:
    """Do in place what `masked` does to a copy."""
    for name, conv in model.convs.items():
        live = keep[name].to(model.mask(name)) & model.mask(name)
        norm = model.get_submodule(conv.norm)
        for parameter in (model.get_submodule(name).weight, norm.weight, norm.bias):
            parameter[~live] = 0
        model.set_mask(name, live)


def compact(model: Net, keep: Keep) -> Net:
    """A smaller net with the outputs, gradients and training of `masked(model, keep)`.

    A stream's channel goes when every conv that writes it has that filter masked. A masked filter
    whose channel must stay (another conv still writes it) stays masked.
    """
    source = masked(model, keep)
    streams = stream_keep(source, source.masks())
    plan = {name: int(streams[conv.writes].sum()) for name, conv in source.convs.items()}
    with torch.random.fork_rng(devices=[]):
        result = build(source.arch, source.num_classes, plan=plan)
    reference = next(source.parameters())
    result.to(reference.device, reference.dtype)
    indices = kept_indices(source)
    result.load_state_dict(
        {name: take(t, indices.get(name, ())) for name, t in source.state_dict().items()}
    )
    result.original = dict(source.original)
    for name, conv in result.convs.items():
        result.set_mask(name, source.mask(name)[streams[conv.writes]])
    result.train(source.training)
    return result


def kept_indices(masked_net: Net) -> dict[str, tuple[torch.Tensor, ...]]:
    """{state-dict name: indices kept along its first axes} that turn a masked net's tensors into
    the compact net's.

    Names that are not listed stay whole.
    """
    streams = {
        name: keep.nonzero().flatten()
        for name, keep in stream_keep(masked_net, masked_net.masks()).items()
    }
    indices = {}
    for name, conv in masked_net.convs.items():
        rows = streams[conv.writes]
        indices[f"{name}.weight"] = (
            (rows,) if conv.depthwise or conv.reads not in streams else (rows, streams[conv.reads])
        )
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            indices[f"{conv.norm}.{tensor}"] = (rows,)
    every_class = torch.arange(masked_net.num_classes, device=streams[masked_net.head_reads].device)
    indices[f"{masked_net.head}.weight"] = (every_class, streams[masked_net.head_reads])
    return indices


def take(tensor: torch.Tensor, indices: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The part of a tensor with these indices along its first axes."""
    for axis, index in enumerate(indices):
        tensor = tensor.index_select(axis, index)
    return tensor


def _check(model: Net, keep: Keep) -> None:
    if set(keep) != set(model.convs):
        wrong = sorted(set(keep) ^ set(model.convs))
        raise UserError(
            f"keep must have one entry per conv; missing or unknown: {', '.join(wrong[:5])}"
        )
    for name in model.convs:
        if keep[name].dtype != torch.bool or keep[name].shape != (model.plan[name],):
            got = f"{keep[name].dtype} {list(keep[name].shape)}"
            raise UserError(f"keep[{name!r}] must be bool [{model.plan[name]}], got {got}")
    live = {name: keep[name].to(mask) & mask for name, mask in model.masks().items()}
    streams = stream_keep(model, live)
    for name, conv in model.convs.items():
        if not bool(live[name].any()):
            raise UserError(f"keep[{name!r}] must keep at least one live filter, got none")
        if conv.depthwise and not torch.equal(live[name], streams[conv.reads]):
            writers = " or ".join(f"keep[{writer!r}]" for writer in model.writers[conv.reads])
            raise UserError(f"keep[{name!r}] must equal {writers}: the conv is depthwise")
