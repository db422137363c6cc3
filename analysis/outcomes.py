"""The results of each run as numbers: what claims, tables and figures are about."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.runs.frames import AGREEMENT, UNFINISHED, Frames
from analysis.settings import DENSE, named
from benchmark.record import FINISHED, MOVED

SIZES = ("params", "macs")
"""Sizes of a net: numbers of parameters, and of multiply-accumulates of a forward pass."""
LEAST_CHANGE = 1e-3
"""Nats: smaller changes at a cut count as this one where changes are compared on a logarithmic
scale."""
AT_CUTS = (
    "loss_change",
    "loss_shift",
    "order1_shift",
    "grad_norm_change",
    "grad_norm_shift",
    "second_order_shift",
)


@lru_cache(maxsize=2)  # claims, tables and many figures ask for the same
def outcomes(frames: Frames) -> pd.DataFrame:
    """A row per finished run: its row of `named(frames).runs` and the numbers that claims are
    about.

    After the last cut. `loss_after_cut` (nats): mean of train/loss over the epochs that remain,
    which is the area under the curve divided by its length. `epochs_to_threshold`: epochs until
    train/loss is down to `threshold` (nats), the dense control's of the same seed after half of its
    epochs; the number of epochs that remain where `reached` is 0. `final_accuracy`: test accuracy
    after the last epoch. `train_ms`: median training time per image (ms; of the dense control over
    all epochs).

    At cuts. `loss_change` (nats): change of the probe loss, summed over cuts. Means over cuts:
    `loss_shift` (decades): log10 of its size; `order1_shift` (decades): log10 of the size of the
    change of d|theta|^2/dt = -2 theta.g (both at least log10 `LEAST_CHANGE`); `grad_norm_change`:
    change of log10 |g|; `grad_norm_shift`: its size; `second_order_shift`: size of the change of
    d^2|theta|^2/dt^2 = 2 (|g|^2 + theta.Hg); `agreement.<a>|<b>`: rank correlation of two measures;
    `moved`: rank correlation of the run's own score with abs(d|w|^2) of its filters in the epoch
    after the cut.

    Along the run (rank correlations over epochs). `norm_identity`: of the change of |theta|^2 with
    the change -2 lr theta.g that gradient flow predicts; `order_agreement`: of theta.Hg with
    theta.g.

    NaN where the run has no such number: no cut, not every cut made, not every epoch trained to a
    finite loss.
    """
    runs = named(frames).runs
    runs = runs[runs["outcome"] != UNFINISHED].set_index("run_id")
    columns = {
        **_after_cut(runs, frames.history),
        **_at_cuts(runs, frames.cuts),
        **_along(frames.history),
    }
    columns["moved"] = _moved(runs, frames.history)
    return pd.concat(
        [runs, pd.DataFrame({name: x.reindex(runs.index) for name, x in columns.items()})], axis=1
    )


def share_left(table: pd.DataFrame, size: str) -> pd.Series:
    """The share of a size in `SIZES` that a run has left; NaN for a run that collapsed, whose
    record has the net that it could not cut."""
    left = table[f"net/{size}/after"] / table[f"net/{size}/before"]
    return left.where(table["outcome"] == FINISHED)


def _after_cut(runs: pd.DataFrame, history: pd.DataFrame) -> dict[str, pd.Series]:
    history = history.join(runs[["last_cut", "total"]], on="run_id")
    after = history[history["epoch"] > history["last_cut"]]
    trained = history[history["epoch"] > history["last_cut"].fillna(0)]
    per_run = after.groupby("run_id")["train/loss"].agg(["mean", "count"]).reindex(runs.index)
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
    return runs["dense_id"].map(losses)


def _at_cuts(runs: pd.DataFrame, cuts: pd.DataFrame) -> dict[str, pd.Series]:
    if cuts.empty:  # they lack most columns
        return {name: pd.Series(dtype=float) for name in AT_CUTS}
    change, agreement = cuts["actual.loss_change"], cuts.filter(regex=f"^{re.escape(AGREEMENT)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log10(cuts["after.grad_norm"] / cuts["before.grad_norm"])
    growth = growth.replace([np.inf, -np.inf], np.nan)
    before, after = (
        2 * (cuts[f"{when}.grad_norm"] ** 2 + cuts[f"{when}.theta_hg"])
        for when in ("before", "after")
    )
    values = (
        change,
        _size(change),
        _size(2 * (cuts["after.theta_g"] - cuts["before.theta_g"])),
        growth,
        growth.abs(),
        (after - before).abs(),
    )
    columns = dict(zip(AT_CUTS, values, strict=True))
    grouped = pd.concat([pd.DataFrame(columns), agreement], axis=1).groupby(cuts["run_id"])
    made = grouped.size()
    whole = grouped.count().eq(made, axis=0).mul(made == runs["rounds"].reindex(made.index), axis=0)
    result = grouped.mean().assign(loss_change=grouped["loss_change"].sum()).where(whole)
    return dict(result.items())


def _size(change: pd.Series) -> pd.Series:
    return np.log10(change.abs().clip(lower=LEAST_CHANGE))


def _along(history: pd.DataFrame) -> dict[str, pd.Series]:
    """Rank correlations over epochs, of runs with at least four."""
    by_run = history.groupby("run_id")
    step = pd.DataFrame(
        {
            "run_id": history["run_id"],
            "change": by_run["flow/weight_norm_sq"].diff(),
            "predicted": -2 * history["lr"] * by_run["flow/theta_g"].shift(),
        }
    )
    return {
        "norm_identity": _rank_correlation(step, "change", "predicted"),
        "order_agreement": _rank_correlation(history, "flow/theta_hg", "flow/theta_g"),
    }


def _rank_correlation(table: pd.DataFrame, one: str, other: str) -> pd.Series:
    """Spearman's correlation of two columns within each run."""
    whole = table.dropna(subset=[one, other])
    ranks = whole.groupby("run_id")[[one, other]].rank()
    centred = ranks - ranks.groupby(whole["run_id"]).transform("mean")
    products = {
        "cov": centred[one] * centred[other],
        "a": centred[one] ** 2,
        "b": centred[other] ** 2,
    }
    sums = pd.DataFrame(products).groupby(whole["run_id"]).agg(["sum", "count"])
    spread = (sums["a", "sum"] * sums["b", "sum"]).where(sums["a", "count"] >= 4)
    return sums["cov", "sum"] / np.sqrt(spread.where(spread > 0))


def _moved(runs: pd.DataFrame, history: pd.DataFrame) -> pd.Series:
    """The mean over cuts of `moved/<own measure>`, where every cut has one."""
    names = [name for name in history if name.startswith(MOVED)]
    rows = history[["run_id", *names]].dropna(how="all", subset=names)
    long = rows.melt("run_id", var_name="measure", value_name="value").dropna()
    own = long[long["measure"] == MOVED + long["run_id"].map(runs["measure"])]
    found = own.groupby("run_id")["value"].agg(["mean", "count"])
    return found["mean"].where(found["count"] == runs["rounds"].reindex(found.index))
