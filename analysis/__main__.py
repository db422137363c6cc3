"""`python -m analysis SOURCE`: the report of runs; `compare A B`: two sources side by side; `dashboard`: in W&B;
`publish RUNS`: the compact records of a study."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from analysis.pull import Pull
from benchmark.cli import guarded, parse
from benchmark.errors import UserError

if TYPE_CHECKING:
    from analysis.report import Report
    from benchmark.config import RunConfig

DESCRIPTION = "Turn runs into figures, statistics and a verdict on each claim, as one page that needs no network."


@dataclass(frozen=True)
class Command:
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUNS|wandb:ENTITY/PROJECT")]
    """Folder of the run records (or of a published study), or a W&B project."""
    out: Path = Path("report")
    """Folder to write: index.html, claims.json, figures/, tables/."""
    grid: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Sweep file: analyse its runs alone, and say which of them are missing."""
    pull: tyro.conf.OmitArgPrefixes[Pull] = field(default_factory=Pull)


@dataclass(frozen=True)
class Publish:
    """Write the finished runs of a study as a few Parquet files, with the figures and claims.json of their report."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUNS|wandb:ENTITY/PROJECT")]
    """Folder of the run records, or a W&B project."""
    out: Path
    """Folder to write, such as results/STUDY; a source of `python -m analysis` like any other."""
    grid: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Sweep file: publish its runs alone."""


@dataclass(frozen=True)
class Dashboard:
    """Make a W&B workspace that compares the measures of a project: convergence, cuts, gradient flow, cost."""

    project: str
    """W&B project."""
    entity: str | None = None
    """W&B user or team (default: your own)."""
    filter: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=VALUE")] = ()
    """Show only these runs: arch=vgg13 prune_epoch=0, for example."""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the workspace to a file instead, without a server."""


@dataclass(frozen=True)
class Compare:
    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """Source of runs, as for a report."""
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """Source that A is compared with; every difference is A minus B."""
    measures: tuple[str, ...] = ()
    """Measures to compare: x, or x=y for x of A against y of B (default: each that both have)."""
    out: Path | None = None
    """Folder to write compare.html, compare.json and compare.csv into."""


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        name, *rest = sys.argv[1:]
        kind, run, description = COMMANDS[name]
        command = parse(kind, f"python -m analysis {name}", description, rest)
    else:
        run, command = execute, parse(Command, "python -m analysis", DESCRIPTION)
    guarded(lambda: run(command))


def execute_compare(command: Compare) -> None:
    from analysis import compare

    comparison = compare.compare(command.a, command.b, command.measures)
    compare.show(comparison)
    if command.out is not None:
        print(f"comparison: {compare.write(comparison, command.out)}")


def execute(command: Command) -> None:
    from analysis.report import build  # here, so that --help needs neither pandas nor matplotlib

    report = build(command.source, command.out, configs(command.grid), command.pull)
    show(report)
    print(f"report: {report.index}")


def execute_publish(command: Publish) -> None:
    from analysis.archive import publish

    show(publish(command.source, command.out, configs(command.grid)))
    print(f"published: {command.out}; python -m analysis {command.out} makes the report again")


def configs(grid: Path | None) -> list[RunConfig] | None:
    """The runs of a sweep file, if one is given."""
    if grid is None:
        return None
    from sweeps.grid import load

    return load(grid).configs


def execute_dashboard(command: Dashboard) -> None:
    if find_spec("wandb_workspaces") is None:
        raise UserError("a dashboard needs wandb-workspaces, not installed here: pip install 'flowprune[dashboards]'")
    from analysis import dashboard

    only = dashboard.parsed_filters(command.filter)
    if command.json is None:
        print(f"dashboard: {dashboard.saved(command.project, command.entity, only)}")
    else:
        command.json.write_text(dashboard.as_json(dashboard.workspace(command.project, command.entity or "", only)))
        print(f"dashboard: {command.json}")


def show(report: Report) -> None:
    """Print the verdicts and what is missing."""
    from rich.console import Console
    from rich.table import Table

    from analysis.report import number_text

    colors = {"supported": "green", "refuted": "red", "inconclusive": "yellow"}
    table = Table("claim", "verdict", "effect [95 % interval]", "n", title="Verdicts", title_justify="left")
    for item in report.judgements:
        verdict = f"[{colors[item.verdict]}]{item.verdict}[/]"
        table.add_row(f"{item.claim.id}  {item.claim.sentence}", verdict, number_text(item.number), str(item.number.n))
    console = Console()
    console.print(table)
    missing, expected = len(report.completeness.missing), report.completeness.expected
    console.print(f"{expected - missing} of {expected} runs finished" + (f", {missing} missing" if missing else ""))


COMMANDS = {
    "compare": (Compare, execute_compare, "Compare two sources of runs, paired run by run: A minus B."),
    "dashboard": (Dashboard, execute_dashboard, Dashboard.__doc__),
    "publish": (Publish, execute_publish, Publish.__doc__),
}
"""By the first word of the command line; any other is a source of runs, of which a report is made."""


if __name__ == "__main__":
    main()
