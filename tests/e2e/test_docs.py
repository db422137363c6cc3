"""What README and docs say holds: their commands work, their links lead somewhere, and the records
page names every key.

The language of a fence says how it is tested. `bash` and `python` blocks are run as they are, in a
folder that has the finished runs of a smaller demo; `shell` blocks too, in the slow tests. Of `sh`
blocks, which need a network or hours, our own commands are only parsed.
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

import benchmark
from benchmark import cli, data
from benchmark.config import DEFAULTS
from benchmark.files import write_json
from benchmark.record import HISTORY_KEYS, Record, run_folders
from benchmark.registry import names
from benchmark.run import run
from sweeps.grid import load
from tests.conftest import tiny_run
from tests.support import simulate
from tests.support.commands import command
from tests.support.wandb_server import serving

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
LONG = [("README.md", 2)]
"""(page, number) of blocks of half a minute."""
OURS = re.compile(r"python -m ((?:benchmark|sweeps|analysis)[\w.]*)(.*)")


def blocks(*languages: str) -> list:
    """(language, text) of the fenced blocks in these languages that are no scripts."""
    found = []
    for page in PAGES:
        for number, (_, language, text) in enumerate(FENCE.findall(page.read_text()), start=1):
            if language in languages and not text.startswith("#!"):
                whole = (page.name, number) in LONG
                slow = [pytest.mark.slow] if language == "shell" or whole else []
                name = f"{page.name}-{number}"
                found.append(pytest.param(language, textwrap.dedent(text), id=name, marks=slow))
    return found


def lines(text: str) -> Iterator[str]:
    """The commands of a shell block, those that go on in another line as one."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield shlex.join(words)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What runs a command line in a folder with the finished runs of the demo, beside a W&B
    server."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "sweeps").mkdir()
    for source in (ROOT / "sweeps").glob("*.yaml"):
        (folder / "sweeps" / source.name).symlink_to(source)
    grid_file = folder / "sweeps" / "demo.yaml"
    grid = yaml.safe_load(grid_file.read_text())
    grid["parameters"] |= {
        "measure": {"values": ["none", "magnitude", "loss"]},
        "prune_epoch": {"value": 2},
        "seed": {"values": [0, 1, 2]},
    }
    grid_file.unlink()
    grid_file.write_text(yaml.safe_dump(grid))
    simulate.simulate(folder / "runs", load(grid_file).configs)
    digest = data.digest("digits", folder)
    for record in map(Record, run_folders(folder / "runs")):
        write_json(record.summary_file, record.summary() | {"data": digest})
    with serving() as server:
        environment = server.environment(folder / "home") | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

        def execute(line: str, *, script: bool = False) -> None:
            if script:
                (folder / "script.py").write_text(line)
                here = partial(sys.path.insert, 0, str(folder))
                result = command("script", cwd=folder, before=here, **environment)
            elif ours := OURS.fullmatch(line):
                result = command(ours[1], *shlex.split(ours[2]), cwd=folder, **environment)
            else:
                result = subprocess.run(
                    line, shell=True, cwd=folder, env=os.environ | environment,
                    capture_output=True, text=True,
                )  # fmt: skip
            assert result.returncode == 0, (line, result.stdout, result.stderr)

        yield execute


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize(("language", "text"), blocks("bash", "shell", "python"))
def test_a_block_works(language, text, demo):
    if language == "python":
        demo(text, script=True)
        return
    for line in lines(text):
        demo(line)


@pytest.mark.parametrize(("language", "text"), blocks("sh"))
def test_a_block_names_what_is_there(language, text):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in lines(text):
        for path in re.findall(r"\S+\.(?:yaml|py)\b", line):
            assert (ROOT / path).exists(), line
        if target := re.search(r"\bmake (\w+)", line):
            assert target[1] in targets, line
        if ours := OURS.search(line):
            result = command(ours[1], *shlex.split(ours[2]), before=parse_alone)
            assert result.returncode == 0, (line, result.stderr)


def parse_alone() -> None:
    """Make our commands do nothing once they have parsed their arguments."""
    cli.guarded = lambda command: None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file.read_text()), target


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    named = re.findall(r"`((?:benchmark|sweeps|analysis|tests)/[^`<\s]*)`", prose(page))
    assert [name for name in named if not list(ROOT.glob(name))] == []


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_records_page_names_every_key(options):
    config = tiny_run(measure="loss", epochs=2)
    summary = run(config, options)
    record = Record(options.runs / config.run_id)
    (cut,) = record.cuts()
    states = [key for part in ("before", "after", "predicted") for key in cut[part]]
    samples = [*summary["samples"], *summary["versions"], *summary["plan"]]
    named = set(re.findall(r"`([^`]+)`", prose(ROOT / "docs" / "records.md")))
    keys = {*DEFAULTS, *HISTORY_KEYS, *cut, *states, *summary, *samples}
    assert keys <= named, keys - named


@pytest.mark.parametrize("page", ["README.md", "docs/measures.md"])
def test_each_measure_is_named(page):
    named = set(re.findall(r"`([^`]+)`", prose(ROOT / page)))
    assert set(names("measures")) <= named


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == benchmark.__version__
    assert f"## {benchmark.__version__}" in (ROOT / "CHANGELOG.md").read_text()
