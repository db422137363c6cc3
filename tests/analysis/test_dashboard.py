"""The W&B workspace: what it shows, without a server; and the command, against one on loopback."""

import json
import os
import subprocess
import sys
from functools import partial

import pytest

from analysis.report import style
from benchmark.errors import UserError
from benchmark.measures import MEASURES
from benchmark.record import HISTORY_KEYS, Record
from benchmark.tracking.rows import CUT_KEYS, sent_rows
from tests.support import commands
from tests.support.commands import refusal
from tests.support.simulate import grid, simulate
from tests.support.wandb_server import ENTITY, Run, serving

pytest.importorskip(
    "wandb_workspaces",
    reason="wandb-workspaces is not installed (pip install 'flowprune[dashboards]')",
)

from analysis import dashboard

AXES = ("metrics", "xAxis", "yAxis", "zAxis")


def section(**only):
    return json.loads(dashboard.as_json(dashboard.workspace("p", "e", only)))["spec"]["section"]


def panels():
    return [panel for part in section()["panelBankConfig"]["sections"] for panel in part["panels"]]


def test_every_panel_shows_keys_that_runs_log(tmp_path):
    simulate(tmp_path, grid(measures=("loss",), timings=(4,), seeds=(0,), dense=False))
    (folder,) = tmp_path.iterdir()
    record = Record(folder)
    logged = {key for row in sent_rows(record.history(), record.cuts()) for key in row}
    shown = [panel["config"].get(axis, []) for panel in panels() for axis in AXES]
    keys = {
        key.removeprefix("summary:")
        for part in shown
        for key in ([part] if isinstance(part, str) else part)
    }
    assert keys <= logged
    assert set(CUT_KEYS) <= keys
    assert {key for key in HISTORY_KEYS if key.startswith(("flow/", "train/", "test/"))} <= keys


def test_runs_are_grouped_by_measure_in_the_colours_of_the_figures():
    shown = section()
    (runs,) = shown["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["measure.value"]
    assert len(shown["customRunColors"]) == len(MEASURES)
    for measure in MEASURES:
        (color,) = [
            color
            for key, color in shown["customRunColors"].items()
            if key.endswith(f"%22{measure}%22%7D%5D")
        ]
        assert color == style.look(measure).color
    assert {panel["config"]["groupAgg"] for panel in panels() if "groupAgg" in panel["config"]} == {
        "mean"
    }


def test_sections_are_by_topic_and_convergence_comes_first():
    names = [part["name"] for part in section()["panelBankConfig"]["sections"]]
    assert names == [
        "Convergence", "Cuts", "Gradient flow", "Accuracy against cost", "Course of training",
    ]  # fmt: skip
    first = panels()[0]["config"]
    assert (first["metrics"], first["xAxis"], first["yLogScale"]) == (["train/loss"], "epoch", True)


def test_filters_narrow_the_runs_down():
    only = dashboard.parsed_filters(("arch=resnet56", "prune_epoch=1", "ratio=0.5"))
    assert only == {"arch": "resnet56", "prune_epoch": 1, "ratio": 0.5}
    filters = section(**only)["runSets"][0]["filters"]["filters"]
    assert [(f["key"]["name"], f["op"], f["value"]) for f in filters] == [
        ("arch", "=", "resnet56"), ("prune_epoch", "=", 1), ("ratio", "=", 0.5),
    ]  # fmt: skip
    with pytest.raises(
        UserError, match=r"filter prune_epoch must be a number of epochs .*, got 'trained'"
    ):
        dashboard.parsed_filters(("prune_epoch=trained",))
    assert dashboard.parsed_filters(("prune_epoch=200",)) == {"prune_epoch": 200}
    with pytest.raises(UserError, match=r"filter must name a field of a run .*, got 'archi'"):
        dashboard.workspace("p", "e", {"archi": "vgg13"})


def command(*arguments, **environment):
    """`python -m analysis dashboard` in a new process: a fork shares its connection to W&B."""
    line = [sys.executable, "-m", "analysis", "dashboard", *map(str, arguments)]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_the_command_saves_a_view_and_says_where(tmp_path):
    with serving() as server:
        server.runs.append(Run(ENTITY, "pruning", "run"))
        result = command(
            "--project", "pruning", "--filter", "arch=vgg13", **server.environment(tmp_path)
        )
        (view,) = server.views.values()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"workspace: {server.url}/tester/pruning?nw=")
    assert (view["entityName"], view["projectName"], view["type"]) == (
        "tester",
        "pruning",
        "project-view",
    )
    assert view["displayName"] == "Measures compared (arch vgg13)"
    assert len(json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]) == 5


def test_an_unknown_project_is_not_made(tmp_path):
    with serving() as server:
        result = command("--project", "mistyped", "--report", **server.environment(tmp_path))
        assert server.views == {}
    assert refusal(result) == "W&B project tester/mistyped does not exist"
    assert result.stdout == ""


def test_the_command_saves_a_report_of_the_same_panels(tmp_path):
    with serving() as server:
        server.runs.append(Run(ENTITY, "pruning", "run"))
        result = command(
            "--project", "pruning", "--report", "--filter", "arch=vgg13",
            **server.environment(tmp_path),
        )  # fmt: skip
        (view,) = server.views.values()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"report: {server.url}/tester/pruning/reports/")
    assert (view["type"], view["displayName"]) == ("runs", "Measures compared (arch vgg13)")
    blocks = json.loads(view["spec"])["blocks"]
    titles = [b["children"][0]["text"] for b in blocks if b["type"] == "heading"]
    assert titles[0] == "Convergence"
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    sections = [grid["panelBankSectionConfig"]["panels"] for grid in grids]
    assert [len(found) for found in sections] == [
        len(part["panels"]) for part in section()["panelBankConfig"]["sections"]
    ]
    first = sections[0][0]["config"]
    assert (first["metrics"], first["xAxis"]) == (["train/loss"], "epoch")
    (runs,) = grids[0]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["measure.value"]
    assert runs["filters"]["filters"][0]["value"] == "vgg13"
    assert len(grids[0]["customRunColors"]) == len(MEASURES)


def test_the_command_writes_a_file_without_a_server(tmp_path):
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:1", "HOME": str(tmp_path)}
    result = command("--project", "pruning", "--json", tmp_path / "view.json", **nowhere)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads((tmp_path / "view.json").read_text())["project"] == "pruning"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "project"),
        (
            ["--project", "p", "--filter", "archi=vgg13"],
            "filter must be FIELD=VALUE with a field among measure, arch",
        ),
        (["--project", "p", "--filter", "arch=vgg 13"], "arch must be the name of"),
        (["--project", "p", "--report", "--json", "x"], "json must be given without"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(arguments, message):
    assert message in refusal(commands.command("analysis", "dashboard", *arguments))


def test_without_wandb_workspaces_is_one_line():
    hidden = partial(sys.modules.__setitem__, "wandb_workspaces", None)
    result = commands.command("analysis", "dashboard", "--project", "p", before=hidden)
    assert "pip install 'flowprune[dashboards]'" in refusal(result)


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--project", "p"], {"WANDB_API_KEY": ""}, "W&B did not save the workspace"),
        (["--project", "p", "--report"], {"WANDB_API_KEY": ""}, "not save the report"),
        pytest.param(
            ["--project", "p", "--entity", "e"],
            {"WANDB_BASE_URL": "http://127.0.0.1:1"},
            "W&B did not save",
            marks=[pytest.mark.slow, pytest.mark.long],  # W&B asks for 20 s
        ),
    ],
)
def test_a_server_that_saves_nothing_is_one_line(tmp_path, arguments, environment, message):
    with serving() as server:
        result = command(*arguments, **server.environment(tmp_path) | environment)
    assert message in refusal(result)
