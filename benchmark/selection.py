"""Which filters a cut keeps: the rules of ranking."""

from __future__ import annotations

import warnings

import torch

from benchmark.config import PROTOCOLS
from benchmark.errors import UserError, require
from benchmark.models import Net
from benchmark.schedule import kept_fraction

Keep = dict[str, torch.Tensor]
"""{conv name: which filters are kept, bool [filters]}"""

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
    """The filters that cut number `round` of `rounds` keeps, so that in the end the fraction `ratio` is gone.

    model: as it is before this cut. scores: {conv name: [filters]}, the lowest go first. Returns an entry for
    every conv; a depthwise conv's equals its producer's. Raises `UserError` for scores that do not fit or are not
    finite, and warns when a cut cannot meet its budget. Source: `exact` is this suite's own rule; `paper` follows
    the code released with Lubana & Dick, ICLR 2021 (see docs/paper.md).
    """
    require(0 < ratio < 1, "ratio", ratio, "between 0 and 1, both excluded")
    require(1 <= round <= rounds, "round", round, f"from 1 to rounds = {rounds}")
    require(protocol in PROTOCOLS, "protocol", protocol, "one of " + ", ".join(PROTOCOLS))
    return _exact(model, _checked(model, scores), ratio, round, rounds)


def _exact(model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int) -> Keep:
    """One global ranking of live filters by raw score, stable; floors; an integer budget, met exactly."""
    ranked = [name for name, conv in model.convs.items() if conv.prunable]
    budget = int(kept_fraction(ratio, round, rounds) * sum(model.original[name] for name in ranked) + 0.5)
    candidates = []
    for name in ranked:
        live = model.mask(name).cpu().nonzero().flatten()
        order = live[scores[name][live].argsort(stable=True)]
        floor = -(-FLOOR_PERCENT * model.original[name] // 100)
        candidates += [(float(scores[name][i]), name, int(i)) for i in order[: max(len(order) - floor, 0)].tolist()]
    live = sum(int(model.mask(name).sum()) for name in ranked)
    surplus = max(live - budget, 0)
    if surplus > len(candidates):
        warnings.warn(
            f"cut {round} of {rounds} keeps {live - len(candidates)} filters instead of {budget}: each layer keeps at "
            f"least {FLOOR_PERCENT} % of its original filters",
            stacklevel=3,
        )
    keep = {name: model.mask(name).clone() for name in model.convs}
    position = {name: i for i, name in enumerate(ranked)}
    for _, name, i in sorted(candidates, key=lambda c: (c[0], position[c[1]], c[2]))[:surplus]:
        keep[name][i] = False
    return _follow(model, keep)


def _follow(model: Net, keep: Keep) -> Keep:
    """Give each depthwise conv the decision of its producer."""
    writers = {conv.writes: name for name, conv in model.convs.items() if not conv.depthwise}
    return {
        name: keep[writers[conv.reads]].clone() if conv.depthwise else keep[name] for name, conv in model.convs.items()
    }


def _checked(model: Net, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if set(scores) != set(model.convs):
        wrong = sorted(set(scores) ^ set(model.convs))
        raise UserError(f"scores must have one entry per conv; missing or unknown: {', '.join(wrong[:5])}")
    for name, layer in scores.items():
        if layer.shape != (model.plan[name],):
            raise UserError(f"scores[{name!r}] must be [{model.plan[name]}], got {list(layer.shape)}")
        if not bool(layer.isfinite().all()):
            raise UserError(f"scores[{name!r}] must be finite, got {float(layer[~layer.isfinite()][0])}")
    return {name: scores[name].detach().cpu() for name in model.convs}
