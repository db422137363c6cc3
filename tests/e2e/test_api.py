"""The page of functions: it is up to date, and has what README and tutorial use."""

import ast
import re
from collections.abc import Iterator

import nbformat

from tests.e2e.test_docs import FENCE
from tests.support.make_api import PAGE, page
from tests.support.make_tutorial import TUTORIAL

README = PAGE.parents[1] / "README.md"
PACKAGES = "benchmark", "analysis", "sweeps"


def programs() -> Iterator[str]:
    yield from (
        text for _, language, text in FENCE.findall(README.read_text()) if language == "python"
    )
    cells = nbformat.read(TUTORIAL, as_version=4).cells
    yield from (cell.source for cell in cells if cell.cell_type == "code")


def imported(program: str) -> Iterator[str]:
    """The names of the suite that a program imports or refers to."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("benchmark."):
            yield ast.unparse(node)


def test_it_is_up_to_date():
    assert PAGE.read_text() == page(), "python -m tests.support.make_api writes it"


def test_it_describes_what_readme_and_tutorial_use():
    described = re.findall(r"^### (.*)$", PAGE.read_text(), re.MULTILINE)
    used = {name for program in programs() for name in imported(program)} - {"benchmark.data"}
    assert len(used) >= 10
    assert used <= set(described)


def test_its_lines_are_short():
    assert max(map(len, PAGE.read_text().splitlines())) <= 100
