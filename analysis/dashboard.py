"""A W&B workspace that compares measures: convergence, cuts, gradient flow, accuracy against cost.

Runs are grouped by measure, a line is the mean of a group with the standard deviation as its band,
and a measure has the colour that it has in the figures of the report. The keys are those that
`benchmark.tracking.tracker` logs.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from analysis.report import style
from analysis.runs.pull import filter_value
from benchmark.config import DEFAULTS
from benchmark.errors import UserError
from benchmark.fields import assignment
from benchmark.measures import MEASURES

MAX_RUNS = 1000
"""Runs that a panel takes in; W&B draws ten unless told otherwise."""
WIDE, NARROW = (
    ws.SectionLayoutSettings(columns=2, rows=2),
    ws.SectionLayoutSettings(columns=3, rows=2),
)


@dataclass(frozen=True)
class Quantity:
    """A number that is logged: its key, its name, and whether its axis is logarithmic."""

    key: str
    name: str
    log: bool = False


CONVERGENCE = (
    Quantity("train/loss", "training loss", log=True),
    Quantity("test/accuracy", "test accuracy"),
    Quantity("test/loss", "test loss", log=True),
    Quantity("train/accuracy", "training accuracy"),
)
FLOW = (
    Quantity("flow/grad_norm", "|g|", log=True),
    Quantity("flow/theta_g", "theta.g = -1/2 d|theta|^2/dt"),
    Quantity("flow/theta_hg", "theta.Hg"),
    Quantity("flow/g_hg", "g.Hg = -1/2 d|g|^2/dt"),
    Quantity("flow/weight_norm_sq", "|theta|^2"),
)
COURSE = (
    Quantity("lr", "learning rate", log=True),
    Quantity("net/filters", "filters"),
    Quantity("time/images_per_second", "images per second"),
)
STATES = (
    Quantity("loss", "loss", log=True),
    Quantity("accuracy", "accuracy"),
    Quantity("grad_norm", "|g|", log=True),
    Quantity("theta_g", "theta.g"),
    Quantity("theta_hg", "theta.Hg"),
)
"""Known before and after each cut."""
CHANGES = (
    Quantity("loss_change", "change of the loss"),
    Quantity("grad_norm_sq_change", "change of |g|^2"),
)
"""Predicted and measured at each cut."""


def workspace(project: str, entity: str, only: dict[str, object] | None = None) -> ws.Workspace:
    """The workspace for a project's runs; `only` {field of a run: value} narrows them down.

    Needs no server. Raises `UserError` for a field that runs do not have.
    """
    only = only or {}
    for field in only:
        if field not in DEFAULTS:
            raise UserError(
                f"filter must name a field of a run ({', '.join(DEFAULTS)}), got {field!r}"
            )
    chosen = ", ".join(f"{field} {value}" for field, value in only.items())
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Measures compared{f' ({chosen})' if chosen else ''}",
        sections=[
            ws.Section(
                "Convergence", _curves(CONVERGENCE), is_open=True, pinned=True, layout_settings=WIDE
            ),
            ws.Section("Cuts: before and after", _cuts(), is_open=True, layout_settings=NARROW),
            ws.Section(
                "Cuts: predicted and actual", _predictions(), is_open=True, layout_settings=WIDE
            ),
            ws.Section("Gradient flow", _curves(FLOW), is_open=True, layout_settings=NARROW),
            ws.Section("Accuracy against cost", _costs(), is_open=True, layout_settings=NARROW),
            ws.Section("Course of training", _curves(COURSE), layout_settings=NARROW),
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


def _curves(quantities: tuple[Quantity, ...]) -> list[wr.LinePlot]:
    return [_line(q.name, [q.key], q, "epoch") for q in quantities]


def _line(title: str, keys: list[str], quantity: Quantity, x: str) -> wr.LinePlot:
    return wr.LinePlot(
        title=title, x=x, y=keys, title_x=x.rpartition("/")[2], title_y=quantity.name, log_y=quantity.log or None,
        groupby_aggfunc="mean", groupby_rangefunc="stddev", max_runs_to_show=MAX_RUNS,
    )  # fmt: skip


def _bars(title: str, keys: list[str]) -> wr.BarPlot:
    return wr.BarPlot(
        title=title,
        metrics=keys,
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_runs_to_show=MAX_RUNS,
    )


def _cuts() -> list[wr.LinePlot | wr.BarPlot]:
    """Bars for the last cut, lines over the rounds."""
    panels = []
    for quantity in STATES:
        keys = [f"cut/before/{quantity.key}", f"cut/after/{quantity.key}"]
        panels.append(_bars(f"{quantity.name} before and after the last cut", keys))
        panels.append(
            _line(f"{quantity.name} before and after each cut", keys, quantity, "cut/round")
        )
    return panels


def _predictions() -> list[wr.ScatterPlot | wr.BarPlot]:
    panels = []
    for quantity in CHANGES:
        keys = [f"cut/{kind}/{quantity.key}" for kind in ("predicted", "actual")]
        predicted, actual = (wr.SummaryMetric(key) for key in keys)
        title = f"{quantity.name} at the last cut, predicted and actual"
        panels += [wr.ScatterPlot(title=title, x=predicted, y=actual), _bars(title, keys)]
    return panels


def _costs() -> list[wr.ScatterPlot | wr.BarPlot]:
    accuracy = wr.SummaryMetric("test/accuracy")
    costs = (Quantity("net/params", "parameters"), Quantity("net/macs", "MACs"))
    against = [
        wr.ScatterPlot(
            title=f"test accuracy against {cost.name}",
            x=wr.SummaryMetric(cost.key),
            y=accuracy,
            log_x=True,
        )
        for cost in costs
    ]
    return [_bars("test accuracy after the last epoch", ["test/accuracy"]), *against]
