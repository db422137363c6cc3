"""`python -m benchmark.overhead`: what tracking costs a run, measured against the same run without it."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmark.cli import guarded, parse
from benchmark.config import RunConfig
from benchmark.errors import require
from benchmark.options import Options
from benchmark.track import MODES

DESCRIPTION = "Time a run on digits with and without tracking, each in a new process, in turn."
CONFIG = RunConfig(width=0.125, ratio=0.6, batch_size=64, score_samples=640, probe_samples=256)
PILOT_EPOCHS = 4


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """What to time."""

    modes: tuple[str, ...] = ("offline",)
    """Ways of tracking to compare with none: offline, online (to where `WANDB_BASE_URL` and the like say)."""
    seconds: float = 30.0
    """Length of the run, about."""
    repeats: int = 5
    """How often each is timed, in turn."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads (0: torch's choice)."""
    json: Path | None = None
    """Also write the numbers to this file."""


@dataclass(frozen=True)
class Cost:
    """Seconds from the first line of `run` to its end: importing wandb counts, importing torch does not."""

    wall: float
    cpu: float
    """CPU time of the process."""


def main() -> None:
    """Run the command."""
    command = parse(Overhead, "python -m benchmark.overhead", DESCRIPTION)
    guarded(lambda: execute(command))


def execute(command: Overhead) -> None:
    """Time the modes in turn, and print the table."""
    from rich.console import Console  # here, so that --help is quick
    from rich.table import Table

    for mode in command.modes:
        require(mode in MODES, "modes", mode, "among " + ", ".join(MODES))
    require(command.repeats >= 1, "repeats", command.repeats, "at least 1")
    require(command.seconds > 0, "seconds", command.seconds, "above 0")
    options = Options(device=command.device, threads=command.threads, wandb="disabled")
    epochs, costs = measure(command, options)
    table = Table("tracking", "wall", "more than without", "(min to max)", "CPU", "more than without", "n")
    for mode, of_mode in costs.items():
        cells = [mode]
        for clock in ("wall", "cpu"):
            more = shares(costs, mode, clock)
            cells += [f"{statistics.median(getattr(cost, clock) for cost in of_mode):.2f} s", percent(more)]
            if clock == "wall":
                cells.append(f"{min(more):+.1%} to {max(more):+.1%}")
        table.add_row(*cells, str(command.repeats))
    Console().print(f"{CONFIG.label}, {epochs} epochs, {options.device_name()}; medians, each against its neighbour")
    Console().print(table)
    if command.json:
        results = {mode: [dataclasses.asdict(cost) for cost in of_mode] for mode, of_mode in costs.items()}
        command.json.write_text(json.dumps({"epochs": epochs, "results": results}))


def measure(command: Overhead, options: Options) -> tuple[int, dict[str, list[Cost]]]:
    """The epochs that fill the time, and {mode: costs of its runs}; `disabled` is the first mode."""
    modes = dict.fromkeys(("disabled", *command.modes))
    pilot = in_new_process(partial(timed, dataclasses.replace(CONFIG, epochs=PILOT_EPOCHS), options))
    epochs = max(PILOT_EPOCHS, round(command.seconds / pilot.wall * PILOT_EPOCHS))
    config = dataclasses.replace(CONFIG, epochs=epochs)
    costs: dict[str, list[Cost]] = {mode: [] for mode in modes}
    for _ in range(command.repeats):
        for mode in modes:
            costs[mode].append(in_new_process(partial(timed, config, dataclasses.replace(options, wandb=mode))))
    return epochs, costs


def shares(costs: dict[str, list[Cost]], mode: str, clock: str) -> list[float]:
    """By how much of it the runs of a mode took longer than the runs without tracking before them."""
    pairs = zip(costs[mode], costs["disabled"], strict=True)
    return [getattr(cost, clock) / getattr(without, clock) - 1 for cost, without in pairs]


def percent(values: list[float]) -> str:
    """Their median."""
    return f"{statistics.median(values):+.1%}"


def in_new_process(job: Callable[[], Cost]) -> Cost:
    """What a job returns in a process that has imported nothing yet."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(job)


def timed(config: RunConfig, options: Options) -> Cost:
    """The cost of a run in a folder of its own."""
    options.prepare()
    from benchmark.run import run

    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        run(config, dataclasses.replace(options, runs=Path(folder)))
        return Cost(time.perf_counter() - start, time.process_time() - cpu)


if __name__ == "__main__":
    main()
