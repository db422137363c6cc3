"""The lines of figures and of the page: which runs each one is the mean of, and where it begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.report import style
from analysis.settings import DENSE


@dataclass(frozen=True)
class Line:
    """A measure in a setting, by epoch."""

    measure: str
    run_ids: tuple[str, ...]
    first: float
    last: float
    """Epochs; infinity for the last one of the runs."""


def lines(runs: pd.DataFrame, setting: str) -> list[Line]:
    """The lines of a setting, in the order of legends. Those of pruned runs begin at the first cut.

    Before it they share the training of their dense controls, which are a line of their own: the
    whole control, or, if none was run, the phase that the pruned runs share, up to the cut.
    """
    here = runs[runs["setting"] == setting]
    cut, each = here["first_cut"].min(), here.drop_duplicates("dense_id")
    pruned = here[here["measure"] != DENSE].groupby("measure")["run_id"]
    found = {measure: Line(measure, tuple(sorted(ids)), cut, np.inf) for measure, ids in pruned}
    if len(controls := each["control"].dropna()):
        found[DENSE] = Line(DENSE, tuple(sorted(controls)), 0, np.inf)
    elif cut > 0:
        found[DENSE] = Line(DENSE, tuple(sorted(each["run_id"])), 0, cut)
    return [found[measure] for measure in style.in_order(found)]


def cut_epochs(runs: pd.DataFrame, cuts: pd.DataFrame) -> dict[str, list[int]]:
    """The epochs at which runs are cut, in order, by setting."""
    settings = cuts["run_id"].map(runs.set_index("run_id")["setting"])
    return cuts["epoch"].groupby(settings).agg(lambda epochs: sorted(set(epochs))).to_dict()
