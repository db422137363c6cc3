"""`flowprune list`: what there is to choose from, as a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from benchmark import outside, registry
from benchmark.cli import guarded, parse
from benchmark.errors import UserError, one_line

DESCRIPTION = "Print what there is to choose from, as a table."
KINDS = {"measures": "measures", "archs": "models", "datasets": "data"}
SUITE = "suite"
TORCHVISION = (
    f"{registry.TORCHVISION}:NAME", "a net of torchvision.models, such as torchvision:resnet18",
    "torchvision",
)  # fmt: skip

Row = tuple[str, ...]


@dataclass(frozen=True)
class List:
    """Print what there is to choose from, as a table."""

    what: tyro.conf.Positional[Literal["measures", "archs", "datasets", "grids"]]
    """Components of the suite and of installed packages, or the grids that are part of the
    suite."""
    files: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files of your own to list too (sweep files for grids)."""


def main(argv: Sequence[str] | None = None, prog: str = "flowprune list") -> None:
    """Execute the command line."""
    command = parse(List, prog, DESCRIPTION, argv)
    guarded(lambda: show(command))


def show(command: List) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    titles, rows = table(command)
    shown = Table(Column(titles[0], overflow="fold", no_wrap=True), *titles[1:])
    for row in rows:
        shown.add_row(*map(escape, row))
    Console().print(shown)


def table(command: List) -> tuple[Row, list[Row]]:
    """The titles and the rows."""
    if command.what == "grids":
        return ("name", "runs", "what it is", "where from"), list(_grids(command.files))
    kind = KINDS[command.what]
    found = list(_components(kind, command.files))
    if kind == "measures":
        rows = [(name, *_measure(name), place) for name, place in found]
        return ("name", "order", "paper", "equation", "source", "where from"), rows
    rows = [(name, _sentence(registry.load(kind, name).__doc__), place) for name, place in found]
    if kind == "models":
        rows.append(TORCHVISION)
    return ("name", "what it is", "where from"), rows


def _components(kind: str, files: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, where it comes from)"""
    yield from ((name, SUITE) for name in registry.names(kind))
    for name, package in outside.declared(kind).items():
        if name in registry.names(kind):
            raise UserError(
                f"package {package} declares {name}, which is a component of the suite: remove it"
            )
        yield registry.resolve(kind, name), f"package {package}"
    for file in files:
        yield registry.resolve(kind, file), file


def _measure(name: str) -> Row:
    """Order of a measure, whether the paper uses it, its equation and source."""
    measure = registry.load_measure(name)
    text = one_line(measure.function.__doc__ or "")
    source = text.partition("Source: ")[2].partition(" Unlike")[0]
    return (
        str(measure.order),
        "yes" * measure.paper,
        _sentence(measure.function.__doc__),
        source.rstrip("."),
    )


def _sentence(text: str | None) -> str:
    """The first sentence of a docstring's first paragraph."""
    first = one_line((text or "").strip().partition("\n\n")[0])
    return re.split(r"(?<! al)\. ", first)[0].rstrip(".")


def _grids(files: Sequence[str]) -> Iterator[Row]:
    """(name, number of runs, the comment at the beginning of the file, where it comes from)"""
    from sweeps.grid import load, shipped

    ours = [(name, file, SUITE) for name, file in shipped().items()]
    for name, file, place in [*ours, *((Path(file).stem, Path(file), file) for file in files)]:
        yield name, f"{len(load(file).configs):,}", _comment(file), place


def _comment(file: Path) -> str:
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#"))
    return _sentence(" ".join(lines))
