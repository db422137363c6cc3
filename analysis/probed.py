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


@lru_cache(maxsize=2)
def probed(frames: Frames) -> pd.DataFrame:
    """A row per finished run, epoch, measure and share of filters cut; the mean over the draws of
    `random`.

    `run_id epoch measure share` and the run's `group task seed ablation outcome epochs`.
    `loss_change` (nats): of the probe loss, clipped at twice the loss of chance, 2 ln C. `allowed`
    (nats): `loss_change` and a tenth of ln C - L, L the loss before the cut. `first_order_shift`
    (nats): size of the change of d|theta|^2/dt = -2 theta.g. `second_order_shift` (nats): size of
    the change of d^2|theta|^2/dt^2 = 2 (|g|^2 + theta.Hg). `grad_norm_sq_change` and
    `predicted_grad_norm_sq_change` (nats^2). `kept_macs`: share of the MACs that is left. NaN where
    a number was not measured.
    """
    runs = named(frames).finished().set_index("run_id")
    table = frames.probes[frames.probes["run_id"].isin(runs.index)]
    table = table.join(runs[[*PAIR, "epochs", "classes"]], on="run_id")
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
    kept = table[[*KEYS, *PAIR, "epochs"]].assign(**values)
    return kept.groupby([*KEYS, *PAIR, "epochs"], sort=False, as_index=False)[[*values]].mean()


def ranked(frames: Frames) -> pd.DataFrame:
    """A row per finished run, epoch and pair of scores: `run_id epoch measure` (`<a>|<b>`), `rho`
    and the columns `PAIR` and `epochs` of the run."""
    runs = named(frames).finished().set_index("run_id")
    table = frames.probe_ranks[frames.probe_ranks["run_id"].isin(runs.index)]
    table = table.join(runs[[*PAIR, "epochs"]], on="run_id")
    return table.assign(measure=table["a"] + "|" + table["b"]).drop(columns=["a", "b"])


def averaged(table: pd.DataFrame) -> pd.DataFrame:
    """A row per run and measure: the means over epochs and shares, of a part of `probed` or
    `ranked`. NaN where an epoch or a share lacks the number."""
    values = [name for name in table if name not in (*KEYS, *PAIR, "epochs")]
    groups = table.groupby(["run_id", *PAIR, "measure"], sort=False)
    means = groups[values].mean().where(groups[values].count().eq(groups.size(), axis=0))
    return means.reset_index()
