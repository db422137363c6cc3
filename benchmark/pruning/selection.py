"""Which filters a cut keeps: `select`, and the suite's own (`exact`) rules of ranking."""

from __future__ import annotations

import warnings

import torch

from benchmark.config import PROTOCOLS
from benchmark.errors import UserError, require, require_one_of
from benchmark.models import Net, check_entries
from benchmark.pruning.masks import Keep, follow, lowest
from benchmark.pruning.paper import select_as_paper
from benchmark.schedule import kept_fraction

FLOOR_PERCENT = 5


def select(
    model: Net,
    scores: dict[str, torch.Tensor],
    ratio: float,
    *,
    round: int = 1,
    rounds: int = 1,
    protocol: str = "exact",
) -> Keep:
    """The filters that cut number `round` of `rounds` keeps, so that in the end the fraction
    `ratio` is gone.

    model: as it is before this cut. scores: {conv name: [filters]}, the lowest go first. Returns an
    entry for every conv; a depthwise conv's equals its producer's. Raises `UserError` for scores
    that do not fit or are not finite, and warns when a cut cannot meet its budget. Source: `exact`
    is this suite's own rule; `paper` follows the code released with Lubana & Dick, ICLR 2021 (see
    docs/paper.md).
    """
    require(0 < ratio < 1, "ratio", ratio, "between 0 and 1, both excluded")
    require(1 <= round <= rounds, "round", round, f"from 1 to rounds = {rounds}")
    require_one_of("protocol", protocol, PROTOCOLS)
    rules = _select_exactly if protocol == "exact" else select_as_paper
    return rules(model, _checked(model, scores), ratio, round, rounds)


def _select_exactly(
    model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int
) -> Keep:
    """One global, stable ranking of the live filters by raw score. The budget is a whole number of
    filters and is met exactly, unless the floors forbid it."""
    live = {name: model.mask(name).cpu() for name, conv in model.convs.items() if conv.prunable}
    removable = {
        name: _above_floor(scores[name], mask, model.original[name]) for name, mask in live.items()
    }
    budget = int(
        kept_fraction(ratio, round, rounds) * sum(model.original[name] for name in live) + 0.5
    )
    present, free = (sum(int(mask.sum()) for mask in masks.values()) for masks in (live, removable))
    surplus = max(present - budget, 0)
    if surplus > free:
        warnings.warn(
            f"cut {round} of {rounds} keeps {present - free} filters instead of {budget}: each "
            f"layer keeps at least {FLOOR_PERCENT} % of its original filters",
            stacklevel=3,
        )
    ranked = {
        name: torch.where(mask, scores[name].double(), torch.inf)
        for name, mask in removable.items()
    }
    keep = model.masks()
    for name, gone in lowest(ranked, min(surplus, free)).items():
        keep[name] &= ~gone.to(keep[name].device)
    return follow(model, keep)


def _above_floor(scores: torch.Tensor, live: torch.Tensor, original: int) -> torch.Tensor:
    """The live filters that may be removed: all but the best ones, which the floor keeps."""
    floor = -(-FLOOR_PERCENT * original // 100)
    order = live.nonzero().flatten()[scores[live].argsort(stable=True)]
    above = torch.zeros_like(live)
    above[order[: max(len(order) - floor, 0)]] = True
    return above


def _checked(model: Net, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The scores on the CPU, 0 for masked filters."""
    check_entries("scores", scores, model.convs)
    checked = {}
    for name, mask in model.masks().items():
        layer = scores[name].detach().cpu()
        if layer.shape != mask.shape:
            raise UserError(f"scores[{name!r}] must be [{len(mask)}], got {list(layer.shape)}")
        checked[name] = torch.where(mask.cpu(), layer, 0)
        wrong = checked[name][~checked[name].isfinite()]
        if len(wrong):
            raise UserError(f"scores[{name!r}] must be finite, got {float(wrong[0])}")
    return checked
