"""A W&B workspace that compares measures: convergence, cuts, gradient flow, accuracy against cost.

Runs are grouped by measure, a line is the mean of a group with the standard deviation as its band,
and a measure has the colour that it has in the figures of the report. The keys are those that
`benchmark.tracking.tracker` logs.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from analysis.quantities import (
    CONVERGENCE,
    COSTS,
    COURSE,
    FLOW,
    LOGGED_CUTS,
    TEST_ACCURACY,
    Quantity,
)
from analysis.report import style
from analysis.runs.pull import filter_value
from benchmark.config import DEFAULTS
from benchmark.errors import UserError
from benchmark.fields import assignment
from benchmark.measures import MEASURES

MAX_RUNS = 1000
"""Runs that a panel takes in; W&B draws ten unless told otherwise."""
MEANS = {
    "groupby_aggfunc": "mean",
    "groupby_rangefunc": "stddev",
    "max_runs_to_show": MAX_RUNS,
}
WIDE, NARROW = (ws.SectionLayoutSettings(columns=columns, rows=2) for columns in (2, 3))


def workspace(project: str, entity: str, only: dict[str, object] | None = None) -> ws.Workspace:
    """The workspace for a project's runs; `only` {field of a run: value} narrows them down.

    Needs no server. Raises `UserError` for a field that runs do not have.
    """
    only = only or {}
    for field in only:
        if field not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            raise UserError(f"filter must name a field of a run ({known}), got {field!r}")
    chosen = ", ".join(f"{field} {value}" for field, value in only.items())
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Measures compared{f' ({chosen})' if chosen else ''}",
        sections=[
            ws.Section(
                "Convergence",
                _by_epoch(CONVERGENCE),
                is_open=True,
                pinned=True,
                layout_settings=WIDE,
            ),
            ws.Section("Cuts", _cuts(), is_open=True, layout_settings=WIDE),
            ws.Section("Gradient flow", _by_epoch(FLOW), is_open=True, layout_settings=NARROW),
            ws.Section("Accuracy against cost", _costs(), is_open=True, layout_settings=NARROW),
            ws.Section("Course of training", _by_epoch(COURSE), layout_settings=NARROW),
        ],
        settings=ws.WorkspaceSettings(
            x_axis="epoch", max_runs=MAX_RUNS, tooltip_number_of_runs="all_runs"
        ),
        runset_settings=ws.RunsetSettings(
            filters=[expr.Config(field) == value for field, value in only.items()],
            groupby=[expr.Config("measure")],
            group_colors={
                measure: style.look(measure).color for measure in style.in_order(list(MEASURES))
            },
            pinned_columns=[
                "run:displayName",
                "summary:test/accuracy",
                "summary:net/params",
                "summary:outcome",
            ],
        ),
    )


def parsed_filters(texts: tuple[str, ...]) -> dict[str, object]:
    """{field: value} of `field=value` texts, with values as runs have them. Raises `UserError` for
    others."""
    pairs = [assignment(text, "filter", known=DEFAULTS) for text in texts]
    return {name: filter_value(name, value) for name, value in pairs}


def as_json(made: ws.Workspace) -> str:
    """The workspace as W&B's server gets it, for people and other programs."""
    return made._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n"


def saved(project: str, entity: str | None, only: dict[str, object]) -> str:
    """Save the workspace as a new view of the project, and return its address.

    `entity`: None for the user's own. Raises `UserError` without a key, a server or such a project.
    """
    try:
        entity = entity or wandb.Api().default_entity
        with contextlib.redirect_stderr(io.StringIO()):  # it says on its own where it saved
            return workspace(project, entity, only).save().url
    except (wandb.Error, OSError, ValueError) as error:
        raise UserError(
            f"W&B did not save the workspace ({' '.join(str(error).split())})"
        ) from None


def _by_epoch(quantities: Sequence[Quantity]) -> list[wr.LinePlot]:
    return [_line(item.label, [item.key], item, "epoch") for item in quantities]


def _line(title: str, keys: list[str], quantity: Quantity, x: str) -> wr.LinePlot:
    titles = {"title": title, "title_x": x.rpartition("/")[2], "title_y": quantity.label}
    return wr.LinePlot(x=x, y=keys, log_y=quantity.log or None, **titles, **MEANS)


def _cuts() -> list[wr.LinePlot | wr.BarPlot | wr.ScatterPlot]:
    """Bars for the last cut, lines over the rounds, and both numbers against each other. All other
    numbers of a cut are in the run's file `cuts.jsonl`."""
    panels = []
    for item in LOGGED_CUTS:
        panels += [
            wr.BarPlot(title=f"{item.label}, last round", metrics=[item.key], **MEANS),
            _line(f"{item.label}, each round", [item.key], item, "cut/round"),
        ]
    change, kept = (wr.SummaryMetric(item.key) for item in LOGGED_CUTS)
    title = f"{LOGGED_CUTS[0].label} against {LOGGED_CUTS[1].label}"
    return [*panels, wr.ScatterPlot(title=title, x=kept, y=change)]


def _costs() -> list[wr.ScatterPlot | wr.BarPlot]:
    key, label = TEST_ACCURACY.key, TEST_ACCURACY.label
    bars = wr.BarPlot(title=f"{label} after the last epoch", metrics=[key], **MEANS)
    axes = {item: (wr.SummaryMetric(item.key), wr.SummaryMetric(key)) for item in COSTS}
    return [
        bars,
        *(
            wr.ScatterPlot(title=f"{label} against {item.label}", x=x, y=y, log_x=item.log)
            for item, (x, y) in axes.items()
        ),
    ]
