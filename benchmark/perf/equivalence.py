"""`python -m benchmark.perf.equivalence`: does a fast mode of training reach the accuracy of
float32?

A fast mode may be used for claims only if it does. Both modes train the same runs, seed by seed.
Two one-sided paired t-tests (TOST, Schuirmann 1987) decide whether the mean difference of the final
test accuracies is within a margin.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro

from benchmark.cli import check_file, guarded, parse
from benchmark.config import PRECISIONS, RunConfig
from benchmark.errors import require, require_one_of
from benchmark.options import Options

DESCRIPTION = (
    "Train runs in float32 and in a fast mode over seeds, and test whether their accuracies are "
    "equivalent."
)
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """What to compare."""

    config: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    options: tyro.conf.OmitArgPrefixes[Options] = field(default_factory=Options)
    fast: str = "bf16"
    """The precision that is compared with float32: tf32 or bf16."""
    seeds: int = 10
    """Seeds 0, 1, ... of both."""
    margin: float = 0.2
    """Percentage points of accuracy within which the two count as the same."""
    json: Path | None = None
    """Also write the numbers to this file."""


@dataclass(frozen=True)
class Verdict:
    """Fast minus float32, in percentage points."""

    mean: float
    interval: tuple[float, float]
    """90 %: equivalent if it lies within the margin."""
    p: float
    """Of the two one-sided tests; equivalent below 0.05."""
    margin: float
    n: int

    @property
    def word(self) -> str:
        """equivalent; different (the interval lies outside the margin); or undecided."""
        if self.p < LEVEL:
            return "equivalent"
        low, high = self.interval
        return "different" if low > self.margin or high < -self.margin else "undecided"


def execute(command: Equivalence) -> None:
    """Train what is missing, print the verdict."""
    fast = [name for name in PRECISIONS if name != "float32"]
    require_one_of("fast", command.fast, fast)
    require(command.seeds >= 2, "seeds", command.seeds, "at least 2")
    require(command.margin > 0, "margin", command.margin, "above 0")
    check_file("json", command.json)
    from benchmark.run import run

    command.options.prepare()
    accuracy: dict[str, list[float]] = {"float32": [], command.fast: []}
    for seed in range(command.seeds):
        for precision, values in accuracy.items():
            config = dataclasses.replace(command.config, seed=seed, precision=precision)
            values.append(100 * run(config, command.options)["test/accuracy"])
            print(f"seed {seed}, {precision}: {values[-1]:.2f} %")
    verdict = compare(accuracy[command.fast], accuracy["float32"], command.margin)
    low, high = verdict.interval
    print(
        f"{verdict.word}: {command.fast} minus float32 is {verdict.mean:+.2f} points, "
        f"90 % interval [{low:+.2f}, {high:+.2f}], margin {verdict.margin:g}, "
        f"p = {verdict.p:.2g}, n = {verdict.n} seeds"
    )
    if command.json:
        numbers = dataclasses.asdict(verdict) | {"verdict": verdict.word, "accuracy": accuracy}
        command.json.write_text(json.dumps(numbers, indent=1))


def compare(fast: Sequence[float], plain: Sequence[float], margin: float) -> Verdict:
    """Two one-sided paired t-tests of accuracies [seeds] in percent.

    If all differences are equal, which no t-test can handle, the mean decides.
    """
    differences = np.asarray(fast) - np.asarray(plain)
    mean = float(differences.mean())
    if np.ptp(differences) == 0:
        return Verdict(mean, (mean, mean), float(abs(mean) >= margin), margin, len(differences))
    from statsmodels.stats.weightstats import DescrStatsW  # here, so that --help is quick

    described = DescrStatsW(differences)
    p = described.ttost_mean(-margin, margin)[0]
    interval = tuple(float(end) for end in described.tconfint_mean(alpha=2 * LEVEL))
    return Verdict(mean, interval, float(p), margin, len(differences))


if __name__ == "__main__":
    command = parse(Equivalence, "python -m benchmark.perf.equivalence", DESCRIPTION)
    guarded(lambda: execute(command))
