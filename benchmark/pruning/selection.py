"""Which filters a cut keeps: `select`, which checks its arguments and applies one of two rules."""

from __future__ import annotations

from numbers import Integral, Real

import torch

from benchmark.config import CHOICES, check_rules_of
from benchmark.cost import check_size
from benchmark.errors import UserError, require, require_one_of
from benchmark.models import Net, check_entries, check_net, check_tensor
from benchmark.pruning.exact import Budget, select_exactly
from benchmark.pruning.masks import Keep
from benchmark.pruning.paper import select_as_paper


def select(
    model: Net,
    scores: dict[str, torch.Tensor],
    ratio: float,
    *,
    round: int = 1,
    rounds: int = 1,
    protocol: str = "exact",
    budget: str = "filters",
    allocation: str = "global",
    grouping: str = "filter",
    image_size: tuple[int, int] | None = None,
) -> Keep:
    """The filters that cut number `round` of `rounds` keeps, so that in the end the fraction
    `ratio` is gone.

    model: as it is before this cut. scores: {conv name: [filters]}, the lowest go first.

    - budget: what `ratio` is a share of in the dense net: its prunable `filters` (a whole number,
      met exactly), or all its `params` or `macs` (at images of `image_size`; None: 32 x 32, or that
      of the images that the net was traced with), where filters go one at a time until the compact
      net is at or below the target.
    - allocation: `global` (one ranking), `uniform` (the same share of each layer, the largest that
      meets the target), or `magnitude` (as many of each layer as `magnitude` would keep globally,
      from the weights of `model`).
    - grouping: `filter`, or `stream`: all filters that write one channel of a residual stream go
      together, ranked by the mean of their scores. Each counts in `filters`, the stem's too.

    Each layer keeps its best filters, 5 % of the original ones and at least one. Returns an entry
    for every conv; a depthwise conv's equals its producer's. Raises `UserError` for scores that do
    not fit or are not finite, and warns when a cut cannot meet its target. Source: `exact` is this
    suite's own rule; `paper` follows the code released with Lubana & Dick, ICLR 2021 (see
    docs/paper.md), and takes the defaults of the others alone.
    """
    check_net(model)
    good = isinstance(ratio, Real) and 0 < ratio < 1
    require(good, "ratio", ratio, "between 0 and 1, both excluded")
    require(isinstance(rounds, Integral) and rounds >= 1, "rounds", rounds, "a whole number from 1")
    good = isinstance(round, Integral) and 1 <= round <= rounds
    require(good, "round", round, f"a whole number from 1 to rounds = {rounds}")
    rules = {"budget": budget, "allocation": allocation, "grouping": grouping}
    for name, value in {"protocol": protocol, **rules}.items():
        require_one_of(name, value, CHOICES[name])
    check_rules_of(protocol, rules)
    check_size(image_size)
    scores = _checked(model, scores)
    if protocol == "paper":
        return select_as_paper(model, scores, ratio, round, rounds)
    size = image_size and tuple(image_size)
    target = Budget(ratio, round, rounds, budget, allocation, grouping, size)
    return select_exactly(model, scores, target)


def _checked(model: Net, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The scores on the CPU, 0 for masked filters."""
    check_entries("scores", scores, model.convs)
    checked = {}
    for name, mask in model.masks().items():
        check_tensor(f"scores[{name!r}]", scores[name], mask.shape)
        checked[name] = torch.where(mask.cpu(), scores[name].detach().cpu(), 0)
        wrong = checked[name][~checked[name].isfinite()]
        if len(wrong):
            raise UserError(f"scores[{name!r}] must be finite, got {float(wrong[0])}")
    return checked
