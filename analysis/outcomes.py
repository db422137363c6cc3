"""The results of each run as numbers: what claims, tables and figures are about."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.runs.frames import Frames
from analysis.settings import DENSE, named
from benchmark.record import FINISHED

SIZES = ("params", "macs")
"""Sizes of a net: numbers of parameters, and of multiply-accumulates of a forward pass."""
AT_CUTS = ("loss_change", "grad_norm_change")


def lost_counts(outcomes: pd.Series) -> dict[str, int]:
    """{outcome: number of runs} of the finished runs that collapsed or diverged."""
    return outcomes[outcomes != FINISHED].value_counts().sort_index().to_dict()


def lost_text(outcomes: pd.Series) -> str:
    """These numbers in words, such as `3 collapsed and 1 diverged`."""
    return " and ".join(f"{count} {name}" for name, count in lost_counts(outcomes).items())


@lru_cache(maxsize=2)  # claims, tables and many figures ask for the same
def outcomes(frames: Frames) -> pd.DataFrame:
    """A row per finished run: its row of `named(frames).runs` and the numbers that claims are
    about.

    After the last cut. `loss_after_cut` (nats): mean of train/loss over the epochs that remain,
    which is the area under the curve divided by its length. `fall` (nats): its first value minus
    its last one. `epochs_to_threshold`: epochs until train/loss is down to `threshold` (nats), the
    dense control's of the same seed after half of its epochs; the number of epochs that remain
    where `reached` is 0. `final_accuracy`: test accuracy after the last epoch. `train_ms`: median
    training time per image (ms; of the dense control over all epochs).

    At cuts. `loss_change` (nats): change of the probe loss, summed over cuts. `grad_norm_change`
    (decades): change of log10 |g|, mean over cuts.

    NaN where the run has no such number: no cut, not every cut made, not every epoch trained to a
    finite loss.
    """
    runs = named(frames).finished().set_index("run_id")
    columns = _after_cut(runs, frames.history) | _at_cuts(runs, frames.cuts)
    return pd.concat(
        [runs, pd.DataFrame({name: x.reindex(runs.index) for name, x in columns.items()})], axis=1
    )


def share_left(table: pd.DataFrame, size: str) -> pd.Series:
    """The share of a size in `SIZES` that a run has left; NaN for a run that collapsed, whose
    record has the net that it could not cut."""
    left = table[f"net/{size}/after"] / table[f"net/{size}/before"]
    return left.where(table["outcome"] == FINISHED)


def speedup(table: pd.DataFrame) -> pd.Series:
    """How many times faster the pruned net takes a batch than the dense one; NaN where this was not
    measured, or the run collapsed."""
    times = table["latency/batch/before"] / table["latency/batch/after"]
    return times.where(table["outcome"] == FINISHED)


def _after_cut(runs: pd.DataFrame, history: pd.DataFrame) -> dict[str, pd.Series]:
    history = history.join(runs[["last_cut", "total"]], on="run_id")
    after = history[history["epoch"] > history["last_cut"]]
    trained = history[history["epoch"] > history["last_cut"].fillna(0)]
    losses = after.groupby("run_id")["train/loss"]
    per_run = losses.agg(["mean", "count", "first", "last"]).reindex(runs.index)
    length = runs["total"] - runs["last_cut"]
    whole = per_run["count"] == length
    last = history[history["epoch"] == history["total"]].set_index("run_id")
    threshold = _threshold(runs, history)
    below = after[after["train/loss"] <= after["run_id"].map(threshold).astype(float)]
    down = below.groupby("run_id")["epoch"].min()
    epochs = (down - runs["last_cut"]).reindex(runs.index)
    known = whole & threshold.notna()
    return {
        "loss_after_cut": per_run["mean"].where(whole),
        "fall": (per_run["first"] - per_run["last"]).where(whole),
        "threshold": threshold,
        "epochs_to_threshold": epochs.fillna(length).where(known),
        "reached": epochs.notna().astype(float).where(known),
        "final_accuracy": last["test/accuracy"].where(last["train/loss"].notna()),
        "train_ms": 1000 / trained.groupby("run_id")["time/images_per_second"].median(),
    }


def _threshold(runs: pd.DataFrame, history: pd.DataFrame) -> pd.Series:
    """The training loss of each run's dense control after half of its epochs; NaN without one."""
    half = history["run_id"].map(runs["epochs"]).astype(float) // 2
    dense = history["run_id"].map(runs["measure"]) == DENSE
    losses = history[dense & (history["epoch"] == half)].set_index("run_id")["train/loss"]
    return runs["control"].map(losses)


def _at_cuts(runs: pd.DataFrame, cuts: pd.DataFrame) -> dict[str, pd.Series]:
    if cuts.empty:  # they lack most columns
        return {name: pd.Series(dtype=float) for name in AT_CUTS}
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log10(cuts["after.grad_norm"] / cuts["before.grad_norm"])
    growth = growth.replace([np.inf, -np.inf], np.nan)
    columns = dict(zip(AT_CUTS, (cuts["actual.loss_change"], growth), strict=True))
    grouped = pd.DataFrame(columns).groupby(cuts["run_id"])
    made = grouped.size()
    whole = grouped.count().eq(made, axis=0).mul(made == runs["rounds"].reindex(made.index), axis=0)
    result = grouped.mean().assign(loss_change=grouped["loss_change"].sum()).where(whole)
    return dict(result.items())
