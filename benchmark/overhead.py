"""`python -m benchmark.overhead`: what tracking costs a run, measured against the same run without it."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from benchmark.cli import guarded, parse
from benchmark.config import RunConfig
from benchmark.errors import require
from benchmark.options import Options
from benchmark.track import MODES

DESCRIPTION = "Time runs on digits with and without tracking, in turn: the first run of a process, and a later one."
CONFIG = RunConfig(width=0.125, ratio=0.6, batch_size=64, score_samples=640, probe_samples=256)
SHORT_EPOCHS = 4


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
    """Seconds of two runs in a new process, each from the first line of `run` to its end."""

    first: float
    """A short one, in which wandb is imported and starts its service; torch is imported before."""
    later: float
    """The run that is asked for, as the worker of a sweep makes it."""


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
    table = Table("tracking", "run", "more than without", "(min to max)", "once per process", "n")
    for mode, of_mode in costs.items():
        more = [cost.later / without.later - 1 for cost, without in zip(of_mode, costs["disabled"], strict=True)]
        once = [cost.first - without.first for cost, without in zip(of_mode, costs["disabled"], strict=True)]
        table.add_row(
            mode, f"{median(cost.later for cost in of_mode):.2f} s", f"{median(more):+.1%}",
            f"{min(more):+.1%} to {max(more):+.1%}", f"{median(once):+.2f} s", str(command.repeats),
        )  # fmt: skip
    Console().print(f"{CONFIG.label}, {epochs} epochs, {options.device_name()}; medians, each against its neighbour")
    Console().print(table)
    if command.json:
        results = {mode: [dataclasses.asdict(cost) for cost in of_mode] for mode, of_mode in costs.items()}
        command.json.write_text(json.dumps({"epochs": epochs, "results": results}))


def measure(command: Overhead, options: Options) -> tuple[int, dict[str, list[Cost]]]:
    """The epochs that fill the time, and {mode: costs}; `disabled` is the first mode."""
    modes = dict.fromkeys(("disabled", *command.modes))
    short = dataclasses.replace(CONFIG, epochs=SHORT_EPOCHS)
    pilot = in_new_process(partial(timed, short, short, options))
    epochs = max(SHORT_EPOCHS, round(command.seconds / pilot.later * SHORT_EPOCHS))
    config = dataclasses.replace(CONFIG, epochs=epochs)
    costs: dict[str, list[Cost]] = {mode: [] for mode in modes}
    for _ in range(command.repeats):
        for mode in modes:
            costs[mode].append(in_new_process(partial(timed, short, config, dataclasses.replace(options, wandb=mode))))
    return epochs, costs


def in_new_process(job: Callable[[], Cost]) -> Cost:
    """What a job returns in a process that has imported nothing yet."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(job)


def timed(first: RunConfig, later: RunConfig, options: Options) -> Cost:
    """The cost of two runs, each in a folder of its own."""
    options.prepare()
    from benchmark.run import run

    def seconds(config: RunConfig) -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            run(config, dataclasses.replace(options, runs=Path(folder)))
            return time.perf_counter() - start

    return Cost(seconds(first), seconds(later))


if __name__ == "__main__":
    main()
