"""What a net costs: live filters, parameters and multiply-accumulates. Masked filters are not counted."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.models import Net, build


def cost(model: Net, size: tuple[int, int] = (32, 32)) -> dict[str, int]:
    """`net/filters` (live, of the prunable layers), `net/params`, `net/macs` (forward, one image of this size)."""
    live = {name: int(model.mask(name).sum()) for name in model.convs}
    params = sum(p.numel() for p in model.parameters())
    macs = _macs(model.arch, model.num_classes, tuple(model.plan.items()), size)
    total = macs[model.head]
    for name in model.convs:
        masked = model.plan[name] - live[name]
        params -= masked * (model.get_submodule(name).weight[0].numel() + 2)
        total += macs[name] * live[name] // model.plan[name]
    filters = sum(live[name] for name, conv in model.convs.items() if conv.prunable)
    return {"net/filters": filters, "net/params": params, "net/macs": total}


@lru_cache(maxsize=64)
def _macs(arch: str, num_classes: int, plan: tuple[tuple[str, int], ...], size: tuple[int, int]) -> dict[str, int]:
    with torch.device("meta"):
        net = build(arch, num_classes, plan=dict(plan)).eval()
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, *size))
    prefix = type(net).__name__ + "."
    counts = {name.removeprefix(prefix): sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return {name: counts[name] for name in (*net.convs, net.head)}
