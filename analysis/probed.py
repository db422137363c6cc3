"""The cut probes of runs as numbers: what first-order theory says of a small cut, and what it does.

A probe belongs to a dense run, and its measure to a cut of a copy of the net; both are of the
probe set, with batch-norm statistics that are held.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.runs.frames import Frames
from analysis.settings import named

KEYS = ["run_id", "epoch", "measure", "share"]
"""What tells the rows of `probed` apart."""
PAIR = ["group", "task", "seed", "ablation", "outcome"]
"""Columns of the runs that pairs need."""
RULES = ["epochs", "score_bn"]
"""Columns of the runs that say which rows count in a claim."""


@lru_cache(maxsize=2)
def probed(frames: Frames) -> pd.DataFrame:
    """A row per finished run, epoch, measure and share of filters cut; the mean over the draws of
    `random`.

    `run_id epoch measure share` and the columns `PAIR` and `RULES` of the run.
    `loss_change` (nats): of the probe loss, clipped at twice the loss of chance, 2 ln C. `allowed`
    (nats): `loss_change` and a tenth of ln C - L, L the loss before the cut. `first_order_shift`
    (nats): size of the change of d|theta|^2/dt = -2 theta.g. `second_order_shift` (nats): size of
    the change of d^2|theta|^2/dt^2 = 2 (|g|^2 + theta.Hg). `grad_norm_sq_change` and
    `predicted_grad_norm_sq_change` (nats^2). `kept_macs`: share of the MACs that is left. NaN where
    a number was not measured.
    """
    runs = named(frames).finished().set_index("run_id")
    table = frames.probes[frames.probes["run_id"].isin(runs.index)]
    table = table.join(runs[[*PAIR, *RULES, "classes"]], on="run_id")
    chance = np.log(table["classes"])
    before, after = (
        2 * (table[f"{when}.grad_norm"] ** 2 + table[f"{when}.theta_hg"])
        for when in ("before", "after")
    )
    change = table["actual.loss_change"].clip(-2 * chance, 2 * chance)
    values = {
        "loss_change": change,
        "allowed": change + 0.1 * (chance - table["before.loss"]),
        "first_order_shift": 2 * (table["after.theta_g"] - table["before.theta_g"]).abs(),
        "second_order_shift": (after - before).abs(),
        "grad_norm_sq_change": table["actual.grad_norm_sq_change"],
        "predicted_grad_norm_sq_change": table["predicted.grad_norm_sq_change"],
        "kept_macs": table["kept_macs"],
    }
    kept = table[[*KEYS, *PAIR, *RULES]].assign(**values)
    return kept.groupby([*KEYS, *PAIR, *RULES], sort=False, as_index=False)[[*values]].mean()


def ranked(frames: Frames) -> pd.DataFrame:
    """A row per finished run, epoch and pair of scores: `run_id epoch measure` (`<a>|<b>`), `rho`
    and the columns `PAIR` and `RULES` of the run."""
    runs = named(frames).finished().set_index("run_id")
    table = frames.probe_ranks[frames.probe_ranks["run_id"].isin(runs.index)]
    table = table.join(runs[[*PAIR, *RULES]], on="run_id")
    return table.assign(measure=table["a"] + "|" + table["b"]).drop(columns=["a", "b"])


def averaged(table: pd.DataFrame, chosen: pd.Series | bool = True) -> pd.DataFrame:
    """A row per run and measure: the means over epochs and shares, of the chosen rows of `probed`
    or `ranked`. NaN where an epoch or a share lacks the number, or the row, that others of the task
    have."""
    keys = ["run_id", *PAIR, "measure"]
    values = [name for name in table if name not in (*KEYS, *PAIR, *RULES)]
    groups = table[pd.Series(chosen, table.index)].groupby(keys, sort=False)
    due = groups.size().groupby("task").max()
    everyone = pd.MultiIndex.from_frame(table.loc[table["task"].isin(due.index), keys]).unique()
    means, counts = (
        part.reindex(everyone) for part in (groups[values].mean(), groups[values].count())
    )
    whole = counts.eq(due[everyone.get_level_values("task")].to_numpy(), axis=0)
    return means.where(whole).reset_index()
