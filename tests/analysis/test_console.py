"""The command `flowprune`: it finds the other commands, whatever lies in the working folder."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from analysis import catalogue
from benchmark import __version__, registry
from benchmark.errors import UserError
from sweeps.grid import load, shipped
from tests.e2e.test_layout import HEAVY
from tests.support.commands import command, refusal
from tests.support.components import COSINE, packaged

ROOT = Path(__file__).parents[2]
HELP = ["--help"], ["--version"], *([name, "--help"] for name in ("run", "push", "compare", "list"))


def flowprune(*arguments, cwd, code=""):
    """The command as a script in another folder starts it."""
    start = "import sys\nfrom analysis.console import main\ntry:\n    main()\nfinally:\n    "
    program = start + (code or "pass")
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *map(str, arguments)], cwd=cwd,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_script_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"flowprune": "analysis.console:main"}
    assert "*.yaml" in project["tool"]["setuptools"]["package-data"]["sweeps"]


@pytest.mark.parametrize("line", HELP, ids=" ".join)
def test_help_is_quick_and_says_how_the_command_is_called(line, tmp_path):
    for name in ("analysis", "benchmark", "pickle", "sweeps"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was run')")
    done = flowprune(*line, cwd=tmp_path, code=f"print('heavy:', *({HEAVY!r} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    said = f"flowprune {__version__}" if line == ["--version"] else "usage: flowprune"
    assert said in done.stdout
    assert len(line) == 1 or f"usage: flowprune {line[0]}" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy:"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["gravity"], "command must be one of run, sweep, report"),
        (["run", "--mesure", "x"], "(see flowprune run --help)"),
        (["report", "nowhere"], "nowhere"),
        (["compare", "nowhere", "nowhere"], "nowhere"),
        (["sweep", "plan", "demoo"], "grid file demoo does not exist; the grids of the suite are"),
        (["list", "nets"], "(see flowprune list --help)"),
        (["list", "grids", "mine.yaml"], "grid file mine.yaml does not exist"),
        (["list", "measures", "mine.py"], "measure file mine.py does not exist"),
    ],
)
def test_bad_input(line, message, tmp_path):
    done = command("analysis.console", *line, cwd=tmp_path)
    assert message in refusal(done)


def test_grids_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert {"demo", "paper", "quick"} <= set(shipped())
    assert load(Path("demo")).configs == load(ROOT / "sweeps" / "demo.yaml").configs
    done = command("analysis.console", "sweep", "status", "demo", cwd=tmp_path)
    assert done.returncode == 1
    assert "demo: 35 missing of 35 runs in runs" in done.stdout


def test_tables(folder):
    titles, rows = catalogue.table(catalogue.List("measures", ("my/cosine.py",)))
    assert titles == ("name", "order", "paper", "equation", "source", "where from")
    found = {row[0]: row[1:] for row in rows}
    assert found["loss"][:3] == ("1", "yes", "sum |w g|")
    assert found["loss"][3].startswith("Lubana & Dick, ICLR 2021, equation 5")
    assert all(row[4] == "suite" for name, row in found.items() if "@" not in name)
    name = registry.resolve("measures", "my/cosine.py")
    assert found[name] == ("1", "", "|w.g| / |w|", "a test", "my/cosine.py")
    assert set(found) == {*registry.names("measures"), name}
    for what, kind in {"archs": "models", "datasets": "data"}.items():
        rows = catalogue.table(catalogue.List(what))[1]
        more = ["torchvision:NAME"] if kind == "models" else []
        assert [row[0] for row in rows] == [*registry.names(kind), *more]
        assert all(len(row[1]) > 20 for row in rows), rows
    (folder / "mine.yaml").write_text(
        "# A grid of mine.\nmethod: grid\nparameters: {measure: {values: [loss, my/cosine.py]}}"
    )
    titles, rows = catalogue.table(catalogue.List("grids", ("mine.yaml",)))
    assert titles == ("name", "runs", "what it is", "where from")
    assert [row[0] for row in rows] == [*sorted(shipped()), "mine"]
    assert rows[-1] == ("mine", "2", "A grid of mine", "mine.yaml")
    assert all(len(row[2]) > 20 and row[3] == "suite" for row in rows[:-1])
    assert next(row[1] for row in rows if row[0] == "demo") == "35"
    done = command("analysis.console", "list", "measures", cwd=folder, COLUMNS="120")
    assert done.returncode == 0, done.stderr
    assert "grad_preservation" in done.stdout


def test_measures_of_packages_are_listed(tmp_path, monkeypatch):
    packaged(tmp_path / "site", measures="cosine = cosine")
    (tmp_path / "site" / "cosine.py").write_text(COSINE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    rows = catalogue.table(catalogue.List("measures"))[1]
    assert rows[-1][0].startswith("cosine@")
    assert rows[-1][-1] == "package site"
    packaged(tmp_path / "clash", measures="loss = cosine")
    monkeypatch.syspath_prepend(tmp_path / "clash")
    with pytest.raises(UserError, match="package clash declares loss, which is a component of the"):
        catalogue.table(catalogue.List("measures"))
