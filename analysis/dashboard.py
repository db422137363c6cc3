"""A W&B workspace or report that compares measures: convergence, cuts, gradient flow, accuracy
against cost.

Runs are grouped by measure, a line is the mean of a group with the standard deviation as its band,
and a measure has the colour that it has in the figures of the report. The keys are those that
`benchmark.tracking.tracker` logs.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from benchmark.errors import UserError, one_line
from benchmark.fields import assignment
from benchmark.measures import MEASURES

MAX_RUNS = 1000
"""Runs that a panel takes in; W&B draws ten unless told otherwise."""
MEANS = {
    "groupby_aggfunc": "mean",
    "groupby_rangefunc": "stddev",
    "max_runs_to_show": MAX_RUNS,
}
WIDTH, HEIGHT = 24, 8
"""Size of a row of panels of a report, in W&B's units."""
RUNS = "Runs"
"""Name of the runs of a report."""
TITLE = "Measures compared"
Made = ws.Workspace | wr.Report


def workspace(project: str, entity: str, only: dict[str, object] | None = None) -> ws.Workspace:
    """The workspace for a project's runs; `only` {field of a run: value} narrows them down.

    Needs no server. Raises `UserError` for a field that runs do not have.
    """
    only = only or {}
    return ws.Workspace(
        entity=entity,
        project=project,
        name=_title(only),
        sections=[
            ws.Section(
                topic.title,
                topic.panels,
                is_open=topic.is_open,
                pinned=place == 0,
                layout_settings=ws.SectionLayoutSettings(columns=topic.columns, rows=2),
            )
            for place, topic in enumerate(_topics())
        ],
        settings=ws.WorkspaceSettings(
            x_axis="epoch", max_runs=MAX_RUNS, tooltip_number_of_runs="all_runs"
        ),
        runset_settings=ws.RunsetSettings(
            filters=_filters(only),
            groupby=[expr.Config("measure")],
            group_colors=_colors(),
            pinned_columns=[
                "run:displayName",
                "summary:test/accuracy",
                "summary:net/params",
                "summary:outcome",
            ],
        ),
    )


def report(project: str, entity: str, only: dict[str, object] | None = None) -> wr.Report:
    """The same panels as a report, for people who are no members of the project.

    The arguments and errors are those of `workspace`. To turn it into JSON needs a server.
    """
    only, blocks = only or {}, []
    for topic in _topics():
        runset = wr.Runset(
            entity=entity,
            project=project,
            name=RUNS,
            filters=_filters(only),
            groupby=["config.measure"],
        )
        wide = WIDTH // topic.columns
        for number, panel in enumerate(topic.panels):
            row, column = divmod(number, topic.columns)
            panel.layout = wr.Layout(x=wide * column, y=HEIGHT * row, w=wide, h=HEIGHT)
        colors = {
            wr.RunsetGroup(RUNS, (wr.RunsetGroupKey(wr.Config("measure"), measure),)): color
            for measure, color in _colors().items()
        }
        grid = wr.PanelGrid(runsets=[runset], panels=topic.panels, custom_run_colors=colors)
        blocks += [wr.H1(topic.title), grid]
    return wr.Report(
        project=project, entity=entity, title=_title(only), blocks=blocks, width="fluid"
    )


def parsed_filters(texts: tuple[str, ...]) -> dict[str, object]:
    """{field: value} of `field=value` texts, with values as runs have them. Raises `UserError` for
    others."""
    pairs = [assignment(text, "filter", known=DEFAULTS) for text in texts]
    return {name: filter_value(name, value) for name, value in pairs}


def as_json(made: Made) -> str:
    """A workspace or report as W&B's server gets it, for people and other programs."""
    return made._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n"


def saved(
    make: Callable[..., Made], project: str, entity: str | None, only: dict[str, object]
) -> str:
    """Save a workspace as a new view of the project, or a report, and return its address.

    make: `workspace` or `report`. entity: None for the user's own. Raises `UserError` without a
    key, a server or such a project.
    """
    try:
        entity = entity or wandb.Api().default_entity
        with contextlib.redirect_stderr(io.StringIO()):  # it says on its own where it saved
            made = make(project, entity, only)
            if project not in [known.name for known in wandb.Api().projects(entity)]:
                raise UserError(f"W&B project {entity}/{project} does not exist")
            return made.save().url
    except UserError:
        raise
    except Exception as error:  # wandb-workspaces raises many kinds
        raise UserError(f"W&B did not save the {make.__name__} ({one_line(error)})") from None


@dataclass(frozen=True)
class _Topic:
    title: str
    panels: list
    columns: int
    is_open: bool = True


def _topics() -> list[_Topic]:
    """What a workspace or report shows, the comparison of convergence first."""
    return [
        _Topic("Convergence", _by_epoch(CONVERGENCE), 2),
        _Topic("Cuts", _cuts(), 2),
        _Topic("Gradient flow", _by_epoch(FLOW), 3),
        _Topic("Accuracy against cost", _costs(), 3),
        _Topic("Course of training", _by_epoch(COURSE), 3, is_open=False),
    ]


def _title(only: dict[str, object]) -> str:
    chosen = ", ".join(f"{field} {value}" for field, value in only.items())
    return f"{TITLE}{f' ({chosen})' if chosen else ''}"


def _filters(only: dict[str, object]) -> list[expr.FilterExpr]:
    for field in only:
        if field not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            raise UserError(f"filter must name a field of a run ({known}), got {field!r}")
    return [expr.Config(field) == value for field, value in only.items()]


def _colors() -> dict[str, str]:
    """{measure: its colour}"""
    return {measure: style.look(measure).color for measure in style.in_order(list(MEASURES))}


def _by_epoch(quantities: Sequence[Quantity]) -> list[wr.LinePlot]:
    return [_line(item.label, item, "epoch") for item in quantities]


def _line(title: str, quantity: Quantity, x: str) -> wr.LinePlot:
    titles = {"title": title, "title_x": x.rpartition("/")[2], "title_y": quantity.label}
    return wr.LinePlot(x=x, y=[quantity.key], log_y=quantity.log or None, **titles, **MEANS)


def _cuts() -> list[wr.LinePlot | wr.BarPlot | wr.ScatterPlot]:
    """Bars for the last cut, lines over the rounds, and both numbers against each other. All other
    numbers of a cut are in the run's file `cuts.jsonl`."""
    panels = []
    for item in LOGGED_CUTS:
        panels += [
            wr.BarPlot(title=f"{item.label}, last round", metrics=[item.key], **MEANS),
            _line(f"{item.label}, each round", item, "cut/round"),
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
