"""`python -m analysis`: the report of a folder of runs, or of a W&B project."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from analysis.pull import Pull
from benchmark.cli import guarded, parse

if TYPE_CHECKING:
    from analysis.report import Report

DESCRIPTION = "Turn runs into figures, statistics and a verdict on each claim, as one page that needs no network."


@dataclass(frozen=True)
class Command:
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUNS|wandb:ENTITY/PROJECT")]
    """Folder of the run records, or a W&B project."""
    out: Path = Path("report")
    """Folder to write: index.html, claims.json, figures/, tables/."""
    grid: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Sweep file: analyse its runs alone, and say which of them are missing."""
    pull: tyro.conf.OmitArgPrefixes[Pull] = field(default_factory=Pull)


def main() -> None:
    command = parse(Command, "python -m analysis", DESCRIPTION)
    guarded(lambda: execute(command))


def execute(command: Command) -> None:
    from analysis.report import build  # here, so that --help needs neither pandas nor matplotlib

    grid = None
    if command.grid is not None:
        from sweeps.grid import load

        grid = load(command.grid).configs
    show(build(command.source, command.out, grid, command.pull))


def show(report: Report) -> None:
    """Print the verdicts, what is missing and where the page is."""
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
    print(f"report: {report.index}")


if __name__ == "__main__":
    main()
