"""What `plan`, `run` and `status` print."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from benchmark.config import RunConfig
from benchmark.options import Options
from benchmark.record import Record
from benchmark.schedule import schedule
from sweeps.grid import Grid
from sweeps.local import Event, drive
from sweeps.worker import Done, Epoch, Failed

MISSING = 1


def plan(grid: Grid, options: Options, workers: int) -> int:
    """Print what a grid holds and what it would cost."""
    from sweeps.estimate import seconds_per_epoch  # here, because it imports torch

    console = Console()
    finished = sum(Record(options.runs / config.run_id).finished for config in grid.configs)
    cells = {config.cell for config in grid.configs}
    alone, saved = grid.epochs(), grid.shared_epochs()
    rates = seconds_per_epoch(grid.configs, options)
    seconds = sum(rates[config.dense().cell] * schedule(config).total for config in grid.configs)
    hours = seconds * (alone - saved) / alone / workers / 3600
    console.print(f"{grid.name}: {len(grid.configs)} runs in {len(cells)} cells ({grid.points} grid points)")
    console.print(f"finished in {options.runs}: {finished} of {len(grid.configs)}")
    console.print(f"epochs: {alone:,} if each run trained alone; the shared dense phase saves {saved:,}")
    console.print(
        f"estimate: {hours:.2g} h with {workers} workers on {options.device_name()}, at the rates of the dense nets "
        "timed just now (pruned nets are faster)"
    )
    return 0


def run(grid: Grid, options: Options, workers: int) -> int:
    """Run what is missing, with a progress display; the exit status is 1 while any run is missing."""
    console = Console()
    board = _Board(console, grid.configs)
    with board.progress:
        try:
            outcome = drive(grid.configs, options, workers, board.show)
        except KeyboardInterrupt:
            console.print("stopped: finished epochs are kept, and the same command goes on from there")
            return 130
    if outcome.skipped:
        console.print(f"{len(outcome.skipped)} runs were finished before")
    for run_id, error in outcome.failed.items():
        console.print(f"failed: {run_id} {board.labels[run_id]}: {error}", markup=False)
    complete = len(outcome.done) + len(outcome.skipped)
    console.print(f"{complete} of {len(grid.configs)} runs are finished in {options.runs}")
    return 0 if complete == len(grid.configs) else MISSING


def status(grid: Grid, runs: Path) -> int:
    """Print a table of cells and the states of their runs; the exit status is 1 while any run is missing."""
    table = Table("cell", "runs", "state", "last error")
    cells: dict[str, list[RunConfig]] = {}
    for config in grid.configs:
        cells.setdefault(config.cell, []).append(config)
    complete = True
    for cell, configs in cells.items():
        found = [state(Record(runs / config.run_id)) for config in configs]
        count = Counter(name for name, _ in found)
        errors = [error for _, error in found if error]
        name = configs[0].label.rpartition(" ")[0]
        table.add_row(cell, name, ", ".join(f"{n} {s}" for s, n in count.items()), errors[-1] if errors else "")
        complete &= set(count) == {"finished"}
    Console().print(table)
    return 0 if complete else MISSING


def state(record: Record) -> tuple[str, str]:
    """finished, failed (with the error), running (begun, at least) or missing."""
    if record.finished:
        return "finished", ""
    if failure := record.failure():
        return "failed", failure["error"]
    return ("running", "") if record.config_file.exists() else ("missing", "")


class _Board:
    """The progress display: a bar in epochs, counts, and a line for each run that ends."""

    def __init__(self, console: Console, configs: list[RunConfig]) -> None:
        self.console = console
        self.labels = {config.run_id: config.label for config in configs}
        self.totals = {config.run_id: schedule(config).total for config in configs}
        self.epoch = dict.fromkeys(self.labels, 0)
        self.rate: dict[str, float] = {}
        self.ended: Counter[str] = Counter()
        self.progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("epochs  {task.fields[counts]}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, speed_estimate_period=600,
        )  # fmt: skip
        self.task = self.progress.add_task("grid", total=sum(self.totals.values()), counts="")

    def show(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Epoch):
            self.epoch[event.run_id] = event.row["epoch"]
            self.rate[event.run_id] = event.row["time/images_per_second"] or 0
        else:
            self.rate.pop(event.run_id, None)
            self.epoch[event.run_id] = self.totals[event.run_id]
            self._end(event)
        counts = ", ".join(f"{count} {name}" for name, count in self.ended.items())
        speed = f"{sum(self.rate.values()):.0f} images/s"
        self.progress.update(self.task, completed=sum(self.epoch.values()), counts=f"{counts}  {speed}")

    def _end(self, event: Done | Failed) -> None:
        if isinstance(event, Done):
            name = event.summary["outcome"]
            text = f"{name}: {self.labels[event.run_id]}  test accuracy {event.summary['test/accuracy']:.2%}"
        else:
            name, text = "failed", f"failed: {self.labels[event.run_id]}: {event.error}"
        self.ended[name] += 1
        number = f"[{sum(self.ended.values())}/{len(self.labels)}]"
        self.console.print(f"{number} {text}", markup=False, highlight=False)
