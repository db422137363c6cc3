"""`python -m analysis SOURCE`: the report of runs; `compare A B`: two sources side by side;
`dashboard`: in W&B; `publish RUNS`: the compact records of a study; `descent FILE`: gradient flow
against gradient descent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from analysis.runs.pull import PREFIX, Pull
from benchmark.cli import guarded, parse
from benchmark.errors import UserError, require

if TYPE_CHECKING:
    from analysis.report.build import Report
    from benchmark.config import RunConfig

DESCRIPTION = (
    "Turn runs into figures, statistics and a verdict on each claim, as one page that needs no "
    "network."
)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Runs to read."""

    sources: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUNS|wandb:ENTITY/PROJECT")
    ]
    """Folders of run records (or of published studies), or W&B projects; runs of several are taken
    together."""
    grid: tyro.conf.UseAppendAction[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")]] = ()
    """Sweep file: take its runs alone; may be given for several files. A report says which of its
    runs are missing."""

    def configs(self) -> list[RunConfig] | None:
        """The runs of the sweep files, if any are given. Raises `UserError` if no source is
        named."""
        from sweeps.grid import load

        allowed = "a folder of runs, a published study, or wandb:ENTITY/PROJECT"
        if not self.sources:
            raise UserError(f"source is missing: {allowed}")
        runs = {config.run_id: config for grid in self.grid for config in load(grid).configs}
        return list(runs.values()) or None


@dataclass(frozen=True, kw_only=True)
class Command(Sources):
    out: Path = Path("report")
    """Folder to write: index.html, claims.json, figures/, tables/."""
    pull: tyro.conf.OmitArgPrefixes[Pull] = field(default_factory=Pull)


@dataclass(frozen=True, kw_only=True)
class Publish(Sources):
    """Write the finished runs of a study as a few Parquet files, with the figures and claims.json
    of their report."""

    out: Path
    """Folder to write, such as results/STUDY; a source of `python -m analysis` like any other."""


@dataclass(frozen=True)
class Dashboard:
    """Make a W&B workspace that compares the measures of a project: convergence, cuts, gradient
    flow, cost."""

    project: str
    """W&B project."""
    entity: str | None = None
    """W&B user or team (default: your own)."""
    filter: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE")] = ()
    """Show only these runs: arch=vgg13 prune_epoch=0, for example."""
    report: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make a W&B report with the same panels, which others can read, instead."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write it to a file instead, without a server."""


@dataclass(frozen=True)
class Compare:
    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="A B ...")]
    """Sources of runs, as for a report. With two, every difference is A minus B; with more, each
    minus the last. One source is compared with itself, measure by measure."""
    measures: tuple[str, ...] = ()
    """Measures to compare: x, or x=y for x of A against y of B (default: each that both have). Of
    one source, two or more: x y z, each minus the last."""
    fields: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=X=Y")] = ()
    """Compare runs of A with X in a field to runs of B with Y in it: protocol=paper=exact, for
    example."""
    out: Path | None = None
    """Folder to write compare.html, compare.json and compare.csv into (of one source, and of more
    than two, also a figure)."""


@dataclass(frozen=True)
class Descent:
    """Draw the check of gradient flow that python -m benchmark.descent measured."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The file descent.json."""
    out: Path = Path("descent")
    """Folder to write the figures and descent.md, with their captions, into."""


def main() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        execute_named(name, rest, f"python -m analysis {name}")
    else:
        execute_named("report", [name, *rest], "python -m analysis")


def is_word(name: str) -> bool:
    """Whether an argument is neither a flag nor a W&B project nor something that exists."""
    return not name.startswith(("-", PREFIX)) and "/" not in name and not Path(name).exists()


def execute_named(name: str, argv: Sequence[str], prog: str) -> None:
    """Execute a command, `report` or one of `COMMANDS`, and exit."""
    others = f"\n\nOther commands, each with --help: {', '.join(COMMANDS)}."
    report = DESCRIPTION if prog.startswith("flowprune") else DESCRIPTION + others
    kind, run, description = COMMANDS.get(name, (Command, execute, report))
    command = parse(kind, prog, description, argv)
    guarded(lambda: run(command))


def execute_compare(command: Compare) -> None:
    from analysis import compare, several

    if not command.sources:
        raise UserError("source is missing: compare needs two, or one and two or more --measures")
    if len(command.sources) == 2:
        way = compare
        found = compare.compare(*command.sources, command.measures, command.fields)
    else:
        require(not command.fields, "fields", " ".join(command.fields), "given for two sources")
        way, found = several, several.compare_several(command.sources, command.measures)
    way.show(found)
    if command.out is not None:
        print(f"comparison: {way.write(found, command.out)}")


def execute(command: Command) -> None:
    for source in filter(is_word, command.sources):
        raise UserError(
            f"{source!r} is neither a command ({', '.join(COMMANDS)}) nor a source of runs (a "
            f"folder of runs, a published study, or {PREFIX}ENTITY/PROJECT)"
        )
    from analysis.report.build import build  # so that --help needs neither pandas nor matplotlib

    report = build(command.sources, command.out, command.configs(), command.pull)
    show(report)
    print(f"report: {report.index}")


def execute_publish(command: Publish) -> None:
    from analysis.report.publish import publish

    show(publish(command.sources, command.out, command.configs()))
    print(f"published: {command.out}; python -m analysis {command.out} makes the report again")


def execute_descent(command: Descent) -> None:
    from analysis.descent import draw

    for sheet in draw(command.file, command.out):
        print(f"{command.out / sheet.name}.png: {sheet.title}")


def execute_dashboard(command: Dashboard) -> None:
    if find_spec("wandb_workspaces") is None:
        raise UserError(
            "a dashboard needs wandb-workspaces, not installed here: pip install "
            "'flowprune[dashboards]'"
        )
    from analysis import dashboard

    only = dashboard.parsed_filters(command.filter)
    if command.report and command.json:
        raise UserError("json must be given without report, which only a server can make")
    make = dashboard.report if command.report else dashboard.workspace
    if command.json is None:
        print(f"{make.__name__}: {dashboard.saved(make, command.project, command.entity, only)}")
    else:
        text = dashboard.as_json(make(command.project, command.entity or "", only))
        try:
            command.json.write_text(text)
        except OSError as error:
            raise UserError(f"file {command.json} cannot be written ({error.strerror})") from None
        print(f"{make.__name__}: {command.json}")


COLORS = {"supported": "green", "refuted": "red", "inconclusive": "yellow", "not tested": "dim"}


def show(report: Report) -> None:
    """Print what was found, and what is missing."""
    from rich.console import Console
    from rich.markup import escape

    from analysis.report.text import FILTERS, board_sentence, finding

    console = Console()
    for board in report.boards:
        console.print(f"[bold]Leaderboard at equal {FILTERS['budget'](board.budget)}[/]")
        console.print(f"   {escape(board_sentence(board))}")
    for item in report.judgements:
        console.print(f"[bold]{item.claim.id}[/] {escape(item.claim.plain)}")
        color = COLORS[item.verdict]
        console.print(f"   [{color}]{escape(finding(item))}[/]")
    missing, expected = len(report.completeness.missing), report.completeness.expected
    console.print(
        f"{expected - missing} of {expected} runs finished"
        + (f", {missing} missing" if missing else "")
    )


COMMANDS = {
    "compare": (
        Compare,
        execute_compare,
        "Compare sources of runs, or measures, paired run by run: A minus B.",
    ),
    "dashboard": (Dashboard, execute_dashboard, Dashboard.__doc__),
    "descent": (Descent, execute_descent, Descent.__doc__),
    "publish": (Publish, execute_publish, Publish.__doc__),
}
"""Commands by the first word of the command line. Any other word is a source, for a report."""


if __name__ == "__main__":
    main()
