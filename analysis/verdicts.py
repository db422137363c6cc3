"""How a claim is decided: conditions on runs, a number with its interval for each, and the verdict
that follows.

A *criterion* is one number that the claim says has a sign: a paired difference of runs, or a number
that each run has by itself. A claim is *supported* if the intervals of all its primary numbers lie
on the claimed side and that of no check lies on the other side; *refuted* if the interval of a
primary number lies on the other side; *not tested* without any pair of runs; else *inconclusive*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import stats
from analysis.pairs import SEEDS, Pairs

SUPPORTED, REFUTED, INCONCLUSIVE = "supported", "refuted", "inconclusive"
NOT_TESTED = "not tested"
ALPHA = 1 - stats.LEVEL
ROUNDING = 1e-12
"""Means of differences that cancel but for rounding are no larger."""
RHO = "\N{GREEK SMALL LETTER RHO}"
"""Unit of rank correlations, which are at most 1."""


@dataclass(frozen=True)
class Criterion:
    """A number that a claim says has a sign, or one that is reported beside it."""

    label: str
    unit: str
    pairs: Pairs
    sign: int | None = None
    """The sign (+1 or -1) that the number has if the claim is true; None beside it."""


@dataclass(frozen=True)
class Evidence:
    """The numbers of a claim."""

    primary: tuple[Criterion, ...]
    """They decide."""
    checks: tuple[Criterion, ...] = ()
    """They can only make a supported claim inconclusive."""
    beside: tuple[Criterion, ...] = ()
    """They decide nothing."""


@dataclass(frozen=True)
class Tables:
    """What claims are decided on."""

    runs: pd.DataFrame
    """A row per finished run, as of `outcomes.outcomes`."""
    probes: pd.DataFrame
    """A row per run, epoch, measure and share, as of `probed.probed`."""
    ranks: pd.DataFrame
    """A row per run, epoch and pair of scores, as of `probed.ranked`."""


@dataclass(frozen=True)
class Claim:
    """A claim, before any number."""

    id: str
    sentence: str
    plain: str
    """What it says, for somebody who has not read the paper."""
    statistic: str
    rule: str
    needs: str
    """The runs that it takes."""
    figures: tuple[str, ...]
    """Names of the figures that show it."""
    evidence: Callable[[Tables], Evidence]


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
    seeds: int = 0
    """The fewest seeds of a setting."""
    sign: int | None = None
    """The claimed sign, where one is claimed."""
    p: float | None = None
    """Two-sided p-value of the effect being 0: below 5 % if and only if the interval leaves 0
    out."""
    size: float | None = None
    """The effect in standard deviations between seeds."""
    power: float | None = None
    """Chance that a study with this spread and so many seeds detects an effect as large as this
    one: its interval leaves 0 out. None with too few seeds for a verdict."""
    smallest: float | None = None
    """Smallest detectable effect: the one that it detects with a power of 80 %."""
    probability: float | None = None
    """Share of pairs whose difference has the claimed sign."""
    probability_interval: stats.Interval | None = None
    signed_rank_p: float | None = None
    """p-value of Wilcoxon's signed-rank test, stratified by setting."""
    seed_correlation: float | None = None
    """Correlation of a seed's differences across settings."""
    spread: float | None = None
    """Standard deviation between settings."""

    @property
    def differs(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.interval is not None and (min(self.interval) > 0 or max(self.interval) < 0)

    @property
    def side(self) -> int:
        """+1 if the whole interval of enough seeds lies on the claimed side, -1 if on the other,
        else 0."""
        if not self.differs or self.seeds < SEEDS:
            return 0
        return 1 if self.effect * self.sign > 0 else -1

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
    number: Number
    """The number that decides: the primary number furthest from the claim, or the check that
    contradicts."""
    p: float | None
    """p-value of the verdict's side; None where no primary number has one."""


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
    primary: list[Number]
    checks: list[Number]
    """The numbers of the criteria, over all settings."""
    beside: list[Number]
    parts: list[Part]
    settings: list[Number]
    """The numbers of the criteria in each setting alone."""
    blocks: list[Number]
    """Those of settings with the same seeds, where settings differ in their seeds."""
    message: str
    """The runs behind the verdict, and what is missing."""
    p: float | None
    p_holm: float | None = None
    """`p`, adjusted for the number of claims that could be decided (Holm)."""
    verdict_holm: str = INCONCLUSIVE
    """The verdict after that adjustment."""

    def to_dict(self) -> dict:
        """The entry in claims.json; numbers that do not exist are null."""
        claim = self.claim
        return {
            "id": claim.id,
            "sentence": claim.sentence,
            "plain": claim.plain,
            "statistic": claim.statistic,
            "rule": claim.rule,
            "verdict": self.verdict,
            **_labelled(self.number),
            "holm": {"p": self.p, "adjusted_p": self.p_holm, "verdict": self.verdict_holm},
            "message": self.message,
            **{
                name: [_labelled(number) for number in getattr(self, name)]
                for name in ("primary", "checks", "beside", "settings", "blocks")
            },
            "parts": [
                {
                    "arch": part.arch,
                    "dataset": part.dataset,
                    "verdict": part.verdict,
                    **_labelled(part.number),
                }
                for part in self.parts
            ],
        }


def judge(claim: Claim, tables: Tables) -> Judgement:
    """Decide one claim."""
    evidence = claim.evidence(tables)
    criteria = (*evidence.primary, *evidence.checks)
    primary, checks, beside = (
        list(map(measured, part)) for part in (evidence.primary, evidence.checks, evidence.beside)
    )
    whole = conclude(primary, checks)
    settings, blocks = [], []
    for one in criteria:
        settings += _parts(one, one.pairs.by_task())
        together = {_seeds_text(block): block for block in one.pairs.blocks()}
        blocks += _parts(one, together) if len(together) > 1 else []
    return Judgement(
        claim,
        whole.verdict,
        whole.number,
        primary,
        checks,
        [number for number in beside if number.n],
        _by_group(evidence),
        settings,
        blocks,
        _message(claim, criteria, [*primary, *checks]),
        whole.p,
        whole.p,
        whole.verdict,
    )


def _parts(one: Criterion, parts: dict[str, Pairs]) -> list[Number]:
    """The number of a criterion in each of several parts of its pairs."""
    return [
        measured(replace(one, label=f"{name}: {one.label}", pairs=pairs))
        for name, pairs in parts.items()
    ]


def _by_group(evidence: Evidence) -> list[Part]:
    """The claim in each architecture and data set alone."""
    groups = {group for one in evidence.primary for group in one.pairs.groups()}
    parts = []
    for group in sorted(groups):
        primary, checks = (
            [measured(replace(one, pairs=one.pairs.of(group))) for one in criteria]
            for criteria in (evidence.primary, evidence.checks)
        )
        conclusion = conclude(primary, checks)
        parts.append(Part(*group.split(" on ", 1), conclusion.verdict, conclusion.number))
    return parts


def conclude(primary: Sequence[Number], checks: Sequence[Number] = ()) -> Conclusion:
    """The verdict that the intervals of a claim's numbers give; the module says how."""
    furthest = min(primary, key=lambda number: (number.against(), -number.toward()))
    missing = [number for number in primary if number.p is None]
    refuting = [number for number in primary if number.side < 0]
    contrary = [n for n in checks if n.differs and n.effect * n.sign < 0]
    if refuting:
        furthest = min(refuting, key=Number.against)
    support = max(number.toward() for number in primary)
    p = min(support, furthest.against()) if len(missing) < len(primary) else None
    if not any(number.n for number in primary):
        return Conclusion(NOT_TESTED, furthest, None)
    if refuting:
        return Conclusion(REFUTED, furthest, p)
    if not all(number.side > 0 for number in primary):
        return Conclusion(INCONCLUSIVE, missing[0] if missing else furthest, p)
    if contrary:
        return Conclusion(INCONCLUSIVE, contrary[0], p)
    return Conclusion(SUPPORTED, furthest, p)


def corrected(judgements: Sequence[Judgement]) -> list[Judgement]:
    """The judgements with their p-values and verdicts adjusted for the number of claims that have a
    p-value (Holm)."""
    known = [item.p for item in judgements if item.p is not None]
    adjusted = iter(stats.holm(known))
    result = []
    for item in judgements:
        p = None if item.p is None else next(adjusted)
        decided = item.verdict in (SUPPORTED, REFUTED)
        verdict = INCONCLUSIVE if decided and p >= ALPHA else item.verdict
        result.append(replace(item, p_holm=p, verdict_holm=verdict))
    return result


def measured(one: Criterion) -> Number:
    """The number that the pairs of a criterion give."""
    if one.pairs.table.empty:
        return Number(one.label, one.unit, None, None, 0, sign=one.sign)
    differences, rng = one.pairs.differences(), np.random.default_rng(0)
    number = estimated(one, differences)
    chance = stats.win_probability(differences, one.sign) if one.sign else (None, None)
    return replace(
        number,
        size=_known(stats.effect_size(differences)),
        probability=chance[0],
        probability_interval=chance[1],
        signed_rank_p=stats.signed_rank_p(differences, rng) if number.interval else None,
        seed_correlation=_known(stats.seed_correlation(differences)),
        spread=_known(stats.spread(differences)),
    )


def estimated(one: Criterion, differences: np.ndarray) -> Number:
    """What decides of a criterion: effect, interval and p-value of its differences [settings,
    seeds], NaN where a pair is missing."""
    found, seeds = stats.estimate(differences), np.isfinite(differences).sum(axis=1)
    effect = 0.0 if abs(found.effect) < ROUNDING else found.effect
    error = 0.0 if found.error < ROUNDING else found.error
    found = found._replace(effect=effect, error=error)
    interval = found.interval()
    if interval and one.unit == RHO:
        interval = tuple(np.clip(interval, -_most(one), _most(one)).tolist())
    n, least = int(seeds.sum()), int(seeds.min())
    power, smallest = found.power(), found.smallest()
    if least < SEEDS or error == 0 or (one.unit == RHO and smallest > _most(one)):
        power = smallest = None
    decided = Number(one.label, one.unit, effect, interval, n, least, one.sign, found.p())
    return replace(decided, power=power, smallest=smallest)


def _most(one: Criterion) -> int:
    """The largest value of a rank correlation, or of the difference of two."""
    return 2 if one.pairs.right else 1


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _message(claim: Claim, criteria: Sequence[Criterion], numbers: Sequence[Number]) -> str:
    """The runs behind each number of a claim, in words."""
    texts = {}
    for one, number in zip(criteria, numbers, strict=True):
        texts.setdefault(basis(one.pairs, number), []).append(one.label)
    if not any(number.n for number in numbers):
        return " ".join((f"Not tested here: it needs {claim.needs}.", *texts))
    if len(texts) == 1:
        return next(iter(texts))
    return " ".join(f"({'; '.join(labels)}) {text}" for text, labels in texts.items())


def basis(pairs: Pairs, number: Number) -> str:
    """The runs behind a number, and what is missing, in words."""
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
            parts.append("no interval, because one seed has no spread")
        if number.seeds < SEEDS:
            parts.append(f"no verdict, which takes {SEEDS} seeds")
    else:
        parts.append("no complete pair" if pairs.right else "no run")
    if len(pairs.dropped):
        counts = pairs.dropped["reason"].value_counts()
        reasons = "; ".join(f"{reason} ({count})" for reason, count in counts.head(4).items())
        more = f"; and {len(counts) - 4} other reasons" if len(counts) > 4 else ""
        parts.append(f"{_count(len(pairs.dropped), 'pair')} dropped: {reasons}{more}")
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _seeds_text(pairs: Pairs) -> str:
    seeds = sorted(pairs.table["seed"].unique().tolist())
    tasks = _count(pairs.table["task"].nunique(), "setting")
    return f"{tasks} with seeds {', '.join(map(str, seeds))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _labelled(number: Number) -> dict:
    names = (
        "sign", "p", "power", "smallest", "probability", "signed_rank_p", "seed_correlation",
        "spread", "seeds",
    )  # fmt: skip
    return {
        "label": number.label,
        "unit": number.unit,
        "effect": number.effect,
        "interval": list(number.interval or (None, None)),
        "n": number.n,
        **{name: getattr(number, name) for name in names},
        "effect_size": number.size,
        "probability_interval": list(number.probability_interval or (None, None)),
    }
