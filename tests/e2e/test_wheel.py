"""The wheel: built, installed into an environment of its own, and used from folders that have
nothing to do with the suite."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.components import COMPONENTS

ROOT = Path(__file__).parents[2]
SOURCES = "analysis", "benchmark", "sweeps", "LICENSE", "README.md", "pyproject.toml"
DATA = {".css", ".html", ".js", ".typed", ".yaml"}
"""Endings of the files that are needed besides Python's."""
FIELDS = {"width": 1, "epochs": 2, "score_samples": 20, "probe_samples": 20, "batch_size": 20}
QUIET = "--wandb=disabled", "--device=cpu"
HOSTILE = "analysis", "benchmark", "pickle", "random", "sweeps"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources, in which nothing is left of earlier builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source)
    pip(sys.executable, "wheel", "--no-build-isolation", "--wheel-dir", out, source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of the commands of an environment that has the wheel.

    It finds the packages that the wheel depends on where this process does. The suite itself, if it
    is installed there for development, is not found: that needs a .pth file of that folder.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    commands = folder / "bin"
    pip(commands / "python", "install", "--no-index", wheel)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return commands


def pip(python, *arguments):
    line = [sys.executable, "-m", "pip", "--python", python, *arguments, "--no-deps"]
    subprocess.run([*map(str, line), "--quiet"], check=True, capture_output=True)


@pytest.fixture
def execute(installed, tmp_path):
    """What executes a command of the environment in an empty folder, and returns what it
    prints."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}

    def execute(command, *arguments):
        line = [installed / command, *arguments]
        done = subprocess.run(
            [*map(str, line)], cwd=tmp_path, env=environment | {"COLUMNS": "160"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    return execute


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel):
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in ("analysis", "benchmark", "sweeps")
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", *DATA}
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == ours


def test_the_environment_has_the_wheel(execute, installed):
    for package in ("analysis", "benchmark", "sweeps"):
        code = f"import {package}; print({package}.__file__)"
        assert Path(execute("python", "-P", "-c", code).strip()).is_relative_to(installed.parent)


def test_grids_by_name_and_modules_as_commands(execute):
    assert "demo" in execute("flowprune", "list", "grids")
    assert "35 runs" in execute("flowprune", "sweep", "plan", "demo")
    assert "35 runs" in execute("python", "-m", "sweeps", "plan", "demo")


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param((), id="empty folder", marks=pytest.mark.long),
        pytest.param(HOSTILE, id="hostile folder"),
    ],
)
def test_components_from_outside_through_all_commands(execute, tmp_path, modules):
    for name in modules:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was run')")
    measure, arch, data = (file for file, _ in COMPONENTS.values())
    (tmp_path / "my").mkdir()
    for file, text in COMPONENTS.values():
        (tmp_path / "my" / file).write_text(text)
    for what, file in {"measures": measure, "archs": arch, "datasets": data}.items():
        assert f"{Path(file).stem}@" in execute("flowprune", "list", what, f"my/{file}")
        assert "is fine" in execute("flowprune", "check", f"my/{file}")

    flags = [f"--{name}={value}" for name, value in FIELDS.items()]
    named = [f"--measure=my/{measure}", f"--arch=my/{arch}", f"--dataset=my/{data}"]
    assert "squared_taylor@" in execute("flowprune", "run", *named, *flags, *QUIET)
    parameters = FIELDS | {"arch": f"my/{arch}", "dataset": f"my/{data}"}
    grid = {name: {"value": value} for name, value in parameters.items()}
    grid["measure"] = {"values": [f"my/{measure}", "magnitude"]}
    text = yaml.safe_dump({"method": "grid", "parameters": grid})
    (tmp_path / "grid.yaml").write_text(text)
    execute("flowprune", "sweep", "run", "grid.yaml", "--workers", 2, *QUIET)
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/config.json")]
    names = {record["measure"].partition("@")[0] for record in records}
    assert names == {"squared_taylor", "magnitude"}
    assert len(records) == 2

    execute("flowprune", "report", "runs", "--out", "report")
    assert "squared_taylor" in (tmp_path / "report" / "index.html").read_text()
    pair = f"my/{measure}=magnitude"
    execute("flowprune", "compare", "runs", "runs", "--measures", pair, "--out", "pair")
    assert "squared_taylor" in (tmp_path / "pair" / "compare.html").read_text()
