"""Many simulated worlds at once, as the tables that claims are decided on; `python -m
tests.support.worlds` prints how often each claim is decided in them.

A world is a small study: two architectures, a few seeds. All worlds of a kind share one table, each
with seeds of its own, so that two thousand of them take seconds.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.claims import CLAIMS
from analysis.settings import name_settings
from analysis.verdicts import Claim, Criterion, Tables, conclude, estimated
from benchmark.config import DEFAULTS

CHANCE = np.log(10)
ARCHS = ("vgg13", "mobilenet_v1")
RUNS = ("magnitude", "loss", "grasp", "grasp_t1", "grad_preservation", "random")
PROBES = (*RUNS, "loss_biased")
EPOCHS, PROBED, SHARES = 10, (1, 8), (0.05, 0.2)
COST = dict(zip(RUNS, (0.2, -0.1, 0.3, 0.0, -0.3, 0.1), strict=True))
"""How far the loss of nets with equally many filters is off, because their cost differs."""


@dataclass(frozen=True)
class Kind:
    """How the numbers of a kind of world come about. Effects are {measure: shift}; noise is
    independent between measures."""

    loss: Mapping[str, float] = field(default_factory=dict)
    """Of the training loss after the cut, at equal MACs (nats)."""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    change: Mapping[str, float] = field(default_factory=dict)
    """Of the change of the loss at a cut (nats)."""
    shift: Mapping[str, float] = field(default_factory=dict)
    """Of the sizes of the changes of both time-derivatives (nats)."""
    rho: float = 0.0
    """The mean rank correlation of theta.Hg and theta.g."""
    noise: float = 0.1
    """Standard deviation of every number."""
    shared: float = 0.0
    """Correlation of a seed's noise across settings."""
    cost: bool = False
    """Whether nets of equal filters differ in their cost, and so in their loss and accuracy."""
    at_chance: bool = False
    """Whether nets are at chance: probes change nothing but by heavy-tailed noise, and of ten nets
    that are trained after a cut one recovers."""
    loss_before: float = 1.0
    """Loss of the nets that are probed (nats)."""


NULL = {
    "noise": Kind(),
    "cost differs": Kind(cost=True),
    "seeds shared by settings": Kind(shared=0.15),
    "nets at chance": Kind(at_chance=True, loss_before=float(CHANCE)),
}
"""Worlds in which no claim is true, and none is false: measures differ by chance alone."""


def planted(sign: float) -> dict[str, Kind]:
    """For each claim a world in which it is true (+1) or the opposite of it is (-1)."""
    return {
        "C1": Kind(loss={"magnitude": -0.3 * sign}),
        "C2": Kind(change={"loss": -0.3 * sign}, shift={"loss": -0.3 * sign}),
        "C3": Kind(
            change={"random": 0.5, "loss_biased": 0.5 - 0.5 * sign, "magnitude": 0.5 - 0.5 * sign}
        ),
        "C4": Kind(change={"grasp_t1": 0.3 * sign}, rho=0.3 * sign),
        "C5": Kind(accuracy={"grad_preservation": 0.3 * sign}),
    }


def tables(kind: Kind, seeds: int, rng: np.random.Generator) -> Tables:
    """The tables of runs with so many seeds."""
    return Tables(_runs(kind, seeds, rng), _probes(kind, seeds, rng), _ranks(kind, seeds, rng))


def verdicts(claim: Claim, kind: Kind, worlds: int, seeds: int, *, seed: int = 0) -> Counter:
    """How often a claim has each verdict, in so many worlds of so many seeds."""
    rng = np.random.default_rng([seed, *claim.id.encode()])
    evidence = claim.evidence(tables(kind, worlds * seeds, rng))
    primary, checks = (
        [_by_world(one, worlds, seeds) for one in part]
        for part in (evidence.primary, evidence.checks)
    )
    found: Counter = Counter()
    for world in range(worlds):
        numbers = (
            [estimated(one, values[world]) for one, values in part] for part in (primary, checks)
        )
        found[conclude(*numbers).verdict] += 1
    return found


def _by_world(one: Criterion, worlds: int, seeds: int) -> tuple[Criterion, np.ndarray]:
    """A criterion, and its differences [worlds, settings, seeds]."""
    table = one.pairs.table.pivot(index="task", columns="seed", values="difference")
    values = table.reindex(columns=range(worlds * seeds)).to_numpy()
    return one, values.reshape(len(table), worlds, seeds).swapaxes(0, 1)


def _noise(kind: Kind, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Noise [settings, measures, seeds]."""
    if kind.at_chance:
        return 0.01 * kind.noise * rng.standard_t(3, shape)
    common = rng.normal(size=(1, *shape[1:])) * np.sqrt(kind.shared)
    return kind.noise * (common + rng.normal(size=shape) * np.sqrt(1 - kind.shared))


def _columns(names: tuple[str, ...], seeds: int, **fields: object) -> pd.DataFrame:
    """A row per architecture, measure and seed, in the order of `_noise`."""
    index = pd.MultiIndex.from_product([ARCHS, names, range(seeds)])
    table = index.to_frame(index=False, name=["arch", "measure", "seed"])
    return table.assign(outcome="finished", ablation="none", **fields)


def _shifts(table: pd.DataFrame, effects: Mapping[str, float]) -> np.ndarray:
    return table["measure"].map(effects).fillna(0.0).to_numpy()


def _runs(kind: Kind, seeds: int, rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for budget in ("macs", "filters"):
        names = (*RUNS, "layerwise")
        table = _columns(names, seeds, **{
            name: DEFAULTS[name]
            for name in DEFAULTS
            if name not in ("measure", "arch", "seed", "budget", "prune_epoch", "ablation")
        }, budget=budget, prune_epoch=1)  # fmt: skip
        shape = (len(ARCHS), len(names), seeds)
        cost = _shifts(table, COST) * (kind.cost and budget == "filters")
        columns = {
            "loss_after_cut": 0.5 + _shifts(table, kind.loss) + cost,
            "final_accuracy": 0.5 + _shifts(table, kind.accuracy) - cost,
            "epochs_to_threshold": np.full(len(table), 3.0),
            "reached": np.ones(len(table)),
            "fall": np.ones(len(table)),
        }
        noisy = {name: x + _noise(kind, shape, rng).ravel() for name, x in columns.items()}
        if kind.at_chance:
            recovers = rng.random(len(table)) < 0.1
            noisy["loss_after_cut"] += np.where(recovers, 0.0, CHANCE - 0.5)
            noisy["final_accuracy"] -= np.where(recovers, 0.0, 0.4)
        layerwise = table["measure"] == "layerwise"
        parts.append(
            table.assign(
                measure=table["measure"].mask(layerwise, "random"),
                allocation=np.where(layerwise, "magnitude", "global"),
                **noisy,
            )
        )
    return pd.concat(parts, ignore_index=True)


def _dense(names: tuple[str, ...], seeds: int) -> pd.DataFrame:
    """Rows of probing runs, with the names of their settings."""
    table = _columns(names, seeds, dataset=DEFAULTS["dataset"])
    fields = {name: DEFAULTS[name] for name in DEFAULTS if name not in table}
    named = name_settings(table.assign(**fields | {"epochs": EPOCHS}))
    run_id = named["arch"] + "-s" + named["seed"].astype(str)
    return named[["group", "task", "seed", "measure", "outcome", "ablation", "epochs"]].assign(
        task=named["group"], run_id=run_id
    )


def _probes(kind: Kind, seeds: int, rng: np.random.Generator) -> pd.DataFrame:
    table, shape = _dense(PROBES, seeds), (len(ARCHS), len(PROBES), seeds)
    change, shift = _shifts(table, kind.change), _shifts(table, kind.shift)
    parts = []
    for epoch in PROBED:
        for share in SHARES:
            names = ("loss_change", "first_order_shift", "second_order_shift")
            noise = {name: _noise(kind, shape, rng).ravel() for name in names}
            changes = (0.2 + change + noise["loss_change"]).clip(-2 * CHANCE, 2 * CHANCE)
            parts.append(
                table.assign(
                    epoch=epoch,
                    share=share,
                    loss_change=changes,
                    allowed=changes + 0.1 * (CHANCE - kind.loss_before),
                    first_order_shift=1 + shift + noise["first_order_shift"],
                    second_order_shift=1 + shift + noise["second_order_shift"],
                    grad_norm_sq_change=0.0,
                    predicted_grad_norm_sq_change=0.0,
                )
            )
    return pd.concat(parts, ignore_index=True)


def _ranks(kind: Kind, seeds: int, rng: np.random.Generator) -> pd.DataFrame:
    names = ("theta_g|theta_hg", "loss|loss_biased", "loss|magnitude")
    table, shape = _dense(names, seeds), (len(ARCHS), len(names), seeds)
    return pd.concat(
        [
            table.assign(epoch=epoch, rho=kind.rho + _noise(kind, shape, rng).ravel())
            for epoch in PROBED
        ],
        ignore_index=True,
    )


def main(worlds: int, seeds: int) -> None:
    """Print the verdicts of each claim in each kind of world."""
    true, false = planted(+1), planted(-1)
    for id, claim in CLAIMS.items():
        kinds = NULL | {"it is true": true[id], "its opposite is true": false[id]}
        for name, kind in kinds.items():
            counts = verdicts(claim, kind, worlds, seeds)
            text = ", ".join(f"{verdict} {n / worlds:.1%}" for verdict, n in counts.most_common())
            print(f"{id}, {name}: {text}")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:] or (2000, 5)))
