"""The cost of a net: filters, parameters and multiply-accumulates, without masked filters."""

from __future__ import annotations

import torch

from benchmark.flow import evaluating
from benchmark.models import Net


def cost(model: Net, size: tuple[int, int] = (32, 32)) -> dict[str, int]:
    """`net/filters` (live filters of the prunable layers), `net/params`, and `net/macs` (forward,
    for one image of this height and width)."""
    live = {name: int(model.mask(name).sum()) for name in model.convs}
    params = sum(p.numel() for p in model.parameters())
    macs = _macs(model, size)
    total = macs[model.head]
    for name in model.convs:
        masked = model.plan[name] - live[name]
        params -= masked * (model.get_submodule(name).weight[0].numel() + 2)
        total += macs[name] * live[name] // model.plan[name]
    filters = sum(live[name] for name, conv in model.convs.items() if conv.prunable)
    return {"net/filters": filters, "net/params": params, "net/macs": total}


@torch.no_grad()
def _macs(model: Net, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of each layer, which uses a weight once per output pixel.

    Torch's FLOP counter gives the same numbers, but imports torch's compiler, which takes longer
    than to import torch.
    """
    macs = {}
    layers = {name: model.get_submodule(name) for name in (*model.convs, model.head)}
    hooks = [
        layer.register_forward_hook(
            lambda layer, _, out, name=name: macs.update(
                {name: layer.weight.numel() * out[0, 0].numel()}
            )
        )
        for name, layer in layers.items()
    ]
    parameter = next(model.parameters())
    with evaluating(model):
        model(torch.zeros(1, 3, *size, device=parameter.device, dtype=parameter.dtype))
    for hook in hooks:
        hook.remove()
    return macs
