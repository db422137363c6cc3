"""The leaderboard: which measure is best in these runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from analysis.outcomes import outcomes, share_left, speedup
from analysis.runs.frames import Frames
from analysis.settings import DENSE, scales
from analysis.stats import Estimate, estimate
from benchmark import registry
from benchmark.record import FINISHED

BUDGETS = ("macs", "params", "filters")
"""What a ratio is a share of; each budget has a leaderboard of its own, equal MACs first."""
DIGITS = 12
"""Of a mean rank: equal ones are equal in spite of rounding."""
RIVALS = ("magnitude", "random")
"""The measures that the others are counted against."""


@dataclass(frozen=True)
class Board:
    """The leaderboard of one budget."""

    budget: str
    table: pd.DataFrame
    """A row per measure, the best rank first: `measure`, `outside` (not of the suite), `rank` (mean
    over seeds, then settings), `wins_<rival>`, `ties_<rival>`, `losses_<rival>` (settings, for each
    of `RIVALS`; NaN if it is not ranked), `accuracy` (final, on the test images), `loss` (mean
    training loss after the last cut, nats, of the runs that have one; NaN if a setting has none),
    `collapsed` (share of the runs), `score_seconds` (median over cuts; NaN if unknown), `macs`
    (share left, mean), `speedup` (of a batch, median; NaN if unknown). `rank`, `accuracy` and
    `loss` have their 95 % interval in `<name>_low` and `<name>_high`."""
    settings: tuple[str, ...]
    """The settings that all these measures have."""
    scales: tuple[str, ...]
    """Nets, widths, images and epochs of these settings, in words."""
    seeds: tuple[int, int]
    """The smallest and the largest number of seeds in a setting."""
    relative: pd.DataFrame
    """The final accuracy of each run as a share of that of its dense control: a row per measure, a
    column per setting and seed; NaN without a control."""
    left_out: dict[str, int]
    """{measure that lacks runs: number of these settings that it has in full}"""

    @property
    def controlled(self) -> bool:
        """Whether some run has a dense control."""
        return bool(self.relative.notna().any().any())


def leaderboards(frames: Frames) -> list[Board]:
    """A leaderboard for each budget that has two measures to compare.

    A setting is an architecture, a data set and all fields but measure and seed; settings with an
    ablation or an allocation other than `global` do not count. Of each setting those seeds count
    that most measures have, if two have them all, or else the most that two measures share;
    settings of one seed count only where no other is. Shown are the measures that have these seeds
    of every setting shown; of the settings those are shown that make the number of settings times
    measures largest.
    Within a setting and seed the final accuracy is ranked (1 is best); equal ones share their
    ranks, and a run that collapsed or diverged is last. A win is a setting in which the interval of
    the difference in accuracy lies above 0; a run that collapsed counts as accuracy 0 there, and in
    the means.
    """
    table = outcomes(frames).reset_index()
    dense = table["control"].map(table.set_index("run_id")["final_accuracy"])
    used = (table["ablation"] == "none") & (table["allocation"] == "global")
    table = table[used & (table["measure"] != DENSE)]
    lost = (table["outcome"] != FINISHED) | table["final_accuracy"].isna()
    table = table.assign(lost=lost, accuracy=table["final_accuracy"].mask(lost, 0.0))
    table["relative"] = table["accuracy"] / dense
    seconds = frames.cuts.groupby("run_id")["score_seconds"].median()
    table = table.assign(
        score_seconds=table["run_id"].map(seconds),
        macs=share_left(table, "macs"), speedup=speedup(table),
    )  # fmt: skip
    parts = ((budget, table[table["budget"] == budget]) for budget in BUDGETS)
    boards = (_board(budget, part) for budget, part in parts if len(part))
    return [board for board in boards if board is not None]


def _board(budget: str, table: pd.DataFrame) -> Board | None:
    table = _with_shared_seeds(table)
    seeds = table.groupby("task", sort=False)["seed"].nunique()
    have = table.groupby(["measure", "task"])["seed"].nunique().unstack("task", fill_value=0)
    whole = have[seeds.index].eq(seeds, axis=1)
    measures, tasks = _largest(whole)
    if len(measures) < 2:
        return None
    rows = table[table["measure"].isin(measures) & table["task"].isin(tasks)]
    values = {
        name: _array(rows, name, measures, tasks) for name in ("accuracy", "loss_after_cut", "lost")
    }
    ranks = _ranks(values["accuracy"], values["lost"] == 1)
    result = []
    for place, measure in enumerate(measures):
        row = {"measure": measure, "outside": measure not in registry.names("measures")}
        row |= _mean("rank", ranks[place], 1, len(measures))
        row["rank"] = round(row["rank"], DIGITS)
        row |= _mean("accuracy", values["accuracy"][place], 0, 1)
        row |= _mean("loss", values["loss_after_cut"][place], 0, np.inf)
        row["collapsed"] = float(np.nanmean(values["lost"][place]))
        for rival in RIVALS:
            other = values["accuracy"][measures.index(rival)] if rival in measures else None
            row |= _against(rival, values["accuracy"][place], other)
        own = rows[rows["measure"] == measure]
        row["score_seconds"] = own["score_seconds"].median()
        row |= {"macs": own["macs"].mean(), "speedup": own["speedup"].median()}
        result.append(row)
    ordered = pd.DataFrame(result).sort_values(["rank", "measure"], ignore_index=True)
    counts = seeds[tasks]
    relative = rows.pivot(index="measure", columns=["task", "seed"], values="relative")
    others = whole.drop(index=measures)[tasks].sum(axis=1)
    return Board(
        budget, ordered, tuple(tasks), tuple(scales(rows)),
        (int(counts.min()), int(counts.max())), relative,
        {measure: int(count) for measure, count in others.items()},
    )  # fmt: skip


def _with_shared_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of those seeds of each setting that `leaderboards` describes."""
    parts = []
    for _, part in table.groupby("task", sort=False):
        own = [frozenset(seeds) for _, seeds in part.groupby("measure")["seed"]]
        parts.append(part[part["seed"].isin(_shared(own))])
    several = [part for part in parts if part["seed"].nunique() > 1]
    return pd.concat(several or parts)


def _shared(own: list[frozenset[int]]) -> frozenset[int]:
    """The seeds of a setting that count, of those that its measures have."""

    def size(seeds: frozenset[int]) -> tuple[bool, int, int]:
        measures = sum(seeds <= others for others in own)
        return measures > 1, own.count(seeds), measures * len(seeds)

    together = {one & other for one in own for other in own} - {frozenset()}
    return max(sorted(together, key=sorted), key=size)


def _largest(whole: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The measures and the settings of the largest part of a table [measures, settings] of booleans
    that is all true, of those parts whose settings have the most measures."""
    counts = whole.sum().sort_values(ascending=False, kind="stable")
    best: tuple[list[str], list[str]] = ([], [])
    for number in range(1, len(counts) + 1):
        tasks = set(counts.index[:number])
        tasks = [task for task in whole.columns if task in tasks]
        measures = whole.index[whole[tasks].all(axis=1)].tolist()
        if len(measures) >= 2 and len(measures) * number > len(best[0]) * len(best[1]):
            best = (measures, tasks)
    return best


def _array(rows: pd.DataFrame, value: str, measures: list[str], tasks: list[str]) -> np.ndarray:
    """[measures, settings, seeds]; NaN where a setting lacks the seed."""
    seeds = sorted(rows["seed"].unique())
    wide = rows.pivot(index=["measure", "task"], columns="seed", values=value).astype(float)
    index = pd.MultiIndex.from_product([measures, tasks])
    values = wide.reindex(index=index, columns=seeds).to_numpy()
    return values.reshape(len(measures), len(tasks), len(seeds))


def _ranks(accuracy: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Ranks over the first axis [measures, settings, seeds], 1 the best, and NaN where accuracies
    are; lost runs share the last ranks."""
    return rankdata(np.where(lost, np.inf, -accuracy), axis=0, nan_policy="propagate")


def _mean(name: str, values: np.ndarray, least: float, most: float) -> dict[str, float]:
    """The mean of [settings, seeds] and its interval, of numbers between `least` and `most`."""
    found = _estimate(values)
    low, high = np.clip((found and found.interval()) or (np.nan, np.nan), least, most)
    return {name: found.effect if found else np.nan, f"{name}_low": low, f"{name}_high": high}


def _estimate(values: np.ndarray) -> Estimate | None:
    return estimate(values) if np.isfinite(values).any(axis=1).all() else None


def _against(rival: str, own: np.ndarray, other: np.ndarray | None) -> dict[str, float]:
    """Settings in which a measure wins, ties and loses."""
    names = [f"{what}_{rival}" for what in ("wins", "ties", "losses")]
    if other is None:
        return dict.fromkeys(names, np.nan)
    signs = []
    for difference in own - other:
        interval = estimate(difference[None]).interval()
        signs.append(0 if interval is None else int(interval[0] > 0) - int(interval[1] < 0))
    return dict(zip(names, (signs.count(sign) for sign in (1, 0, -1)), strict=True))
