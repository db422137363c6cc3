"""What `plan`, `run` and `status` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from benchmark.config import DEFAULTS, RunConfig
from benchmark.errors import UserError
from benchmark.locks import is_held
from benchmark.options import Options
from benchmark.record import COLLAPSED, DIVERGED, FINISHED, Record
from benchmark.schedule import schedule
from benchmark.tracking.tracker import require_key
from sweeps.engines.drive import Engine, drive
from sweeps.engines.worker import Done, Epoch, Event, Failed, Lost
from sweeps.grid import Grid
from sweeps.placement import placement

MISSING = 1
LOG_LINES = 5
"""Lines of a failed attempt's log that are shown."""
LOGS_SHOWN = 5
"""Failed runs whose logs stand below the table."""
LABEL_FIELDS = ("measure", "arch", "dataset", "ratio", "prune_epoch", "rounds", "seed")
"""Fields that `RunConfig.label` shows."""


def plan(grid: Grid, options: Options, workers: int) -> int:
    """Print what a grid holds and what it would cost."""
    finished = sum(Record(options.runs / config.run_id).finished for config in grid.configs)
    cells = {config.cell for config in grid.configs}
    print(
        f"{grid.name}: {len(grid.configs)} runs in {len(cells)} cells ({grid.points} grid points)"
    )
    if grid.blind:
        measures = " and ".join(sorted({config.measure for config in grid.blind}))
        print(
            f"left out: {len(grid.blind)} runs cut at initialisation, where all filters score alike, by {measures}"
        )
    print(f"finished in {options.runs}: {finished} of {len(grid.configs)}")
    print(
        f"epochs: {grid.epochs():,} if each run trained alone; the shared dense phase saves {grid.shared_epochs():,}"
    )
    print(_estimate(grid, options, workers))
    return 0


def _estimate(grid: Grid, options: Options, workers: int) -> str:
    from sweeps.estimate import seconds_to_train  # here, because it imports torch

    places = placement(options, workers, per_gpu=1)
    workers = len(places)
    options.prepare()
    device = options.device_name()
    try:
        hours = seconds_to_train(grid.epochs_to_train, options) / workers / 3600
    except UserError as error:
        return f"estimate: none ({error})"
    text = (
        f"{hours:,.0f} h"
        if hours > 10
        else f"{hours:.1f} h"
        if hours > 1
        else f"{hours * 60:.0f} min"
    )
    return (
        f"estimate: {text} with {workers} workers on {device}, at the rates of the dense nets timed "
        "just now, tests and cuts not counted (pruned nets are faster)"
    )


def run(grid: Grid, options: Options, engine: Callable[..., Engine], retries: int) -> int:
    """Run what is missing, with a progress display; the exit status is 1 while any run is
    missing."""
    if options.wandb == "online":
        require_key()
    console = Console()
    board = _Board(console, grid.configs, options.runs)
    with board.progress:
        outcome = drive(grid.configs, options, engine, board.show, retries=retries)
    for run_id, error in outcome.failed.items():
        console.print(f"failed: {run_id} {board.labels[run_id]}: {error}", markup=False)
    if outcome.done:
        console.print(
            f"{1 - outcome.busy / outcome.wall:.0%} of the workers' time went into neither training nor scoring"
        )
    complete = len(outcome.done) + len(outcome.skipped)
    console.print(f"{complete} of {len(grid.configs)} runs are finished in {options.runs}")
    return 0 if complete == len(grid.configs) else MISSING


def status(grid: Grid, runs: Path, *, json: bool = False) -> int:
    """Print the states of a grid's runs, by cell or as JSON; the exit status is 1 while any run is
    missing."""
    found = [state(config, runs) for config in grid.configs]
    counts = Counter(run.state for run in found)
    complete = all(run.ended for run in found)
    if json:
        document = {
            "grid": grid.name,
            "complete": complete,
            "states": counts,
            "runs": [asdict(run) for run in found],
        }
        print(dumps(document, indent=1))
    else:
        _print_table(grid, found)
        print(f"{grid.name}: {_counted(counts)} of {len(found)} runs in {runs}")
    return 0 if complete else MISSING


@dataclass(frozen=True)
class RunState:
    """How far a run has come."""

    run_id: str
    cell: str
    label: str
    state: str
    """finished, diverged or collapsed (it has ended); running, stopped (begun), failed; or
    missing."""
    epoch: int
    """Epochs trained so far."""
    total: int
    """Epochs in all."""
    error: str | None
    """Why the last attempt failed."""
    log: list[str]
    """The last lines of its log."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.state in (FINISHED, DIVERGED, COLLAPSED)


def state(config: RunConfig, runs: Path) -> RunState:
    """The state of one run. Raises `UserError` for a broken record."""
    record = Record(runs / config.run_id)
    error, log = None, []
    if not record.config_file.exists():
        name = "missing"
    else:
        record.checked_config()
        if record.finished:
            name = record.summary().get("outcome", FINISHED)
        elif is_held(record.lock_file):
            name = "running"
        elif failure := record.failure():
            name, error, log = "failed", failure["error"], failure["log"].splitlines()[-LOG_LINES:]
        else:
            name = "stopped"
    epoch, total = record.last_epoch(), schedule(config).total
    return RunState(config.run_id, config.cell, config.label, name, epoch, total, error, log)


def _print_table(grid: Grid, found: list[RunState]) -> None:
    console = Console(highlight=False)
    table = Table("cell", "runs", "state", "epochs", "last error")
    cells: dict[str, list[RunState]] = {}
    for run in found:
        cells.setdefault(run.cell, []).append(run)
    names = _cell_names(grid)
    for cell, members in cells.items():
        epochs = f"{sum(run.epoch for run in members)}/{sum(run.total for run in members)}"
        error = next((run.error for run in reversed(members) if run.error), "")
        table.add_row(
            cell,
            names[cell],
            _counted(Counter(run.state for run in members)),
            epochs,
            escape(error),
        )
    console.print(table)
    failed = [run for run in found if run.state == "failed"]
    for run in failed[:LOGS_SHOWN]:
        console.print(
            f"failed: {run.run_id} {run.label}: {run.error}", markup=False, soft_wrap=True
        )
        for line in run.log:
            console.print(f"    {line}", markup=False, soft_wrap=True)
    if len(failed) > LOGS_SHOWN:
        console.print(f"... and {len(failed) - LOGS_SHOWN} more; --json lists them all")


def _cell_names(grid: Grid) -> dict[str, str]:
    """{cell: the label without its seed, and what else tells the cells of this grid apart}."""
    dense, cut = (
        [c for c in grid.configs if (c.measure == "none") is control] for control in (True, False)
    )
    free = [name for name in DEFAULTS if name not in LABEL_FIELDS]
    others = [
        name
        for name in free
        if any(len({getattr(c, name) for c in group}) > 1 for group in (dense, cut))
    ]
    names = {}
    for config in grid.configs:
        extra = [
            f"{name}={getattr(config, name)}"
            for name in others
            if getattr(config, name) != DEFAULTS[name]
        ]
        names[config.cell] = " ".join([config.label.rpartition(" ")[0], *extra])
    return names


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


class _Board:
    """The progress display: a bar in epochs, counts, and a line for each run that ends."""

    def __init__(self, console: Console, configs: list[RunConfig], runs: Path) -> None:
        self.console = console
        self.labels = {config.run_id: config.label for config in configs}
        self.totals = {config.run_id: schedule(config).total for config in configs}
        before = {run_id for run_id in self.labels if Record(runs / run_id).finished}
        self.epoch = {
            run_id: total if run_id in before else 0 for run_id, total in self.totals.items()
        }
        self.rate: dict[str, float] = {}
        self.ended: Counter[str] = Counter()
        if before:
            self.ended["finished before"] = len(before)
            console.print(
                f"{len(before)} of {len(configs)} runs were finished before", highlight=False
            )
        self.progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("epochs  {task.fields[counts]}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, speed_estimate_period=600,
        )  # fmt: skip
        self.task = self.progress.add_task(
            "grid",
            total=sum(self.totals.values()),
            completed=sum(self.epoch.values()),
            counts=self._counts(),
        )

    def show(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Epoch):
            self.epoch[event.run_id] = event.row["epoch"]
            self.rate[event.run_id] = event.row["time/images_per_second"] or 0
        elif isinstance(event, Lost):
            self.rate.pop(event.run_id, None)
            self.console.print(
                f"its machine is gone, it goes on elsewhere: {self.labels[event.run_id]}",
                markup=False,
            )
        else:
            self.rate.pop(event.run_id, None)
            self.epoch[event.run_id] = self.totals[event.run_id]
            self._end(event)
        speed = f"  {sum(self.rate.values()):.0f} images/s" if self.rate else ""
        self.progress.update(
            self.task, completed=sum(self.epoch.values()), counts=f"{self._counts()}{speed}"
        )

    def _counts(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in self.ended.items())

    def _end(self, event: Done | Failed) -> None:
        if isinstance(event, Done):
            name = event.summary["outcome"]
            text = f"{name}: {self.labels[event.run_id]}  test accuracy {event.summary['test/accuracy']:.2%}"
        else:
            name, text = "failed", f"failed: {self.labels[event.run_id]}: {event.error}"
        self.ended[name] += 1
        number = f"[{sum(self.ended.values())}/{len(self.labels)}]"
        self.console.print(f"{number} {text}", markup=False, highlight=False)
