"""What `plan`, `run` and `status` print."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from benchmark.config import DEFAULTS, LABELLED, RunConfig
from benchmark.errors import UserError, require
from benchmark.locks import is_held
from benchmark.options import Options
from benchmark.record import OUTCOMES, Record
from benchmark.schedule import schedule
from benchmark.tracking.api import address, asking, connect
from benchmark.tracking.tracker import PROJECT, require_key
from sweeps.engines.drive import Engine, drive
from sweeps.engines.events import Done, Epoch, Event, Failed, Waits
from sweeps.grid import Grid
from sweeps.placement import placement

MISSING = 1
UNITS = {"years": 365 * 86400, "days": 86400, "hours": 3600, "minutes": 60}
"""{unit of time: its seconds}"""
GPU_RATE = 1e13
"""Operations a second of the GPU that an estimate is made for."""
LOG_LINES = 5
"""Lines of the log of a failed attempt that are shown."""
NAMED = 4
"""Runs at work that the display names."""
LOGS_SHOWN = 5
"""Failed runs whose logs are printed below the table."""


def plan(grid: Grid, options: Options, workers: int) -> int:
    """Print what a grid holds and what it would cost."""
    cells = {config.cell for config in grid.configs}
    print(
        f"{grid.name}: {len(grid.configs)} runs in {len(cells)} cells ({grid.points} grid points)"
    )
    if grid.blind:
        measures = " and ".join(sorted({config.measure for config in grid.blind}))
        print(
            f"left out: {len(grid.blind)} runs cut at initialisation, where all filters score "
            f"alike, by {measures}"
        )
    finished = sum(Record(options.runs / config.run_id).finished for config in grid.configs)
    print(f"finished in {options.runs}: {finished} of {len(grid.configs)}")
    print(
        f"epochs: {grid.epochs():,} if each run trained alone; the shared dense phase saves "
        f"{grid.shared_epochs():,}"
    )
    print(f"estimate: {_estimate(grid, options, workers)}")
    return 0


def _estimate(grid: Grid, options: Options, workers: int) -> str:
    from sweeps.estimate import to_train  # here, because it imports torch

    workers = len(placement(options, workers, per_gpu=1))
    options.prepare()
    try:
        with options.applied():
            seconds, operations = to_train(grid.epochs_to_train, options)
    except UserError as error:
        return f"none ({error})"
    text = (
        f"{duration(seconds / workers)} with {workers} workers on {options.device_name()}, at "
        "the rates of the dense nets timed just now, tests and cuts not counted (pruned nets are "
        "faster)"
    )
    if options.torch_device().type == "cuda":
        return text
    on_gpu = duration(operations / GPU_RATE)
    return (
        f"{text}\non a GPU: {on_gpu}, if it sustains {GPU_RATE / 1e12:g} trillion operations a "
        "second in training, which narrow nets do not reach"
    )


def duration(seconds: float) -> str:
    """A time in the unit in which people say it."""
    for unit, size in UNITS.items():
        if seconds >= size:
            number = seconds / size
            return f"{number:,.{int(number < 10)}f} {unit}"
    return "less than a minute"


def run(
    grid: Grid,
    options: Options,
    engine: Callable[..., Engine],
    retries: int,
    report: str = "python -m analysis",
) -> int:
    """Run what is missing, with a progress display; the exit status is 1 while any run is missing.

    report: the command that makes a report, which is named at the end.
    """
    if options.wandb == "online":
        require_key()
    console = Console()
    board = _Board(console, grid.configs, options.runs)
    with board.shown():
        outcome = drive(
            grid.configs, options, engine, board.show, retries=retries, at_work=board.set_at_work
        )
    for run_id, error in outcome.failed.items():
        console.print(f"failed: {run_id} {board.labels[run_id]}: {error}", markup=False)
    if outcome.bare:
        console.print(
            f"{len(outcome.bare)} runs were finished without model.pt ({outcome.bare[0]} is one): "
            "delete their folders to run them again with --keep-model"
        )
    if outcome.done:
        console.print(
            f"the workers spent {outcome.busy / outcome.wall:.0%} of their time on training, tests "
            "and cuts; the rest went into starting, waiting and cut probes"
        )
    complete = len(outcome.done) + len(outcome.skipped)
    console.print(f"{complete} of {len(grid.configs)} runs are finished in {options.runs}")
    if options.wandb == "online":
        console.print(f"W&B: {_address()}", soft_wrap=True)
    if complete:
        print(f"next: {report} {options.runs} --out report")
    return 0 if complete == len(grid.configs) else MISSING


def _address() -> str:
    """The page of the W&B project that the runs went to, or why it is not known."""
    try:
        with asking():
            entity = os.environ.get("WANDB_ENTITY") or connect().default_entity
            return address(entity, os.environ.get("WANDB_PROJECT", PROJECT))
    except UserError as error:
        return str(error)


def status(grid: Grid, runs: Path, *, json: bool = False) -> int:
    """Print the states of a grid's runs, by cell or as JSON; the exit status is 1 while any run is
    missing."""
    found = [state(config, runs) for config in grid.configs]
    states = Counter(run.state for run in found)
    complete = all(run.ended for run in found)
    if json:
        listed = [asdict(run) for run in found]
        document = {"grid": grid.name, "complete": complete, "states": states, "runs": listed}
        print(dumps(document, indent=1))
    else:
        _print_table(grid, found)
        print(f"{grid.name}: {_counted(states)} of {len(found)} runs in {runs}")
    return 0 if complete else MISSING


@dataclass(frozen=True)
class RunState:
    """How far a run has come."""

    run_id: str
    cell: str
    label: str
    state: str
    """finished, diverged or collapsed (the run has ended); running, stopped, failed; or missing."""
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
        return self.state in OUTCOMES


def state(config: RunConfig, runs: Path) -> RunState:
    """The state of one run. Raises `UserError` for a broken record."""
    record = Record(runs / config.run_id)
    failure = {"error": None, "log": ""}
    if not record.config_file.exists():
        name = "missing"
    else:
        record.checked_config()
        if record.finished:
            name = record.summary().get("outcome")
            allowed = " or ".join(OUTCOMES)
            require(
                name in list(OUTCOMES), f"record file {record.summary_file}: outcome", name, allowed
            )
        elif is_held(record.lock_file):
            name = "running"
        else:
            failure = record.failure() or failure
            name = "stopped" if failure["error"] is None else "failed"
    return RunState(
        config.run_id,
        config.cell,
        config.label,
        name,
        record.last_epoch(),
        schedule(config).total,
        failure["error"],
        failure["log"].splitlines()[-LOG_LINES:],
    )


def _print_table(grid: Grid, found: list[RunState]) -> None:
    console = Console(highlight=False)
    table = Table("runs", "state", "epochs", "last error", "cell")
    cells: dict[str, list[RunState]] = {}
    for run in found:
        cells.setdefault(run.cell, []).append(run)
    for cell, name in _cell_names(grid).items():
        members = cells[cell]
        epochs = f"{sum(run.epoch for run in members)}/{sum(run.total for run in members)}"
        error = next((run.error for run in reversed(members) if run.error), "")
        states = _counted(Counter(run.state for run in members))
        table.add_row(escape(name), states, epochs, escape(error), cell)
    console.print(table)
    failed = [run for run in found if run.state == "failed"]
    for run in failed[:LOGS_SHOWN]:
        for line in (
            f"failed: {run.run_id} {run.label}: {run.error}",
            *(f"    {line}" for line in run.log),
        ):
            console.print(line, markup=False, soft_wrap=True)
    if len(failed) > LOGS_SHOWN:
        console.print(f"... and {len(failed) - LOGS_SHOWN} more; --json lists them all")


def _cell_names(grid: Grid) -> dict[str, str]:
    """{cell: label without the seed, and the other fields that distinguish cells of this grid}"""
    groups = [
        [c for c in grid.configs if (c.measure == "none") is dense] for dense in (True, False)
    ]
    free = [
        name
        for name in DEFAULTS
        if name not in LABELLED
        and any(len({getattr(c, name) for c in group}) > 1 for group in groups)
    ]
    names = {}
    for config in grid.configs:
        fields = {name: getattr(config, name) for name in free}
        extra = [f"{name}={value}" for name, value in fields.items() if value != DEFAULTS[name]]
        names[config.cell] = " ".join([config.label.rpartition(" ")[0], *extra])
    return names


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


class _Board:
    """The progress display: a bar in epochs, counts, the runs at work, and a line for each run that
    ends."""

    def __init__(self, console: Console, configs: list[RunConfig], runs: Path) -> None:
        self.console = console
        self.labels = {config.run_id: config.label for config in configs}
        self.totals = {config.run_id: schedule(config).total for config in configs}
        before = {run_id for run_id in self.labels if Record(runs / run_id).finished}
        self.epochs = {run_id: self.totals[run_id] for run_id in before}
        self.rates: dict[str, float] = {}
        self.ended = Counter({"finished before": len(before)} if before else {})
        if before:
            console.print(
                f"{len(before)} of {len(configs)} runs were finished before", highlight=False
            )
        self.at_work: Sequence[str] = ()
        self.heard = False
        self.trained, self.start = 0, time.monotonic()
        self.progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[counts]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self.task = self.progress.add_task(
            "grid", total=sum(self.totals.values()), counts="", left=""
        )
        self.live = Live(get_renderable=self._rendered, console=console, transient=False)
        self._update()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it for a block; at the end no run is at work."""
        with self.live:
            try:
                yield
            finally:
                self.at_work = ()

    def set_at_work(self, run_ids: Sequence[str]) -> None:
        """Show which runs are at work."""
        self.at_work = run_ids

    def _rendered(self) -> Group:
        return Group(self.progress, Text(self.now(), "dim", no_wrap=True, overflow="ellipsis"))

    def now(self) -> str:
        """What is at work."""
        if not self.at_work:
            return ""
        labels = [self.labels[run_id] for run_id in self.at_work]
        more = [f"and {len(labels) - NAMED} more"] if len(labels) > NAMED else []
        what = "at work" if self.heard else "starting workers for"
        return f"{what}: {', '.join(labels[:NAMED] + more)}"

    def show(self, event: Event) -> None:
        """Show an event."""
        run_id, self.heard = event.run_id, True
        self.rates.pop(run_id, None)
        match event:
            case Epoch(row=row):
                self.trained += 1
                self.epochs[run_id] = row["epoch"]
                self.rates[run_id] = row["time/images_per_second"] or 0
            case Waits():
                self._print(f"its machine is gone, it continues elsewhere: {self.labels[run_id]}")
            case Done(summary=summary):
                accuracy = f"test accuracy {summary['test/accuracy']:.2%}"
                self._end(run_id, summary["outcome"], f"  {accuracy}")
            case Failed(error=error):
                self._end(run_id, "failed", f": {error}")
        self._update()

    def _end(self, run_id: str, outcome: str, text: str) -> None:
        self.epochs[run_id] = self.totals[run_id]
        self.ended[outcome] += 1
        number = f"[{self.ended.total()}/{len(self.labels)}]"
        self._print(f"{number} {outcome}: {self.labels[run_id]}{text}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def _update(self) -> None:
        rate = f"  {sum(self.rates.values()):.0f} images/s" if self.rates else ""
        completed, total = sum(self.epochs.values()), sum(self.totals.values())
        left = ""
        if self.trained and completed < total:
            spent = time.monotonic() - self.start
            left = f"{duration(spent / self.trained * (total - completed))} left"
        self.progress.update(
            self.task, completed=completed, counts=_counted(self.ended) + rate, left=left
        )
