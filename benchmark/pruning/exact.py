"""The suite's own rules of ranking: one stable ranking, floors, and a budget.

What is ranked are *units*: filters, or with `grouping=stream` the channels of a stream with all
filters that write them. A *layer* is what its units belong to: a conv, or a stream.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction

import torch

from benchmark.cost import Ledger, dense_cost
from benchmark.measures import MEASURES
from benchmark.models import Net
from benchmark.pruning.masks import Keep, follow
from benchmark.schedule import kept_fraction

FLOOR_PERCENT = 5
"""Of a layer's original filters, which each layer keeps at least."""


@dataclass(frozen=True)
class Budget:
    """What a cut has to reach, and by which rules."""

    ratio: float
    round: int
    rounds: int
    kind: str
    """What `ratio` is a share of: filters, params or macs."""
    allocation: str
    grouping: str
    image_size: tuple[int, int] | None


@dataclass(frozen=True)
class Unit:
    """What is removed at once."""

    layer: str
    score: float
    members: tuple[tuple[str, int], ...]
    """(conv, index) of its live filters."""


def select_exactly(model: Net, scores: dict[str, torch.Tensor], budget: Budget) -> Keep:
    """The arguments and the result are those of `benchmark.pruning.select`; scores are on the CPU,
    and 0 for masked filters."""
    cut = _Cut(model, budget)
    units = cut.units(scores)
    if budget.allocation == "uniform":
        left = cut.uniform(units)
    else:
        ranked = units if budget.allocation == "global" else cut.units(_magnitudes(model))
        left = cut.removed(ranked, cut.floors, cut.target)
    cut.warn(left, f"each layer keeps at least {FLOOR_PERCENT} % of its original filters")
    if budget.allocation == "magnitude":
        met, left = cut.left(left) <= cut.target, cut.removed(units, left.layers)
        if met:
            cut.warn(left, "other filters of the same layers cost more than those of magnitude")
    keep = {
        name: torch.tensor(left.live[name], device=mask.device) if name in left.live else mask
        for name, mask in model.masks().items()
    }
    return follow(model, keep)


def _magnitudes(model: Net) -> dict[str, torch.Tensor]:
    weights = {name: model.get_submodule(name).weight.detach().cpu() for name in model.convs}
    function = MEASURES["magnitude"].function
    return {name: function(weight.flatten(1)) for name, weight in weights.items()}


class Removal(Ledger):
    """A ledger that knows how many units each layer has left."""

    def __init__(self, model: Net, units: list[Unit], size: tuple[int, int] | None) -> None:
        super().__init__(model, size)
        self.layers: dict[str, int] = {}
        for unit in units:
            self.layers[unit.layer] = self.layers.get(unit.layer, 0) + 1

    def take(self, unit: Unit) -> None:
        """Remove a unit."""
        self.layers[unit.layer] -= 1
        for conv, index in unit.members:
            self.remove(conv, index)


class _Cut:
    """One cut of a net: its target and its floors."""

    def __init__(self, model: Net, budget: Budget) -> None:
        self.model, self.budget = model, budget
        self.layers = self._members()
        self.convs = [conv for convs in self.layers.values() for conv in convs]
        share = kept_fraction(budget.ratio, budget.round, budget.rounds)
        if budget.kind == "filters":
            self.target = int(share * sum(model.original[name] for name in self.convs) + 0.5)
        else:
            self.target = share * dense_cost(model, budget.image_size)[budget.kind]
        self.floors = {
            layer: max(1, -(-FLOOR_PERCENT * model.original[convs[0]] // 100))
            for layer, convs in self.layers.items()
        }

    def _members(self) -> dict[str, tuple[str, ...]]:
        """{layer: the convs whose filters belong to it}"""
        convs = self.model.convs
        if self.budget.grouping == "filter":
            return {name: (name,) for name, conv in convs.items() if conv.prunable}
        return {
            stream: tuple(writers)
            for stream, writers in self.model.writers.items()
            if any(convs[name].prunable for name in writers)
        }

    def units(self, scores: dict[str, torch.Tensor]) -> list[Unit]:
        """All live units, in the order of layers and channels."""
        units = []
        for layer, convs in self.layers.items():
            channels: dict[int, list[tuple[str, int]]] = {}
            for name in convs:
                places = self.model.places(name).tolist()
                for index in self.model.mask(name).nonzero().flatten().tolist():
                    channels.setdefault(places[index], []).append((name, index))
            values = {name: scores[name].tolist() for name in convs}
            for _, live in sorted(channels.items()):
                mean = sum(values[name][index] for name, index in live) / len(live)
                units.append(Unit(layer, mean, tuple(live)))
        return units

    def left(self, removal: Removal) -> int:
        """What is left under the budget."""
        if self.budget.kind == "filters":
            return sum(removal.counts[name] for name in self.convs)
        return removal.left[self.budget.kind]

    def removed(self, units: list[Unit], least: dict[str, int], target: float = 0) -> Removal:
        """Remove the lowest units, in one ranking over the whole net, until no more than the target
        is left; each layer keeps at least so many."""
        removal = Removal(self.model, units, self.budget.image_size)
        for unit in sorted(units, key=lambda unit: unit.score):
            if self.left(removal) <= target:
                break
            if removal.layers[unit.layer] > least[unit.layer]:
                removal.take(unit)
        return removal

    def uniform(self, units: list[Unit]) -> Removal:
        """The largest share of each layer that meets the target."""
        original = {layer: self.model.original[convs[0]] for layer, convs in self.layers.items()}
        shares = sorted(
            {Fraction(2 * k - 1, 2 * n) for n in set(original.values()) for k in range(1, n + 1)}
        )

        def at(share: Fraction) -> Removal:
            counts = {
                layer: max(self.floors[layer], int(share * n + Fraction(1, 2)))
                for layer, n in original.items()
            }
            return self.removed(units, counts)

        met = bisect_right(shares, self.target, key=lambda share: self.left(at(share)))
        return at(shares[met - 1] if met else Fraction(0))  # or the floors

    def warn(self, removal: Removal, why: str) -> None:
        """Say so if the target is not met, and why."""
        budget, left = self.budget, self.left(removal)
        if left > self.target:
            warnings.warn(
                f"cut {budget.round} of {budget.rounds} keeps {left} {budget.kind} instead of "
                f"{self.target:.10g}: {why}",
                stacklevel=4,
            )
