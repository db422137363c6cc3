"""The rules of ranking of the authors' released code, quirks included.

docs/paper.md lists each quirk with its effect.
"""

from __future__ import annotations

import torch

from benchmark.models import Net
from benchmark.pruning.masks import Keep, follow, lowest

PROTECTED_SHARE = 0.05
PROTECTED = 1e7
"""The score that the authors' code gives to filters that must not be pruned."""


def select_as_paper(
    model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int
) -> Keep:
    """The arguments and the result are those of `benchmark.pruning.select`; scores are on the CPU,
    and 0 for masked filters."""
    shared = _residual(model)
    rules = _rows_of_residual if shared else _rows_of_plain
    count, rows = rules(model, scores, ratio, round, rounds)
    keep = {}
    for name, gone in lowest(rows, count).items():
        mask, row = model.mask(name), rows[name]
        live = mask.cpu()
        if gone.all():
            gone[row.argsort(stable=True)[-1]] = False
        if model.convs[name].writes in shared:
            kept = ~gone[model.places(name).cpu()]
        else:
            kept = torch.zeros_like(live).masked_scatter(live, ~gone)
        if not (kept & live).any():  # masked rows score 0, and live filters can be below
            kept[torch.where(live, scores[name], -torch.inf).argmax()] = True
        keep[name] = kept.to(mask.device)
    return follow(model, keep)


def _rows_of_plain(
    model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int
) -> tuple[int, dict[str, torch.Tensor]]:
    """How many rows of VGG or MobileNet to remove, and {conv name: scores of its live filters}.

    Depthwise convs are ranked with a copy of their producer's scores. Protection is by index.
    """
    rows = {}
    for name, mask in model.masks().items():
        rows[name] = model.ranking(name, scores)[mask.cpu()]
        rows[name][-(int(PROTECTED_SHARE * model.original[name]) + 1) :] = PROTECTED
    return int(_share_removed(ratio, round, rounds) * sum(map(len, rows.values()))), rows


def _rows_of_residual(
    model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int
) -> tuple[int, dict[str, torch.Tensor]]:
    """The same for a ResNet. All rows of the residual streams count, masked and removed ones with
    score 0; the percentage that is kept is truncated in each round."""
    shared, rows = _residual(model), {}
    for name, conv in model.convs.items():
        row, live = model.ranking(name, scores), model.mask(name).cpu()
        if conv.writes in shared:
            present = model.over_stream(name, torch.where(live, row, 0))
            removed = row.new_zeros(model.original[name] - len(present))
            rows[name] = torch.cat([present, removed])
        else:
            rows[name] = row[live]
        if not (conv.prunable or conv.depthwise):
            rows[name] = torch.full_like(rows[name], PROTECTED)
    percent = 100
    for k in range(1, round + 1):
        percent = int(percent * (1 - _share_removed(ratio, k, rounds)))
    now = sum(map(len, rows.values()))
    return max(int((1 - percent / 100 * sum(model.original.values()) / now) * now), 0), rows


def _share_removed(ratio: float, round: int, rounds: int) -> float:
    """The share of the present filters that one round removes."""
    return ratio / (round * ratio + rounds * (1 - ratio))


def _residual(model: Net) -> set[str]:
    """Streams that several convs write."""
    return {stream for stream, writers in model.writers.items() if len(writers) > 1}
