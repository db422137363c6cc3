"""`python -m sweeps plan|run|status|push`: a grid of runs, on this machine or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Annotated, Literal

import tyro

from benchmark.cli import guarded, parse
from benchmark.errors import UserError, require
from benchmark.options import Options
from benchmark.outside import look_in

MOST_WORKERS = 10_000
DESCRIPTION = "Work through a grid of runs: W&B sweep files, executed by worker processes."


@dataclass(frozen=True)
class Plan:
    """Print the size of a grid: cells, epochs, epochs saved by the shared dense phase, and an
    estimate of the time."""

    grid: tyro.conf.Positional[Path]
    """Sweep file (YAML), or the name of one that is part of the suite: demo, quick, paper ..."""
    options: tyro.conf.OmitArgPrefixes[Options] = field(default_factory=Options)
    workers: int = 0
    """Runs at once (0: one on each GPU, or `per_gpu`; one per core if there is no GPU)."""


@dataclass(frozen=True)
class Run(Plan):
    """Execute the runs that are not finished. Exit status 1 while any run is missing."""

    per_gpu: int = 0
    """Runs at once on each GPU (0: as many as memory and cores allow; with Ray one)."""
    packed: int = 0
    """Runs at once in one process on each GPU, each with a stream of its own (0: a process for each
    run)."""
    engine: Literal["local", "ray"] = "local"
    """Worker processes on this machine, or tasks on a Ray cluster."""
    address: str | None = None
    """Ray cluster, HOST:PORT (default: RAY_ADDRESS, else the one that runs on this machine, else a
    new one on this machine alone)."""
    resources: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=AMOUNT")] = ()
    """What each run needs besides on a Ray cluster: memory=4e9 (bytes), or resources that its
    machines declare."""
    retries: int = 2
    """Number of further attempts at a run that failed."""
    epoch_limit: float = 0.0
    """Replace a worker that finishes no epoch, with its cut probe, within so many seconds (0: no
    limit)."""


@dataclass(frozen=True)
class Status:
    """Print which runs are finished, running, stopped, failed or missing, by cell. Exit status 1
    while any is missing."""

    grid: tyro.conf.Positional[Path]
    """Sweep file (YAML), or the name of one that is part of the suite: demo, quick, paper ..."""
    runs: Path = Path("runs")
    """Folder of the run records."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON document instead, with each run."""


@dataclass(frozen=True)
class Push:
    """Upload finished runs to a W&B project. Skips runs that are already uploaded and finishes
    partial uploads. Exit status 1 if some uploads failed."""

    runs: tyro.conf.Positional[Path]
    """Folder of the run records."""
    project: str
    """W&B project."""
    entity: str | None = None
    """User or team that the project belongs to (default: yours)."""
    figures: Annotated[Path | None, tyro.conf.arg(metavar="REPORT")] = None
    """Folder of a report: upload its figures as one more run."""
    suffix: str = ""
    """Upload runs as <run_id>-<suffix>. Needed if runs were deleted on the server, which does not
    accept a deleted id again."""


Command = (
    Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Push, tyro.conf.subcommand("push")]
)


def main(argv: Sequence[str] | None = None, prog: str = "python -m sweeps") -> None:
    command = parse(Command, prog, DESCRIPTION, argv)
    report = "flowprune report" if prog.startswith("flowprune") else "python -m analysis"
    guarded(lambda: execute(command, report))


def execute(command: Plan | Run | Status | Push, report: str) -> int:
    if isinstance(command, Push):
        from sweeps.push import push

        return push(command.runs, command.project, command.entity, command.figures, command.suffix)
    from sweeps import commands  # here, so that --help is quick
    from sweeps.grid import load

    look_in(command.runs if isinstance(command, Status) else command.options.runs)
    grid = load(command.grid)
    if isinstance(command, Status):
        return commands.status(grid, command.runs, json=command.json)
    for name in ("workers", "per_gpu", "packed"):
        value = getattr(command, name, 0)
        require(0 <= value <= MOST_WORKERS, name, value, f"from 0 to {MOST_WORKERS}")
    options = grid.options(command.options)
    if not isinstance(command, Run):
        return commands.plan(grid, options, command.workers)
    for name in ("retries", "epoch_limit"):
        require(getattr(command, name) >= 0, name, getattr(command, name), "at least 0")
    return commands.run(grid, options, engine(command), command.retries, report)


def engine(command: Run) -> partial:
    """What makes the engine that the command asks for. Raises `UserError` if it is not there."""
    settings = {name: getattr(command, name) for name in ("workers", "per_gpu", "epoch_limit")}
    if command.engine == "local":
        from sweeps.engines.local import LocalEngine

        if command.packed and command.per_gpu:
            raise UserError("packed must be given without per_gpu, which is for processes")
        for name in ("address", "resources"):
            if value := getattr(command, name):
                raise UserError(f"{name} is for --engine ray alone, got {value!r}")
        return partial(LocalEngine, **settings, packed=command.packed)
    if find_spec("ray") is None:
        raise UserError(
            "engine 'ray' needs Ray, which is not installed: pip install 'flowprune[ray]'"
        )
    require(not command.packed, "packed with engine=ray", command.packed, "0")
    more = dict(map(resource, command.resources))
    from sweeps.engines.ray import RayEngine

    return partial(RayEngine, **settings, address=command.address, resources=more)


def resource(text: str) -> tuple[str, float]:
    """`disk=1` -> ("disk", 1.0). Raises `UserError` for others."""
    name, _, amount = text.partition("=")
    try:
        number = float(amount)
    except ValueError:
        number = 0.0
    good = bool(name) and name not in ("CPU", "GPU") and 0 < number < inf
    require(good, "resources", text, "NAME=AMOUNT above 0 (--threads and --per-gpu give CPU, GPU)")
    return name, number


if __name__ == "__main__":
    main()
