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
PAPER_PROTECTED = 1e7  # the score that the authors' code gives to what it must not prune


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
    require(protocol in PROTOCOLS, "protocol", protocol, "one of " + ", ".join(PROTOCOLS))
    rules = _exact if protocol == "exact" else _paper
    return rules(model, _checked(model, scores), ratio, round, rounds)


def _exact(
    model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int
) -> Keep:
    """One global ranking of live filters by raw score, stable; floors; an integer budget, met
    exactly."""
    ranked = [name for name, conv in model.convs.items() if conv.prunable]
    budget = int(
        kept_fraction(ratio, round, rounds) * sum(model.original[name] for name in ranked) + 0.5
    )
    masks = [model.mask(name).cpu() for name in ranked]
    removable = [
        _above_floor(scores[n], mask, model.original[n])
        for n, mask in zip(ranked, masks, strict=True)
    ]
    live, free = (
        sum(int(mask.sum()) for mask in masks),
        sum(int(layer.sum()) for layer in removable),
    )
    surplus = max(live - budget, 0)
    if surplus > free:
        warnings.warn(
            f"cut {round} of {rounds} keeps {live - free} filters instead of {budget}: each layer keeps at "
            f"least {FLOOR_PERCENT} % of its original filters",
            stacklevel=3,
        )
    rows = [
        torch.where(layer, scores[name].double(), torch.inf)
        for name, layer in zip(ranked, removable, strict=True)
    ]
    gone = torch.zeros(sum(map(len, rows)), dtype=torch.bool)
    gone[torch.cat(rows).argsort(stable=True)[: min(surplus, free)]] = True
    keep = {name: model.mask(name).clone() for name in model.convs}
    for name, layer in zip(ranked, gone.split([len(row) for row in rows]), strict=True):
        keep[name] &= ~layer.to(keep[name].device)
    return follow(model, keep)


def _above_floor(scores: torch.Tensor, live: torch.Tensor, original: int) -> torch.Tensor:
    """The live filters that may go: all but the best ones that the floor keeps."""
    floor = -(-FLOOR_PERCENT * original // 100)
    order = live.nonzero().flatten()[scores[live].argsort(stable=True)]
    above = torch.zeros_like(live)
    above[order[: max(len(order) - floor, 0)]] = True
    return above


def _paper(
    model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int
) -> Keep:
    """What the authors' released code does, quirks included; docs/paper.md has each one with its
    effect."""
    rules = _paper_residual if _residual(model) else _paper_plain
    cut, rows = rules(model, scores, ratio, round, rounds)
    order = torch.cat(list(rows.values())).argsort(stable=True)
    gone = torch.zeros(len(order), dtype=torch.bool)
    gone[order[:cut]] = True
    keep = {}
    for (name, row), layer in zip(
        rows.items(), gone.split([len(row) for row in rows.values()]), strict=True
    ):
        present = (
            model.mask(name).cpu()
            if len(row) < model.plan[name]
            else torch.ones(model.plan[name], dtype=torch.bool)
        )
        if bool(layer.all()):
            layer[row.argsort(stable=True)[-1]] = False
        kept = torch.zeros(model.plan[name], dtype=torch.bool)
        kept[present] = ~layer[: int(present.sum())]
        live = model.mask(name).cpu()
        if not bool(
            (kept & live).any()
        ):  # only masked rows would stay: they score 0, and live filters can be below
            kept[torch.where(live, scores[name], -torch.inf).argmax()] = True
        keep[name] = kept.to(model.mask(name))
    return follow(model, keep)


def _paper_plain(
    model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int
) -> tuple:
    """VGG, MobileNet: depthwise convs are ranked with a copy of their producer's scores; protection
    by index."""
    rows = {}
    for name in model.convs:
        row = scores[_producer(model, name)][model.mask(name).cpu()].clone()
        row[-(int(FLOOR_PERCENT / 100 * model.original[name]) + 1) :] = PAPER_PROTECTED
        rows[name] = row
    return int(_paper_ratio(ratio, round, rounds) * sum(map(len, rows.values()))), rows


def _producer(model: Net, name: str) -> str:
    """The conv whose scores rank a conv: its own, but for a depthwise one's."""
    conv = model.convs[name]
    return model.writers[conv.reads][-1] if conv.depthwise else name


def _paper_residual(
    model: Net, scores: dict[str, torch.Tensor], ratio: float, round: int, rounds: int
) -> tuple:
    """ResNet: all rows of the residual streams count, masked ones with score 0; the kept percentage
    is truncated."""
    shared = _residual(model)
    rows = {}
    for name, conv in model.convs.items():
        live, row = model.mask(name).cpu(), scores[_producer(model, name)]
        if conv.writes in shared:
            absent = torch.zeros(model.original[name] - model.plan[name])
            rows[name] = torch.cat([torch.where(live, row, 0), absent.to(row)])
        else:
            rows[name] = row[live]
        if not (conv.prunable or conv.depthwise):
            rows[name] = torch.full_like(rows[name], PAPER_PROTECTED)
    percent = 100
    for k in range(1, round + 1):
        percent = int(percent * (1 - _paper_ratio(ratio, k, rounds)))
    now = sum(map(len, rows.values()))
    return max(int((1 - percent / 100 * sum(model.original.values()) / now) * now), 0), rows


def _paper_ratio(ratio: float, round: int, rounds: int) -> float:
    """Fraction of what is left that one round removes."""
    return ratio / (round * ratio + rounds * (1 - ratio))


def _residual(model: Net) -> set[str]:
    """Streams that several convs write."""
    return {stream for stream, writers in model.writers.items() if len(writers) > 1}


def follow(model: Net, keep: Keep) -> Keep:
    """`keep`, with each depthwise conv given the channels of its stream that some conv still
    writes."""
    streams = stream_keep(model, {name: layer & model.mask(name) for name, layer in keep.items()})
    return {
        name: streams[conv.reads].clone() if conv.depthwise else keep[name]
        for name, conv in model.convs.items()
    }


def stream_keep(model: Net, live: Keep) -> Keep:
    """Which channels of each stream some conv still writes, of `live` filters: {stream: bool
    [channels]}."""
    return {
        stream: torch.stack([live[name] for name in writers]).any(dim=0)
        for stream, writers in model.writers.items()
    }


def _checked(model: Net, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if set(scores) != set(model.convs):
        wrong = sorted(set(scores) ^ set(model.convs))
        raise UserError(
            f"scores must have one entry per conv; missing or unknown: {', '.join(wrong[:5])}"
        )
    for name, layer in scores.items():
        if layer.shape != (model.plan[name],):
            raise UserError(
                f"scores[{name!r}] must be [{model.plan[name]}], got {list(layer.shape)}"
            )
        live = layer[model.mask(name).to(layer.device)]
        if not bool(live.isfinite().all()):
            raise UserError(
                f"scores[{name!r}] must be finite, got {float(live[~live.isfinite()][0])}"
            )
    return {
        name: torch.where(model.mask(name).cpu(), scores[name].detach().cpu(), 0)
        for name in model.convs
    }
