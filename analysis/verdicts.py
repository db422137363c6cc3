"""How a claim is decided: conditions on runs, a number with its interval for each, and the verdict
that follows.

A *criterion* is one number that the claim says has a sign: a paired difference of runs, or a number
that each run has by itself. A claim with several is a conjunction (an intersection-union test):
supported if all hold, refuted if any fails. Every verdict follows from intervals alone; a p-value
is the interval, read the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import stats
from analysis.pairs import Pairs

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
ALPHA = 1 - stats.LEVEL
ROUNDING = 1e-12
"""Means of differences that cancel but for rounding are no larger."""
RHO = "\N{GREEK SMALL LETTER RHO}"
"""Unit of rank correlations, which are at most 1."""


@dataclass(frozen=True)
class Criterion:
    """One condition of a claim."""

    label: str
    unit: str
    sign: int
    """The sign (+1 or -1) that the number has if the claim is true."""
    pairs: Pairs


@dataclass(frozen=True)
class Evidence:
    """The numbers that decide a claim, and those reported beside them."""

    decides: tuple[Criterion, ...]
    """The claim says that all of them hold."""
    details: dict[str, tuple[Pairs, str]]
    """{text: (pairs, unit)}: numbers that are reported beside the deciding ones."""


@dataclass(frozen=True)
class Claim:
    """A claim, before any number."""

    id: str
    sentence: str
    statistic: str
    rule: str
    figures: tuple[str, ...]
    """Names of the figures that show it."""
    evidence: Callable[[pd.DataFrame], Evidence]


@dataclass(frozen=True)
class Number:
    """A number with its 95 % interval."""

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
    sign: int | None = None
    """The claimed sign, where one is claimed."""
    p: float | None = None
    """Two-sided p-value of the effect being 0: below 5 % if and only if the interval leaves 0
    out."""
    probability: float | None = None
    """Share of pairs whose difference has the claimed sign."""
    probability_interval: stats.Interval | None = None

    @property
    def differs(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.interval is not None and (min(self.interval) > 0 or max(self.interval) < 0)

    def toward(self) -> float:
        """The p-value, if the effect has the claimed sign; else 1."""
        return self.p if self.p is not None and self.effect * self.sign > 0 else 1.0

    def against(self) -> float:
        """The p-value, if the effect has the other sign; else 1."""
        return self.p if self.p is not None and self.effect * self.sign < 0 else 1.0


@dataclass(frozen=True)
class Conclusion:
    """The verdict that follows from the numbers of a claim's criteria."""

    verdict: str
    p: float | None
    """p-value of the verdict's side; None where no criterion has one."""
    number: Number
    """The number that decides: the one furthest from the claim."""


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
    """The number that decides, over all settings."""
    criteria: list[Number]
    """The numbers of all criteria, over all settings."""
    parts: list[Part]
    settings: list[Number]
    """The deciding numbers in each setting alone."""
    details: list[Number]
    message: str
    """The runs behind the verdict, and what is missing."""
    p: float | None
    p_holm: float | None = None
    """`p`, adjusted for the number of claims that could be decided (Holm)."""
    verdict_holm: str = INCONCLUSIVE
    """The verdict after that adjustment."""

    def by_criterion(self) -> list[tuple[str, Number]]:
        """What each criterion alone would decide, and its number."""
        return [(conclude([number]).verdict, number) for number in self.criteria]

    def to_dict(self) -> dict:
        """The entry in claims.json; numbers that do not exist are null."""
        claim = self.claim
        return {
            "id": claim.id,
            "sentence": claim.sentence,
            "statistic": claim.statistic,
            "rule": claim.rule,
            "verdict": self.verdict,
            **_labelled(self.number),
            "holm": {"p": self.p, "adjusted_p": self.p_holm, "verdict": self.verdict_holm},
            "message": self.message,
            "criteria": [
                {"verdict": verdict, "sign": number.sign, **_labelled(number)}
                for verdict, number in self.by_criterion()
            ],
            "parts": [
                {
                    "arch": part.arch,
                    "dataset": part.dataset,
                    "verdict": part.verdict,
                    **_labelled(part.number),
                }
                for part in self.parts
            ],
            "settings": [_labelled(number) for number in self.settings],
            "details": [_labelled(number) for number in self.details],
        }


def judge(claim: Claim, table: pd.DataFrame, seed: int = 0) -> Judgement:
    """Decide one claim on the table of `outcomes.outcomes`."""
    evidence = claim.evidence(table)
    criteria = evidence.decides

    def number(one: Criterion, pairs: Pairs, label: str) -> Number:
        return measured(label, one.unit, pairs, seed, one.sign)

    numbers = [number(one, one.pairs, one.label) for one in criteria]
    groups = sorted({group for one in criteria for group in one.pairs.groups()})
    parts = []
    for group in groups:
        conclusion = conclude([number(one, one.pairs.of(group), one.label) for one in criteria])
        parts.append(Part(*group.split(" on ", 1), conclusion.verdict, conclusion.number))
    settings = [
        number(one, pairs, task if len(criteria) == 1 else f"{task}: {one.label}")
        for one in criteria
        for task, pairs in one.pairs.by_task().items()
    ]
    details = [
        measured(label, unit, detail, seed) for label, (detail, unit) in evidence.details.items()
    ]
    whole = conclude(numbers)
    texts = [basis(one.pairs, number) for one, number in zip(criteria, numbers, strict=True)]
    if len(criteria) > 1:
        texts = [f"({one.label}) {text}" for one, text in zip(criteria, texts, strict=True)]
    return Judgement(
        claim,
        whole.verdict,
        whole.number,
        numbers,
        parts,
        settings,
        [detail for detail in details if detail.n],
        " ".join(texts),
        whole.p,
        whole.p,
        whole.verdict,
    )


def conclude(numbers: Sequence[Number]) -> Conclusion:
    """Supported if all numbers have the claimed sign at 95 %; refuted if any has the other, at 95 %
    shared by all."""
    support = max(number.toward() for number in numbers)
    refutation = min(1.0, len(numbers) * min(number.against() for number in numbers))
    verdict = SUPPORTED if support < ALPHA else REFUTED if refutation < ALPHA else INCONCLUSIVE
    worst = min(numbers, key=lambda number: (number.against(), -number.toward()))
    if verdict == INCONCLUSIVE and any(number.p is None for number in numbers):
        worst = next(number for number in numbers if number.p is None)
    known = any(number.p is not None for number in numbers)
    return Conclusion(verdict, min(support, refutation) if known else None, worst)


def corrected(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The judgements with their p-values and verdicts adjusted for the number of claims that have a
    p-value (Holm)."""
    known = [item.p for item in judgements if item.p is not None]
    adjusted = iter(stats.holm(known))
    result = []
    for item in judgements:
        p = None if item.p is None else next(adjusted)
        verdict = item.verdict if p is not None and p < ALPHA else INCONCLUSIVE
        result.append(replace(item, p_holm=p, verdict_holm=verdict))
    return result


def measured(label: str, unit: str, pairs: Pairs, seed: int = 0, sign: int | None = None) -> Number:
    """The number that these pairs give, with the probability of `sign` where one is claimed."""
    differences = pairs.differences()
    if not differences:
        return Number(label, unit, None, None, 0, sign=sign)
    size, rng = stats.effect_size(differences), np.random.default_rng(seed)
    chance = stats.win_probability(np.concatenate(differences), sign) if sign else (None, None)
    interval, p = stats.paired_test(differences, rng) or (None, None)
    if interval and unit == RHO:  # at most 1, and the difference of two at most 2
        most = 2 if pairs.right else 1
        interval = tuple(np.clip(interval, -most, most).tolist())
    effect = stats.stratified_mean(differences)
    effect = 0.0 if abs(effect) < ROUNDING else effect
    return Number(
        label,
        unit,
        effect,
        interval,
        sum(map(len, differences)),
        size if np.isfinite(size) else None,
        sign,
        p,
        *chance,
    )


def basis(pairs: Pairs, number: Number) -> str:
    """The runs behind a verdict, and what is missing, in words."""
    seeds = pairs.table.groupby("task").size()
    parts = []
    if number.n:
        span = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
        against = f" against {' + '.join(pairs.right)}" if pairs.right else ""
        parts.append(
            f"{_count(number.n, 'complete pair' if pairs.right else 'run')} in "
            f"{_count(len(seeds), 'setting')}, {span} {'seed' if span == '1' else 'seeds'} "
            f"each: {' + '.join(pairs.left)}{against}"
        )
        if number.interval is None:
            parts.append(
                "no interval, because one seed has no spread; at least two seeds per "
                "setting are needed"
            )
    else:
        parts.append("no complete pair" if pairs.right else "no run")
    parts += pairs.notes
    if len(pairs.dropped):
        counts = pairs.dropped["reason"].value_counts()
        reasons = "; ".join(f"{reason} ({count})" for reason, count in counts.head(4).items())
        more = f"; and {len(counts) - 4} other reasons" if len(counts) > 4 else ""
        parts.append(f"{_count(len(pairs.dropped), 'pair')} dropped: {reasons}{more}")
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _labelled(number: Number) -> dict:
    return {
        "label": number.label,
        "unit": number.unit,
        "effect": number.effect,
        "interval": list(number.interval or (None, None)),
        "n": number.n,
        "p": number.p,
        "effect_size": number.size,
        "probability": number.probability,
        "probability_interval": list(number.probability_interval or (None, None)),
    }
