"""The paper's claims: each states its sentence, statistic and rule, and only then sees numbers.

A claim is one decorated function: it names the pairs of runs that decide (and those that say more), nothing else. The
verdict follows from the interval alone. Source of the claims: Lubana & Dick, ICLR 2021 (arXiv 2009.11839).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import stats
from analysis.frame import Pairs, outcomes, pair
from analysis.sources import Frames

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"

MAGNITUDE = ("magnitude", "l1", "bn_scale")
"""Measures that keep what is large."""
AGNOSTIC = ("loss", "taylor", "fisher", "fisher_bn", "grasp", "grad_preservation")
"""Importance measures without a bias to magnitude: orders 1 and 2, the biased ones and the controls left out."""


@dataclass(frozen=True)
class Evidence:
    """What a claim looks at."""

    decides: Pairs
    details: dict[str, tuple[Pairs, str]]
    """{text: (pairs, unit)}: numbers that are reported beside the deciding one."""


@dataclass(frozen=True)
class Claim:
    """A claim, before any number."""

    id: str
    sentence: str
    statistic: str
    rule: str
    unit: str
    sign: int
    """The sign (+1 or -1) that the difference has if the claim is true."""
    figures: tuple[str, ...]
    """Names of the figures that show it."""
    evidence: Callable[[pd.DataFrame], Evidence]


@dataclass(frozen=True)
class Number:
    """A difference with its 95 % interval."""

    label: str
    unit: str
    effect: float | None
    """Mean over settings of the mean over seeds; None without a pair."""
    interval: stats.Interval | None
    """None if a setting has fewer than two seeds."""
    n: int
    """Pairs of runs."""
    size: float | None = None
    """The effect in standard deviations between seeds."""
    probability: float | None = None
    """Share of pairs whose difference has the claimed sign."""
    probability_interval: stats.Interval | None = None


@dataclass(frozen=True)
class Part:
    """A claim for one architecture and data set."""

    arch: str
    dataset: str
    verdict: str
    number: Number


@dataclass(frozen=True)
class Judgement:
    """A claim, decided."""

    claim: Claim
    verdict: str
    number: Number
    parts: list[Part]
    settings: list[Number]
    """The deciding difference in each setting alone."""
    details: list[Number]
    message: str
    """How much it rests on, and what is missing."""

    def to_dict(self) -> dict:
        """The entry in claims.json; numbers that do not exist are null."""
        claim = self.claim
        return {
            "id": claim.id,
            "sentence": claim.sentence,
            "statistic": claim.statistic,
            "rule": claim.rule,
            "verdict": self.verdict,
            **_number_dict(self.number),
            "message": self.message,
            "parts": [
                {"arch": part.arch, "dataset": part.dataset, "verdict": part.verdict, **_number_dict(part.number)}
                for part in self.parts
            ],
            "settings": [_labelled(number) for number in self.settings],
            "details": [_labelled(number) for number in self.details],
        }


CLAIMS: dict[str, Claim] = {}


def claim(
    id: str, *, sentence: str, statistic: str, rule: str, unit: str, sign: int, figures: tuple[str, ...]
) -> Callable[[Callable[[pd.DataFrame], Evidence]], Claim]:
    """Declare a claim: the function takes the table of `frame.outcomes` and says which pairs of runs decide."""

    def declare(function: Callable[[pd.DataFrame], Evidence]) -> Claim:
        CLAIMS[id] = Claim(id, sentence, statistic, rule, unit, sign, figures, function)
        return CLAIMS[id]

    return declare


@claim(
    "C1",
    sentence="Keeping large-magnitude filters gives a pruned model whose loss falls faster than with "
    "magnitude-agnostic measures.",
    statistic="Training loss after the last cut, averaged over the epochs that remain (the area under the curve per "
    "epoch): mean over the magnitude-based measures minus mean over the magnitude-agnostic ones, paired by setting "
    "and seed.",
    rule="Supported if the whole 95 % interval of the difference lies below 0, refuted if it lies above 0, else "
    "inconclusive.",
    unit="nats",
    sign=-1,
    figures=("loss_after_cut", "convergence"),
)
def faster_loss(table: pd.DataFrame) -> Evidence:
    """C1, and the same difference against each agnostic measure and each control alone."""
    decides = pair(table, "loss_after_cut", MAGNITUDE, AGNOSTIC)
    others = [name for name in (*AGNOSTIC, "random", "random_layerwise") if (table["measure"] == name).any()]
    single = {name: pair(table, "loss_after_cut", MAGNITUDE, [name]) for name in others}
    details = {f"training loss, magnitude-based minus {name}": (pairs, "nats") for name, pairs in single.items()}
    return Evidence(decides, details)


@claim(
    "C5",
    sentence="Preserving the gradient norm keeps second-order dynamics and gives better models than increasing it.",
    statistic="Test accuracy after the last epoch: grad_preservation minus grasp, paired by setting and seed. Beside "
    "it: what the cut does to |g| and to d²|θ|²/dt².",
    rule="Decided on accuracy: supported if the whole 95 % interval of the difference lies above 0, refuted if it lies "
    "below 0, else inconclusive.",
    unit="accuracy",
    sign=+1,
    figures=("final_accuracy", "gradient_change"),
)
def preserved_gradient(table: pd.DataFrame) -> Evidence:
    """C5, and whether grad_preservation really changes |g| and the second-order dynamics less, grasp raising |g|."""
    kept, raised = ["grad_preservation"], ["grasp"]
    return Evidence(
        pair(table, "final_accuracy", kept, raised),
        {
            "change of log10 |g| at a cut, grad_preservation minus grasp": (
                pair(table, "grad_norm_change", kept, raised), "decades"),
            "absolute change of log10 |g| at a cut, grad_preservation minus grasp": (
                pair(table, "grad_norm_shift", kept, raised), "decades"),
            "absolute change of d²|θ|²/dt² at a cut, grad_preservation minus grasp": (
                pair(table, "second_order_shift", kept, raised), "nats"),
            "training loss after the cut, grad_preservation minus grasp": (
                pair(table, "loss_after_cut", kept, raised), "nats"),
        },
    )  # fmt: skip


def judge_all(frames: Frames, seed: int = 0) -> list[Judgement]:
    """Decide every claim on the finished runs. The same frames and seed give the same numbers."""
    table = outcomes(frames)
    return [judge(claim, table, seed) for claim in CLAIMS.values()]


def judge(claim: Claim, table: pd.DataFrame, seed: int = 0) -> Judgement:
    """Decide one claim on the table of `frame.outcomes`."""
    evidence = claim.evidence(table)
    pairs = evidence.decides
    number = measured("all settings", claim.unit, pairs, seed, claim.sign)
    groups = [measured(group, claim.unit, pairs.of(group), seed, claim.sign) for group in pairs.groups()]
    settings = [measured(task, claim.unit, part, seed, claim.sign) for task, part in pairs.by_task().items()]
    details = [measured(label, unit, detail, seed) for label, (detail, unit) in evidence.details.items()]
    return Judgement(
        claim,
        decide(number.interval, claim.sign),
        number,
        [Part(*part.label.split(" on ", 1), decide(part.interval, claim.sign), part) for part in groups],
        settings,
        [detail for detail in details if detail.n],
        basis(pairs, number),
    )


def decide(interval: stats.Interval | None, sign: int) -> str:
    """The verdict: supported (refuted) if the whole interval has the claimed (the other) sign."""
    if interval is None or not np.isfinite(interval).all():
        return INCONCLUSIVE
    low, high = sorted(sign * bound for bound in interval)
    return SUPPORTED if low > 0 else REFUTED if high < 0 else INCONCLUSIVE


def measured(label: str, unit: str, pairs: Pairs, seed: int = 0, sign: int | None = None) -> Number:
    """The number that these pairs give, with the probability of `sign` where one is claimed."""
    differences = pairs.differences()
    if not differences:
        return Number(label, unit, None, None, 0)
    size, rng = stats.effect_size(differences), np.random.default_rng(seed)
    chance = stats.win_probability(np.concatenate(differences), sign) if sign else (None, None)
    return Number(
        label, unit, stats.stratified_mean(differences), stats.paired_interval(differences, rng),
        sum(map(len, differences)), size if np.isfinite(size) else None, *chance,
    )  # fmt: skip


def basis(pairs: Pairs, number: Number) -> str:
    """On what a verdict rests, and what is missing."""
    seeds = pairs.table.groupby("task").size()
    parts = []
    if number.n:
        span = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
        parts.append(
            f"{_count(number.n, 'complete pair')} in {_count(len(seeds), 'setting')}, "
            f"{span} {'seed' if span == '1' else 'seeds'} each: "
            f"{' + '.join(pairs.left)} against {' + '.join(pairs.right)}"
        )
        if number.interval is None:
            parts.append("no interval, because one seed has no spread; at least two seeds per setting are needed")
    else:
        parts.append("no complete pair")
    parts += pairs.notes
    if len(pairs.dropped):
        counts = pairs.dropped["reason"].value_counts()
        reasons = "; ".join(f"{reason} ({count})" for reason, count in counts.head(4).items())
        more = f"; and {len(counts) - 4} other reasons" if len(counts) > 4 else ""
        parts.append(f"{_count(len(pairs.dropped), 'pair')} dropped: {reasons}{more}")
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number_dict(number: Number) -> dict:
    return {
        "unit": number.unit,
        "effect": number.effect,
        "interval": list(number.interval or (None, None)),
        "n": number.n,
        "effect_size": number.size,
        "probability": number.probability,
        "probability_interval": list(number.probability_interval or (None, None)),
    }


def _labelled(number: Number) -> dict:
    return {"label": number.label, **_number_dict(number)}
